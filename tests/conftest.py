"""Every test runs on 8 CPU devices, with strict dtypes and ranks, and with shapes checked."""

import gc
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import pytest

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"

# Most of the time goes to compiling programs that run once. These flags save 40 % of all of it.
FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)


def xla_flags() -> str:
    """Returns the flags of fast compilation, or none if this version of XLA lacks one of them."""
    code = "import jax; jax.devices()"  # XLA ends a process that gives it an unknown flag
    environment = os.environ | {"XLA_FLAGS": FAST_COMPILATION, "JAX_PLATFORMS": "cpu"}
    known = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    return "" if known.returncode else FAST_COMPILATION


def pytest_configure(config):
    gc.set_threshold(100_000, 20, 100)  # JAX traces many objects, nearly all of them in use
    # Slow tests run what users compile; set XLA_FLAGS, be it to nothing, for the others to do so.
    # Workers inherit what is set here.
    if "XLA_FLAGS" not in os.environ:
        os.environ["XLA_FLAGS"] = xla_flags() if config.option.markexpr == "not slow" else ""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    assert jax.device_count() == 8  # starts the backend: the number is fixed from now on
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # Many tests compile the same programs, in all processes and in commands that they run. Where
    # JAX_COMPILATION_CACHE_DIR is set, they are kept there for the next time.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = tempfile.TemporaryDirectory(prefix="clickflax-tests-")
        config.add_cleanup(cache.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture
def optax_promotes():
    """Optax raises a float to the power of its step count: not strict about dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def shared_data():
    """`shared_data("ml-1m")` is the folder of that raw data set; the test skips without it."""

    def folder(name: str) -> pathlib.Path:
        path = DATA / name
        if not path.is_dir():
            pytest.skip(f"needs the raw data set {name} in {path}, which is not there")
        return path

    return folder


@pytest.fixture(scope="module")
def extension():
    """`extension("my_loss")` loads tests/extensions/my_loss.py, and what it registers is forgotten
    after the tests of the module: other tests run over everything that is registered.
    """
    # Imported here, after the checks of shapes are hooked onto the package.
    from clickflax.batch import Registry
    from clickflax.runtime.extensions import load_extension

    registries = [one for one in gc.get_objects() if isinstance(one, Registry)]
    before = [dict(one) for one in registries]

    def load(name: str):
        load_extension(pathlib.Path(__file__).parent / "extensions" / f"{name}.py")
        return sys.modules[name]

    yield load
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)
