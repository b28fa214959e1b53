"""Limits of the code: lines and parameters of functions, shared names, comparisons with tasks."""

import ast
import collections
import functools
import pathlib
from collections.abc import Iterator

import pytest

from clickflax.tasks.find import TASKS

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "clickflax"
FILES = sorted(PACKAGE.rglob("*.py"))

MOST_LINES = 60  # of a function
MOST_PARAMETERS = 8  # of a function, without self and cls
MOST_SHARED_NAMES = 14  # public names that several modules define, such as `main`
MOST_TEST_NAME = 79  # letters
# All knobs in one list, each with its comment.
LONG_FUNCTIONS = {"config/default.py:default"}

TASK_NAMES = {name for name in TASKS if not name.endswith("*")}
TASK_PREFIXES = tuple(name.removesuffix("*") for name in TASKS if name.endswith("*"))
EQUALITY = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)  # sets of columns may have the name of a task


@functools.cache
def module_tree(path: pathlib.Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def short_name(path: pathlib.Path) -> str:
    """The path inside the package, or the name of a file outside it."""
    return str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else path.name


def functions(path: pathlib.Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a file, nested ones included."""
    for node in ast.walk(module_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def long_functions(path: pathlib.Path) -> list[str]:
    """A problem for each function of a file with too many lines."""
    problems = []
    for node in functions(path):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        name = f"{short_name(path)}:{node.name}"
        if lines > MOST_LINES and name not in LONG_FUNCTIONS:
            problems.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")
    return problems


def crowded_functions(path: pathlib.Path) -> list[str]:
    """A problem for each function of a file with too many parameters."""
    problems = []
    for node in functions(path):
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        rest = [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        names = [one.arg for one in (*named, *rest) if one.arg not in ("self", "cls")]
        if len(names) > MOST_PARAMETERS:
            problems.append(f"{path}:{node.lineno}: {node.name} has {len(names)} parameters")
    return problems


def public_names(path: pathlib.Path) -> dict[str, int]:
    """Public functions, classes and constants that a module defines, with their lines."""
    names = {}
    for node in module_tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[node.name] = node.lineno
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id: node.lineno for one in targets if isinstance(one, ast.Name)}
    return {name: line for name, line in names.items() if not name.startswith("_")}


def shared_names(paths: list[pathlib.Path]) -> dict[str, list[str]]:
    """Public names that two or more modules define, with the places of their definitions."""
    places = collections.defaultdict(list)
    for path in paths:
        for name, line in public_names(path).items():
            places[name].append(f"{path}:{line}")
    return {name: several for name, several in sorted(places.items()) if len(several) > 1}


def is_task_name(node: ast.expr) -> bool:
    """Whether an expression is a literal name of a task, or a literal list that has one."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(is_task_name(one) for one in node.elts)
    value = node.value if isinstance(node, ast.Constant) else None
    if not isinstance(value, str):
        return False
    return value in TASK_NAMES or value.startswith(TASK_PREFIXES)


def task_comparisons(path: pathlib.Path) -> list[str]:
    """A problem for each comparison of a file with the name of a task."""
    problems = []
    for node in ast.walk(module_tree(path)):
        compared = []
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], EQUALITY):
            compared = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            tests = ("startswith", "endswith", "removeprefix", "removesuffix")
            compared = node.args if node.func.attr in tests else []
        elif isinstance(node, ast.MatchValue):
            compared = [node.value]
        if any(is_task_name(one) for one in compared):
            line = getattr(node, "lineno", 0)
            problems.append(f"{path}:{line}: {ast.unparse(node)} compares the name of a task")
    return problems


def long_test_names(path: pathlib.Path) -> list[str]:
    """A problem for each test of a file with too long a name."""
    return [
        f"{path}:{node.lineno}: {node.name} has {len(node.name)} letters"
        for node in functions(path)
        if node.name.startswith("test_") and len(node.name) > MOST_TEST_NAME
    ]


