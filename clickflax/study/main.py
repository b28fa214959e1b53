"""`clickflax study`: many runs, and what they say together."""

import argparse
import pathlib
import signal
import sys

from clickflax.runtime.environment import checkout_state
from clickflax.runtime.signals import Stopped
from clickflax.study.plan import cells_of, load_study, read_plan, write_plan
from clickflax.study.results import results
from clickflax.study.runner import run_cells
from clickflax.study.table import WRITERS, read_tables


def refuse_dirty(allowed: bool) -> None:
    """A study is of a commit: what stands beside it cannot be told from its records."""
    if checkout_state()["dirty"] and not allowed:
        raise ValueError(
            "the checkout has changes that are not committed, so that no commit has what would be "
            "run: commit them, or run with --allow-dirty, which the records then say."
        )


def run(flags: argparse.Namespace) -> int:
    """`clickflax study run FILE --out DIR`."""
    if flags.workers < 1:
        raise ValueError(f"--workers={flags.workers}: there must be one or more.")
    refuse_dirty(flags.allow_dirty)
    study = load_study(flags.file)
    cells = cells_of(study)
    write_plan(flags.out, study, cells)
    board = run_cells(flags.out, read_plan(flags.out)[0], cells, flags.workers)
    states = list(board.state.values())
    for cell in cells:
        if board.state[cell] == "failed":
            print(f"{cell.name}: {board.words[cell]}", file=sys.stderr)
    print(f"{board.count()}; `clickflax study table {flags.out}` shows what is there")
    if board.ended_by == signal.SIGINT:
        raise KeyboardInterrupt
    if board.ended_by:
        raise Stopped("ended by SIGTERM; the same command goes on from there")
    return 1 if "failed" in states else 0


def table(flags: argparse.Namespace) -> int:
    """`clickflax study table DIR`, or a file that was made of it with `--format json`."""
    if flags.out.is_file():
        told = read_tables(flags.out)
    else:
        study, cells = read_plan(flags.out)
        told = results(flags.out, study, cells), study.metrics, study.baseline
    print(WRITERS[flags.format](*told))
    return 0


def main(argv: list[str]) -> int:
    """`clickflax study run FILE --out DIR` or `clickflax study table DIR`; the exit status."""
    parser = argparse.ArgumentParser(prog="clickflax study", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="run|table")
    runs = verbs.add_parser("run", help="train and evaluate what is not there yet")
    runs.add_argument("file", type=pathlib.Path, help="a file with get_study()")
    runs.add_argument("--out", type=pathlib.Path, required=True, help="the folder of the study")
    runs.add_argument("--workers", type=int, default=1, help="cells at once")
    runs.add_argument("--allow-dirty", action="store_true", help="with changes not committed")
    runs.set_defaults(verb=run)
    shows = verbs.add_parser("table", help="means over seeds, differences over users")
    shows.add_argument(
        "out", type=pathlib.Path, metavar="DIR", help="a study, or its table as JSON"
    )
    shows.add_argument("--format", choices=list(WRITERS), default="md")
    shows.set_defaults(verb=table)
    flags = parser.parse_args(argv)
    return flags.verb(flags)
