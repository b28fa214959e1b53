"""Collects the events of a source: checked, numbered and sorted columns on disk."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32

from clickflax.batch import NA, PAD
from clickflax.data.arrays import array_writer
from clickflax.preparation import index
from clickflax.preparation.engines.base import Engine
from clickflax.preparation.features import with_one_nan
from clickflax.preparation.index import Variables
from clickflax.preparation.locate import LISTED, BadRow
from clickflax.preparation.options import Options
from clickflax.preparation.sources.base import RawLog
from clickflax.preparation.times import find_time_format
from clickflax.preparation.tokens import find_fractions, null_if_missing


@dataclasses.dataclass(frozen=True)
class SortedEvents:
    """Events in their final order, on disk, with provisional ids and the tokens of these ids.

    `sequences` has the columns token, events, and split if the source comes split. `dropped` counts
    rows by reason, and `bad_rows` has the first that could not be read.
    """

    folder: pathlib.Path
    variables: Variables
    sequences: pa.Table
    tokens: Mapping[str, pa.ChunkedArray]
    read: int
    dropped: Mapping[str, int]
    bad_rows: tuple[BadRow, ...]
    time_format: str | None = None  # see `find_time_format`
    fractions: tuple[str, ...] = ()  # columns of text that were written as 10.0

    def with_log_path(self, copy: str, raw: str) -> "SortedEvents":
        """Returns the events with the path of a copied log replaced by that of the original."""
        rows = (dataclasses.replace(row, file=row.file.replace(copy, raw)) for row in self.bad_rows)
        return dataclasses.replace(self, bad_rows=tuple(rows))

    def column(self, name: str) -> np.ndarray:
        """Returns a column of the events, memory-mapped."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def collect_events(
    engine: Engine, log: RawLog, folder: pathlib.Path, options: Options
) -> SortedEvents:
    """Checks, numbers and sorts the events of a log, and writes their columns to a folder.

    Raises ValueError if the log is empty, or has a bad row and `--on-bad-rows` is error.
    """
    raw = null_if_missing(log.staged.events, options.missing)
    variables = index.find_variables(raw, log.numeric, log.several)
    _check_time_options(variables, options)
    time_format = find_time_format(engine, raw, options) if variables.has_time else None
    fractions = find_fractions(engine, raw, ("sequence", *variables.categorical))
    checked = index.check_events(engine, raw, variables, time_format or "", fractions)
    problems = index.problem_counts(engine, checked)
    good = problems.pop(None, 0)
    dropped = {**problems, "malformed line": log.staged.malformed}
    dropped = {reason: count for reason, count in sorted(dropped.items()) if count}
    read = good + sum(dropped.values())
    bad_rows = _first_bad_rows(engine, log, checked, dropped, options)
    if not read:
        raise ValueError("the log is empty: it has no events.")
    if not good:
        raise ValueError(f"none of the {read} rows is an event: {dropped}.")
    # A filter would make each pass parse every time again: skip it if no row has a problem.
    clean = checked.filter(checked["_problem"].isnull()) if problems else checked
    clean = clean.drop("_problem", "_value")
    sequences = index.index_sequences(engine, clean)
    tokens = {name: index.index_tokens(engine, clean, name) for name in variables.with_tokens}
    _write_sorted(engine, clean, variables, folder, good)
    return SortedEvents(
        folder, variables, sequences, tokens, read, dropped, bad_rows, time_format, fractions
    )


def _write_sorted(
    engine: Engine, clean: ibis.Table, variables: Variables, folder: pathlib.Path, events: int
) -> None:
    """Writes the sorted columns, a batch at a time."""
    types: dict[str, np.dtype] = dict.fromkeys(variables.with_tokens, np.dtype(np.int32))
    types |= dict.fromkeys(variables.numeric, np.dtype(np.float32))
    if variables.has_time:
        types["time"] = np.dtype(np.int64)
    widths = {name: index.max_values(engine, clean, name) for name in variables.several}
    shapes = {name: (events, widths[name]) if name in widths else (events,) for name in types}
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(array_writer(folder / f"{name}.npy", type, shapes[name]))
            for name, type in types.items()
        }
        for batch in index.sorted_events(engine, clean, variables):
            for name, append in writers.items():
                column = batch[name]
                if name in widths:
                    append(pad_id_lists(column, widths[name]))
                else:
                    append(with_one_nan(column).to_numpy(zero_copy_only=False))


def pad_id_lists(lists: pa.Array, width: int) -> Int32[np.ndarray, "E M"]:
    """Returns lists of ids as rows of an array, padded with PAD; an empty list begins with NA."""
    count = np.asarray(pc.call_function("list_value_length", [lists]).fill_null(0))
    ids = np.full((len(count), width), PAD, np.int32)
    ids[count == 0, 0] = NA
    flat = pc.call_function("list_flatten", [lists])
    ids[np.arange(width) < count[:, None]] = flat.to_numpy(zero_copy_only=False)
    return ids


def _check_time_options(variables: Variables, options: Options) -> None:
    """Raises ValueError if an option about times is set for a log without times."""
    for name in ("session_gap", "time_format", "time_zone"):
        if not variables.has_time and getattr(options, name) != getattr(Options, name):
            raise ValueError(
                f"--{name.replace('_', '-')} needs the time of events, but the log has only "
                f"{list(variables.names)}. Name its column with --columns time=COLUMN."
            )


def _first_bad_rows(
    engine: Engine,
    log: RawLog,
    checked: ibis.Table,
    dropped: Mapping[str, int],
    options: Options,
) -> tuple[BadRow, ...]:
    """Returns the first rows that cannot be read.

    Raises ValueError if `--on-bad-rows` is error and a row cannot be read.
    """
    reasons = [reason for reason in dropped if reason not in index.MISSING]
    if not reasons:
        return ()
    rows = list(log.staged.rejected)
    for problem in index.first_problems(engine, checked, reasons, LISTED):
        file, line = log.staged.locate(problem["_row"])
        rows.append(BadRow(file, line, problem["_value"], problem["_problem"]))
    rows = sorted(rows, key=lambda row: (row.file, row.line))[:LISTED]
    if options.on_bad_rows == "error":
        count = sum(dropped[reason] for reason in reasons)
        more = f", and {count - 1} more such rows" if count > 1 else ""
        raise ValueError(
            f"{rows[0]}{more}. Correct it, {_advice(rows[0].reason)}or skip such rows with "
            "--on-bad-rows=skip."
        )
    return tuple(rows)


def _advice(reason: str) -> str:
    """Returns what to do about a bad row besides correcting and skipping it."""
    if reason == index.TIME_DOES_NOT_PARSE:
        return "set the format of times with --time-format, "
    if reason.endswith(index.NOT_A_NUMBER):
        return "name a word for missing values with --missing, "
    return ""
