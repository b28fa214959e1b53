"""The arrows of who may import whom, read from the sources."""

import ast
import graphlib
import importlib
import pathlib
import subprocess
import sys

import pytest

import clickflax

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "clickflax"

# Who may import whom: each package those before it, so that no arrow runs back up.
LAYERS = (
    {"batch", "runtime"},
    {"data", "model"},
    {"tasks", "preparation", "simulation"},
    {"config"},
    {"run"},
    {"inference"},
    {"evaluation"},
    {"training", "baselines"},
    {"study"},
)
ARROWS = 60  # at most, between packages
# What a package may not import from outside: data/ is numpy, models know neither files nor flags.
NEVER = {
    "__init__": set(sys.stdlib_module_names) - {"importlib", "sys", "typing"} | {"jax", "numpy"},
    "cli": {"jax", "numpy", "ml_collections", "argparse"},
    "config": {"absl"},
    "batch": {"jax"},
    "data": {"jax", "jaxlib", "flax", "optax", "orbax", "absl", "ml_collections"},
    "preparation": {"jax", "jaxlib", "flax", "optax", "orbax", "absl", "ml_collections"},
    "simulation": {"jax", "jaxlib", "flax", "optax", "orbax", "absl", "ml_collections"},
    "baselines": {"jax", "flax", "optax", "orbax", "absl"},
    "model": {"os", "io", "pathlib", "json", "argparse", "absl", "ml_collections"},
    "tasks": {"os", "io", "pathlib", "json", "argparse", "absl", "ml_collections"},
    "runtime": {"absl.flags", "argparse"},
}


def imports(path: pathlib.Path) -> set[str]:
    """Every module that a file imports, wherever in it; `from a import b` counts as a.b and a."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by a relative name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def package_of(path: pathlib.Path) -> str:
    """The package a file is in: a folder of `clickflax/`, or a file that stands beside them."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def used_by(path: pathlib.Path) -> set[str]:
    """The packages of `clickflax/` that a file imports from, `__init__` for itself."""
    found = set()
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "clickflax":
            found.add(rest[0] if rest and rest[0] in PACKAGES else "__init__")
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = {package_of(path) for path in FILES}
LAYER = {package: i for i, layer in enumerate(LAYERS) for package in layer}


def test_the_package_has_thirteen_folders_and_three_files():
    assert len(LAYER) == 14  # the folders, and batch.py
    assert {*LAYER, "__init__", "cli"} == PACKAGES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_packages_of_earlier_layers(path):
    package = package_of(path)
    used = used_by(path) - {package}
    if package == "cli":
        assert used <= {"__init__", "runtime"}
    elif package == "__init__":
        assert not used
    else:
        # The version is all that anybody wants of clickflax itself.
        wrong = {one for one in used - {"__init__"} if LAYER[one] >= LAYER[package]}
        assert not wrong, f"clickflax/{package} may not import clickflax.{sorted(wrong)}"


def test_few_arrows_join_the_packages():
    arrows = {(package_of(path), used) for path in FILES for used in used_by(path)}
    arrows = {(one, other) for one, other in arrows if one != other}
    assert len(arrows) <= ARROWS, sorted(arrows)


def modules_of(package: str) -> dict[str, set[str]]:
    """The modules of a package, each with those of the same package that it imports."""
    paths = {
        ".".join(("clickflax", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in FILES
        if package_of(path) == package and path.name != "__init__.py"
    }
    return {
        name: {other for other in paths if other in imports(path)} for name, path in paths.items()
    }


@pytest.mark.parametrize("package", sorted(LAYER))
def test_no_modules_of_a_package_import_each_other_in_a_circle(package):
    modules = modules_of(package)
    assert set(graphlib.TopologicalSorter(modules).static_order()) == set(modules)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_leaves_alone_what_its_package_does_without(path):
    never = NEVER.get(package_of(path), set())
    parents = {
        ".".join(parts[: i + 1])
        for parts in (name.split(".") for name in imports(path))
        for i in range(len(parts))
    }
    assert not parents & never


def test_the_reader_of_imports_sees_a_wrong_arrow(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("def f():\n    import jax.numpy\n    from clickflax.model import heads\n")
    assert {"jax.numpy", "clickflax.model", "clickflax.model.heads"} == imports(path)
    assert used_by(path) == {"model"}


def run(code: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


RUNS_CODE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


@pytest.mark.parametrize("path", PACKAGE.rglob("*.py"), ids=lambda path: path.name)
def test_nothing_that_is_read_runs_code(path):
    """Except configs, studies and extensions, Python files that the command line names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            assert not RUNS_CODE & {name.split(".")[0] for name in names}
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            assert called not in ("eval", "exec")
            assert called != "run_path" or path.name == "default.py"
            for word in node.keywords:
                assert word.arg != "allow_pickle" or ast.unparse(word.value) == "False"


def test_importing_the_package_imports_no_jax_and_takes_no_time():
    code = """
import sys, time
begin = time.process_time()
import clickflax
print(time.process_time() - begin, *sys.modules)
"""
    seconds, *modules = run(code).split()
    assert not {"jax", "numpy", "ml_collections"} & set(modules)
    assert float(seconds) < 0.1


def test_the_help_of_the_command_line_imports_no_jax():
    code = """
import sys
from clickflax import cli
cli.main(["--help"])
print(*sys.modules)
"""
    modules = run(code).splitlines()[-1].split()
    assert not {"jax", "numpy", "ml_collections"} & set(modules)


def test_preparing_data_imports_no_jax():
    code = """
import sys
from clickflax.data import batches, store
from clickflax.preparation import main as prepare
from clickflax.simulation import main as simulate
from clickflax.data.splits import strategies
print(*sys.modules)
"""
    assert "jax" not in run(code).split()


def test_importing_train_registers_no_flag():
    code = """
from absl import flags
import clickflax.training.loop, clickflax.evaluation.main, clickflax.inference.recommend
print([name for name in flags.FLAGS.flags_by_module_dict() if "clickflax" in name])
"""
    assert run(code) == "[]"


@pytest.mark.parametrize("name", clickflax.PUBLIC)
def test_a_public_name_is_what_its_module_has(name):
    module, attribute = clickflax.PUBLIC[name]
    assert getattr(clickflax, name) is getattr(importlib.import_module(module), attribute)
    assert name in dir(clickflax)


def test_what_was_imported_of_0_1_0_works_or_says_where_it_is():
    from clickflax import recommend
    from clickflax.config import default

    assert callable(recommend.load) and callable(recommend.top_k)
    assert default().seed == 0
    for module, place in clickflax.MOVED.items():
        with pytest.raises(ModuleNotFoundError, match=f"import from {place}"):
            importlib.import_module(f"clickflax.{module}")
        importlib.import_module(place)


def test_an_unknown_name_is_answered_with_those_there_are():
    name = "trian"
    with pytest.raises(AttributeError, match="no attribute 'trian'; it offers .*'train'"):
        getattr(clickflax, name)
