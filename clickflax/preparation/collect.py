"""From a source to sorted columns: every row is read, and each that is not kept is counted."""

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
from clickflax.data.manifest import array_writer
from clickflax.preparation import index
from clickflax.preparation.catalog import with_one_nan
from clickflax.preparation.engines.base import Engine
from clickflax.preparation.index import Variables
from clickflax.preparation.locate import LISTED, BadRow
from clickflax.preparation.options import Options
from clickflax.preparation.sources import Raw


@dataclasses.dataclass(frozen=True)
class Sorted:
    """Events in their order, on disk, with provisional ids; the tokens of these ids in memory."""

    folder: pathlib.Path
    variables: Variables
    sequences: pa.Table  # token, events, and part where there are two
    tokens: Mapping[str, pa.ChunkedArray]
    read: int
    dropped: Mapping[str, int]
    bad_rows: tuple[BadRow, ...]

    def told_of(self, found: str, raw: str) -> "Sorted":
        """The same, where the log is known by another path."""
        rows = (
            dataclasses.replace(row, file=row.file.replace(found, raw)) for row in self.bad_rows
        )
        return dataclasses.replace(self, bad_rows=tuple(rows))

    def column(self, name: str) -> np.ndarray:
        """A column of the events, mapped."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def collect(engine: Engine, raw: Raw, folder: pathlib.Path, options: Options) -> Sorted:
    """Checks, numbers and sorts the events of a source, and writes their columns to a folder."""
    kinds = index.variables(raw.staged.events, raw.numeric, raw.several)
    _check_time(kinds, options)
    checked = index.check(engine, raw.staged.events, kinds, options)
    problems = index.problem_counts(engine, checked)
    good = problems.pop(None, 0)
    dropped = {**problems, "malformed line": raw.staged.malformed}
    dropped = {reason: count for reason, count in sorted(dropped.items()) if count}
    read = good + sum(dropped.values())
    bad_rows = _bad_rows(engine, raw, checked, dropped, options)
    if not read:
        raise ValueError("there are no events: the log is empty.")
    if not good:
        raise ValueError(f"none of {read} rows is an event: {dropped}.")
    # without problems nothing is filtered: to look at them costs each pass a parse of every time
    clean = checked.filter(checked["_problem"].isnull()) if problems else checked
    clean = clean.drop("_problem", "_value")
    sequences = index.index_sequences(engine, clean)
    tokens = {name: index.index_tokens(engine, clean, name) for name in kinds.with_tokens}
    _write(engine, clean, kinds, folder, good)
    return Sorted(folder, kinds, sequences, tokens, read, dropped, bad_rows)


def _write(
    engine: Engine, clean: ibis.Table, kinds: Variables, folder: pathlib.Path, events: int
) -> None:
    """Writes the sorted columns, a batch at a time."""
    types = {
        **dict.fromkeys(kinds.with_tokens, np.dtype(np.int32)),
        **dict.fromkeys(kinds.numeric, np.dtype(np.float32)),
        **({"time": np.dtype(np.int64)} if kinds.time else {}),
    }
    widths = {name: index.most_values(engine, clean, name) for name in kinds.several}
    shapes = {name: (events, widths[name]) if name in widths else (events,) for name in types}
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(array_writer(folder / f"{name}.npy", type, shapes[name]))
            for name, type in types.items()
        }
        for batch in index.sorted_events(engine, clean, kinds):
            for name, append in writers.items():
                column = batch[name]
                if name in widths:
                    append(fill_up(column, widths[name]))
                else:
                    append(with_one_nan(column).to_numpy(zero_copy_only=False))


def fill_up(lists: pa.Array, width: int) -> Int32[np.ndarray, "E M"]:
    """Lists of ids side by side, filled up with PAD; where there is no id, NA goes first."""
    count = np.asarray(pc.call_function("list_value_length", [lists]).fill_null(0))
    ids = np.full((len(count), width), PAD, np.int32)
    ids[count == 0, 0] = NA
    flat = pc.call_function("list_flatten", [lists])
    ids[np.arange(width) < count[:, None]] = flat.to_numpy(zero_copy_only=False)
    return ids


def _check_time(kinds: Variables, options: Options) -> None:
    """Refuses options about time where there is none."""
    for name in ("session_gap", "time_format", "time_zone"):
        if not kinds.time and getattr(options, name) != getattr(Options, name):
            raise ValueError(
                f"--{name.replace('_', '-')} needs the time of events, and there is none among "
                f"{list(kinds.names)}. Name its column with --columns time=COLUMN."
            )


def _bad_rows(
    engine: Engine, raw: Raw, checked: ibis.Table, dropped: Mapping[str, int], options: Options
) -> tuple[BadRow, ...]:
    """The first rows that cannot be read; an error unless they are to be skipped."""
    reasons = [reason for reason in dropped if reason not in index.MISSING]
    if not reasons:
        return ()
    rows = list(raw.staged.rejected)
    for found in index.first_problems(engine, checked, reasons, LISTED):
        file, line = raw.staged.locate(found["_row"])
        rows.append(BadRow(file, line, found["_value"], found["_problem"]))
    rows = sorted(rows, key=lambda row: (row.file, row.line))[:LISTED]
    if options.on_bad_rows == "error":
        more = sum(dropped[reason] for reason in reasons) - 1
        raise ValueError(
            f"{rows[0]}" + (f", and {more} more such rows" if more else "") + ". "
            "Mend it, say how times are written with --time-format, or leave such rows out with "
            "--on-bad-rows=skip."
        )
    return tuple(rows)
