"""The cache of compiled programs is used if it can be, and silently left out if not."""

import os
import subprocess
import sys

import pytest

from clickflax.runtime import compiled

PROGRAM = """
from clickflax.runtime.compiled import enable_compilation_cache
enable_compilation_cache()
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append("cache_hits" in event))
jax.jit(lambda x: jax.numpy.tanh(x @ x).sum())(jax.numpy.ones((8, 8))).block_until_ready()
print(sum(hits) > 0)
"""


@pytest.fixture
def environ(tmp_path, monkeypatch):
    """An environment of its own, with nothing in it but a cache folder."""
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    monkeypatch.setattr(os, "environ", environ)
    return environ


def start(environ):
    """Whether a fresh process found its program compiled, and what it said on standard error."""
    least = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environ | least, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "True", done.stderr


def test_the_second_start_compiles_nothing_and_a_broken_file_does_not_matter(environ, tmp_path):
    assert start(environ) == (False, "")
    programs = list((tmp_path / "cache").rglob("*-cache"))
    assert programs
    assert start(environ) == (True, "")
    for path in programs:
        path.write_bytes(path.read_bytes()[:50])
    assert start(environ) == (False, "")


def test_the_folder_is_for_its_owner_alone(environ):
    compiled.enable_compilation_cache()
    folder = environ["JAX_COMPILATION_CACHE_DIR"]
    assert folder.startswith(environ["XDG_CACHE_HOME"])
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_to_is_not_used(environ):
    folder = compiled.cache_folder()
    folder.chmod(0o777)
    assert compiled.cache_folder() is None


def test_what_the_environment_says_wins(environ, tmp_path):
    mine = {"JAX_COMPILATION_CACHE_DIR": "mine", "TF_CPP_MIN_LOG_LEVEL": "0"}
    environ.update(mine)
    compiled.enable_compilation_cache()
    assert mine.items() <= environ.items()
    assert not (tmp_path / "cache").exists()


def test_without_a_folder_that_can_be_made_there_is_no_cache(environ, tmp_path):
    (tmp_path / "cache").write_text("a file stands here")
    compiled.enable_compilation_cache()
    assert "JAX_COMPILATION_CACHE_DIR" not in environ


def test_the_oldest_programs_make_room(environ, monkeypatch):
    monkeypatch.setattr(compiled, "CACHE_PROGRAMS", 2)
    folder = compiled.cache_folder()
    for age, name in enumerate("abc"):
        (folder / f"{name}-cache").touch()
        os.utime(folder / f"{name}-cache", (1000 - age, 1000 - age))
    assert compiled.cache_folder() == folder
    assert sorted(path.name for path in folder.iterdir()) == ["a-cache", "b-cache"]
