"""One cell of a study in its own process: `python -m clickflax.study.cell OUT NAME [CORES]`.

The process that trains holds the lock of the cell. So no other process starts a cell whose parent
process has died, and the cell of a process that was killed is free at once.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import traceback
from typing import Any

from clickflax.data.remote import is_url
from clickflax.evaluation.main import evaluate_run
from clickflax.evaluation.request import EvalRequest
from clickflax.runtime.errors import user_message
from clickflax.runtime.files import read_json, write_json
from clickflax.runtime.lock import Locked, hold, is_held
from clickflax.runtime.signals import Stopped, leave, watch_signals
from clickflax.runtime.terminal import say
from clickflax.study.plan import Cell, Study, cell_folder, read_plan
from clickflax.training.loop import train, write_item_projection

FINISHED = "answered.json"  # file with the evaluations that a run has finished
LOCKED = 75  # exit status if another process runs the cell (EX_TEMPFAIL)


def cell_lock(out: pathlib.Path, cell: Cell) -> pathlib.Path:
    """The file whose lock the process of a cell holds."""
    return out / "locks" / cell.name


def evaluations_as_json(study: Study) -> Any:
    """The evaluations of a study, with lists for tuples."""
    return json.loads(json.dumps(dict(study.evaluations)))


def is_done(out: pathlib.Path, study: Study, cell: Cell) -> bool:
    """Whether a cell has finished all evaluations of the study."""
    path = cell_folder(out, cell) / FINISHED
    return path.is_file() and read_json(path, {str: {str: object}}) == evaluations_as_json(study)


def is_running(out: pathlib.Path, cell: Cell) -> bool:
    """Whether a process runs the cell now."""
    return is_held(cell_lock(out, cell))


def run_cell(out: pathlib.Path, study: Study, cell: Cell) -> None:
    """Trains a cell, or resumes its training, and evaluates it."""
    folder = cell_folder(out, cell)
    config = cell.load()
    train(config, folder)
    write_item_projection(folder)
    for settings in study.evaluations.values():
        request = EvalRequest.from_json(settings)
        if request.data is None and is_url(config.data.path):  # which the study names
            request = dataclasses.replace(request, data=config.data.path)
        evaluate_run(folder, "test", request)
    write_json(folder / FINISHED, evaluations_as_json(study))


def main(argv: list[str]) -> int:
    """Runs the named cell unless it is done or another process runs it; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("name")
    parser.add_argument("cores", nargs="?", default="", help='CPU cores, such as 0,1; "": all')
    flags = parser.parse_args(argv)
    if flags.cores:
        os.sched_setaffinity(0, {int(core) for core in flags.cores.split(",")})
    study, cells = read_plan(flags.out)
    cell = next((cell for cell in cells if cell.name == flags.name), None)
    if cell is None:
        say(f"error: {flags.name} is no longer in the plan of {flags.out}", error=True)
        return 1
    try:
        with (
            hold(cell_lock(flags.out, cell), f"the cell {cell.name}"),
            watch_signals(cell.name),
        ):
            return run_unless_done(flags.out, study, cell)
    except Locked:
        return LOCKED


def run_unless_done(out: pathlib.Path, study: Study, cell: Cell) -> int:
    """Runs a cell unless it is done; returns the exit status, after it has said what is wrong."""
    try:
        if not is_done(out, study, cell):
            run_cell(out, study, cell)
    except Stopped as reason:
        say(reason, error=True)
        return leave(reason.number)
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("CLICKFLAX_TRACEBACK", "0") not in ("", "0"):
            raise
        say(f"error: {user_message(error)}", error=True)
        return 1
    except RuntimeError as error:  # by the compiler, or by a device without memory
        traceback.print_exc()
        first = next(iter(str(error).splitlines()), "")
        say(f"error: {type(error).__name__}: {first}", error=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
