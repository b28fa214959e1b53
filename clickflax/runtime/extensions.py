"""Extensions: Python files outside the package that register blocks, losses, tasks, ..."""

import importlib.util
import pathlib
import sys
from collections.abc import Sequence


def take_extensions(arguments: Sequence[str]) -> tuple[list[pathlib.Path], list[str]]:
    """The files of `--extension FILE` among arguments, and the other arguments.

    Raises ValueError if the last `--extension` names no file.
    """
    files, rest = [], []
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag != "--extension":
            rest.append(argument)
            continue
        file = value if equals else next(remaining, "")
        if not file:
            raise ValueError("--extension needs a file: --extension FILE.py.")
        files.append(pathlib.Path(file))
    return files, rest


def load_extension(path: pathlib.Path) -> None:
    """Runs a Python file, as a module of its name, so that what it registers is known."""
    if not path.is_file():
        raise FileNotFoundError(f"--extension={path} does not exist.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--extension={path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
