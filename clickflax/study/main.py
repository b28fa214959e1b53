"""`clickflax study`: trains, evaluates and compares many runs."""

import argparse
import pathlib

from clickflax.runtime.environment import checkout_state
from clickflax.runtime.signals import Stopped, name_of
from clickflax.runtime.terminal import say
from clickflax.study.plan import cells_of, load_study, read_plan, write_plan
from clickflax.study.results import make_tables
from clickflax.study.runner import run_cells
from clickflax.study.table import WRITERS, read_tables


def check_checkout(allow_dirty: bool) -> None:
    """Raises ValueError for uncommitted changes, which the records of a study could not name."""
    if checkout_state()["dirty"] and not allow_dirty:
        raise ValueError(
            "the checkout has uncommitted changes, so that no commit identifies the code of the "
            "study: commit them, or use --allow-dirty, which the records then state."
        )


def run_study(flags: argparse.Namespace) -> int:
    """Runs `clickflax study run FILE --out DIR` and returns the exit status."""
    if flags.workers < 1:
        raise ValueError(f"--workers={flags.workers} must be at least 1.")
    check_checkout(flags.allow_dirty)
    study = load_study(flags.file)
    cells = cells_of(study)
    write_plan(flags.out, study, cells)
    progress = run_cells(flags.out, read_plan(flags.out)[0], cells, flags.workers)
    for cell in cells:
        if progress.state[cell] == "failed":
            say(f"{cell.name}: {progress.reason[cell]}", error=True)
    say(f"{progress.counts()}; see `clickflax study table {flags.out}`")
    if progress.stopped_by:
        name = name_of(progress.stopped_by)
        raise Stopped(f"ended by {name}; the same command goes on", progress.stopped_by)
    return 1 if "failed" in progress.state.values() else 0


def print_tables(flags: argparse.Namespace) -> int:
    """Runs `clickflax study table DIR`; instead of DIR, it takes the tables as a JSON file, too."""
    if flags.out.is_file():
        tables = read_tables(flags.out)
    else:
        study, cells = read_plan(flags.out)
        tables = make_tables(flags.out, study, cells), study.metrics, study.baseline
    say(WRITERS[flags.format](*tables))
    return 0


def main(argv: list[str]) -> int:
    """Runs `clickflax study run` or `clickflax study table` and returns the exit status."""
    parser = argparse.ArgumentParser(prog="clickflax study", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="run|table")
    runs = verbs.add_parser("run", help="train and evaluate all runs that are not finished")
    runs.add_argument("file", type=pathlib.Path, help="a Python file with get_study()")
    runs.add_argument("--out", type=pathlib.Path, required=True, help="the folder of the study")
    runs.add_argument("--workers", type=int, default=1, help="number of runs at the same time")
    runs.add_argument("--allow-dirty", action="store_true", help="accept uncommitted changes")
    runs.set_defaults(verb=run_study)
    shows = verbs.add_parser("table", help="print means over seeds and differences over users")
    shows.add_argument(
        "out", type=pathlib.Path, metavar="DIR", help="a study, or its tables as a JSON file"
    )
    shows.add_argument("--format", choices=list(WRITERS), default="md")
    shows.set_defaults(verb=print_tables)
    flags = parser.parse_args(argv)
    return flags.verb(flags)