def problems_in(check, paths: list[pathlib.Path]) -> str:
    """The problems that a check finds in some files, one a line."""
    return "\n".join(problem for path in paths for problem in check(path))


def test_functions_are_short():
    problems = problems_in(long_functions, FILES)
    assert not problems, f"more than {MOST_LINES} lines:\n{problems}"


def test_functions_have_few_parameters():
    problems = problems_in(crowded_functions, FILES)
    assert not problems, f"more than {MOST_PARAMETERS} parameters:\n{problems}"


def test_few_public_names_are_defined_in_several_modules():
    shared = shared_names(FILES)
    listed = "\n".join(f"{name}: {', '.join(places)}" for name, places in shared.items())
    count = (
        f"{len(shared)} names are defined in several modules, at most {MOST_SHARED_NAMES} may be"
    )
    assert len(shared) <= MOST_SHARED_NAMES, f"{count}:\n{listed}"


def test_nothing_outside_tasks_compares_the_name_of_a_task():
    outside = [path for path in FILES if PACKAGE / "tasks" not in path.parents]
    problems = problems_in(task_comparisons, outside)
    assert not problems, f"ask the record of the task (`clickflax.tasks.task.Task`):\n{problems}"


def test_names_of_tests_can_be_read_at_a_glance():
    problems = problems_in(long_test_names, sorted(pathlib.Path(__file__).parent.rglob("*.py")))
    assert not problems, f"more than {MOST_TEST_NAME} letters:\n{problems}"


LONG = "def f():\n" + "    x = 1\n" * MOST_LINES
CROWDED = "class A:\n    def f(self, a, b, c, d, *e, g, h, i, **j): ...\n"


@pytest.mark.parametrize(
    ("check", "text", "expected"),
    [
        (long_functions, LONG, "a.py:1: f has 61 lines"),
        (crowded_functions, CROWDED, "a.py:2: f has 9 parameters"),
        (task_comparisons, "if name == 'purchase': pass", "a.py:1: name == 'purchase' "),
        (task_comparisons, "\nname in ('a', 'returns')", "a.py:2: name in ('a', 'returns') "),
        (task_comparisons, "name != 'next_item'", "a.py:1: name != 'next_item' "),
        (task_comparisons, "name.startswith(('next_', 'x'))", "a.py:1: name.startswith(('next_'"),
        (task_comparisons, "match name:\n    case 'basket': ...", "compares the name of a task"),
        (long_test_names, f"def test_{'a' * 75}(): ...", "has 80 letters"),
    ],
)
def test_a_check_names_the_file_the_line_and_the_value(tmp_path, check, text, expected):
    (tmp_path / "a.py").write_text(text)
    assert expected in problems_in(check, [tmp_path / "a.py"])


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (long_functions, LONG.removesuffix("    x = 1\n")),
        (crowded_functions, "class A:\n    def f(self, a, b, c, d, *e, g, h, i): ...\n"),
        (task_comparisons, "kind == 'binary' or name.startswith('next.')"),
        (task_comparisons, "{'sequence', 'label'} <= columns"),
        (long_test_names, f"def test_{'a' * 74}(): ..."),
    ],
)
def test_a_check_accepts_what_is_just_allowed(tmp_path, check, text):
    (tmp_path / "a.py").write_text(text)
    assert not problems_in(check, [tmp_path / "a.py"])


def test_shared_names_are_listed_with_their_places(tmp_path):
    (tmp_path / "a.py").write_text("import os\nA = B = 1\ndef f(): ...\nC: int = 2\n_d = 1\n")
    (tmp_path / "b.py").write_text("_d = 2\nclass f: ...\nC = 3\n")
    a, b = tmp_path / "a.py", tmp_path / "b.py"
    assert shared_names([a, b]) == {"C": [f"{a}:4", f"{b}:3"], "f": [f"{a}:3", f"{b}:2"]}
