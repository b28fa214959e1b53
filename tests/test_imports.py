"""The arrows of who may import whom, read from the sources."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "clickflax"

NOUNS = {"events", "data", "model", "tasks", "runtime", "config"}
# What each room may import of the package beside itself; "" is clickflax/__init__.py.
MAY_IMPORT = {
    "": set(),
    "events": set(),
    "config": set(),
    "flags": {"config"},
    "protocols": set(),
    "variants": {"config"},
    "data": {"events"},
    "model": {"events"},
    "runtime": {""},
    "tasks": {"events", "model"},
    "build": NOUNS,
    "tables": NOUNS,
    "run": NOUNS | {"build", "tables"},
    "asker": NOUNS | {"tables"},
    "questions": NOUNS,
    "label_checks": NOUNS,
    "checks": NOUNS | {"label_checks"},
    "weights": NOUNS | {"questions"},
    "cold": NOUNS,
    "objectives": NOUNS | {"questions", "step"},
    "judge": NOUNS | {"asker", "questions"},
    "record": NOUNS | {"questions"},
    "listing": NOUNS | {"asker", "questions", "judge", "record", "run"},
    "evaluate": NOUNS
    | {*("checks", "flags", "run", "asker", "questions", "judge", "listing", "record", "tables")},
    "step": NOUNS | {"tables"},
    "transfer": NOUNS | {"run"},
    "reading": NOUNS | {"build", "run", "questions", "cold", "transfer"},
    "feed": NOUNS | {"step", "tables"},
    "setup": NOUNS
    | {*("checks", "run", "asker", "questions", "objectives", "judge", "step", "feed")}
    | {"build", "reading", "transfer", "weights", "cold", "tables"},
    "train": NOUNS | {"flags", "run", "record", "step", "setup", "tables"},
    "recommend": NOUNS | {"checks", "run", "asker", "questions", "tables"},
    "baselines": NOUNS | {"flags", "checks", "questions", "judge", "record", "run"},
    "study": NOUNS | {"checks", "run", "train", "evaluate", "listing", "record"},
    "cli": {"", "runtime"},
}
# What a room may not import from outside: data/ is numpy, models know neither files nor flags.
NEVER = {
    "": set(sys.stdlib_module_names) | {"jax", "numpy"},
    "cli": {"jax", "numpy", "ml_collections", "argparse"},
    "config": {"jax", "absl", "argparse"},
    "events": {"jax"},
    "data": {"jax", "jaxlib", "flax", "optax", "orbax", "absl", "ml_collections"},
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
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: pathlib.Path) -> str:
    """The room a file is in: a folder of the package, or a file that stands beside them."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def rooms_used(path: pathlib.Path) -> set[str]:
    """The rooms of the package that a file imports from."""
    rooms = {child.name.removesuffix(".py") for child in PACKAGE.iterdir()}
    used = set()
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "clickflax":
            room = rest.partition(".")[0]
            used.add(room if room in rooms else "")
    return used


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_rooms_above_its_own(path):
    room = room_of(path)
    assert room in MAY_IMPORT, f"say in MAY_IMPORT what clickflax/{room} may import"
    wrong = rooms_used(path) - MAY_IMPORT[room] - {room}
    assert not wrong, f"clickflax/{room} may not import clickflax.{sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_leaves_alone_what_its_room_does_without(path):
    never = NEVER.get(room_of(path), set())
    parents = {
        ".".join(parts[: i + 1])
        for parts in (name.split(".") for name in imports(path))
        for i in range(len(parts))
    }
    assert not parents & never


def test_the_reader_of_imports_sees_a_wrong_arrow(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("def f():\n    import jax.numpy\n    from clickflax.model import heads\n")
    assert imports(path) == {"jax.numpy", "clickflax.model.heads"}
    assert rooms_used(path) == {"model"}


def run(code: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


RUNS_CODE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


@pytest.mark.parametrize("path", PACKAGE.rglob("*.py"), ids=lambda path: path.name)
def test_nothing_that_is_read_runs_code(path):
    """But for configs and studies, which are Python files that the command line names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            assert not RUNS_CODE & {name.split(".")[0] for name in names}
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            assert called not in ("eval", "exec")
            assert called != "run_path" or path.name == "config.py"
            for word in node.keywords:
                assert word.arg != "allow_pickle" or ast.unparse(word.value) == "False"


def test_importing_the_package_imports_no_jax_and_takes_no_time():
    code = """
import sys, time
begin = time.perf_counter()
import clickflax
print(time.perf_counter() - begin, *sys.modules)
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
from clickflax.data import batches, prepare, simulate, split, store
print(*sys.modules)
"""
    assert "jax" not in run(code).split()


def test_importing_train_registers_no_flag():
    code = """
from absl import flags
import clickflax.train, clickflax.evaluate, clickflax.recommend
print([name for name in flags.FLAGS.flags_by_module_dict() if "clickflax" in name])
"""
    assert run(code) == "[]"
