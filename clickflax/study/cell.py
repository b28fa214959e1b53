"""One cell of a study, in a process of its own: `python -m clickflax.study.cell OUT NAME [CORES]`.

The process that trains is the one that holds the lock, so that a cell whose parent is gone is
still nobody else's, and one that was killed is free at once.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import traceback
from typing import Any

import filelock

from clickflax.evaluation.main import evaluate_run
from clickflax.evaluation.request import EvalRequest
from clickflax.runtime.errors import user_message
from clickflax.runtime.files import read_json, write_json
from clickflax.runtime.signals import Stopped
from clickflax.study.plan import Cell, Study, folder_of, read_plan
from clickflax.training.loop import train, write_item_projection

ANSWERED = "answered.json"  # what has been asked of a run, and answered
TAKEN = 75  # the exit status where another process has the cell (EX_TEMPFAIL)


def lock_of(out: pathlib.Path, cell: Cell) -> filelock.BaseFileLock:
    """What the process holds that runs a cell."""
    folder = out / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / cell.name, timeout=0)


def plain(study: Study) -> Any:
    """What a study asks, as JSON has it."""
    return json.loads(json.dumps(dict(study.asked)))


def is_done(out: pathlib.Path, study: Study, cell: Cell) -> bool:
    """Whether all that is asked of a cell has been answered."""
    path = folder_of(out, cell) / ANSWERED
    return path.is_file() and read_json(path) == plain(study)


def is_taken(out: pathlib.Path, cell: Cell) -> bool:
    """Whether a process runs the cell just now."""
    try:
        with lock_of(out, cell):
            return False
    except filelock.Timeout:
        return True


def run(out: pathlib.Path, study: Study, cell: Cell) -> None:
    """Trains and evaluates a cell, from where it stands."""
    folder = folder_of(out, cell)
    train(cell.load(), folder)
    write_item_projection(folder)
    for asked in study.asked.values():
        evaluate_run(folder, "test", EvalRequest.from_json(asked))
    write_json(folder / ANSWERED, plain(study))


def main(argv: list[str]) -> int:
    """Runs the cell of that name unless it is done, or being run; the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("name")
    parser.add_argument("cores", nargs="?", default="", help='of the CPU, such as 0,1; "": all')
    flags = parser.parse_args(argv)
    if flags.cores:
        os.sched_setaffinity(0, {int(core) for core in flags.cores.split(",")})
    study, cells = read_plan(flags.out)
    cell = next((cell for cell in cells if cell.name == flags.name), None)
    if cell is None:
        print(f"error: {flags.name} is no longer in the plan of {flags.out}", file=sys.stderr)
        return 1
    try:
        with lock_of(flags.out, cell):
            if not is_done(flags.out, study, cell):
                run(flags.out, study, cell)
    except filelock.Timeout:
        return TAKEN
    except Stopped as reason:
        print(reason, file=sys.stderr)
        return 128 + signal.SIGTERM
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("CLICKFLAX_TRACEBACK", "0") not in ("", "0"):
            raise
        print(f"error: {user_message(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:  # of the compiler, or of a device that is full
        traceback.print_exc()
        first = next(iter(str(error).splitlines()), "")
        print(f"error: {type(error).__name__}: {first}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
