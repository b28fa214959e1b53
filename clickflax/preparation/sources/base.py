"""The registry of sources, and the log that a source returns."""

import dataclasses
import pathlib
from collections.abc import Callable

import ibis
import numpy as np
import pyarrow as pa

from clickflax.batch import Registry
from clickflax.preparation.engines.base import Engine, Staged
from clickflax.preparation.locate import Location
from clickflax.preparation.options import Options


@dataclasses.dataclass(frozen=True)
class RawLog:
    """Events as a source reads them, with the features of items and sequences.

    The events have the columns `_row` (an integer that rises in the order of the log), `sequence`,
    `item`, `time` if the log has times, `_split` (0 train, 1 test) if the source comes split, and
    one column per further variable. Variables are categorical, except for those named in `numeric`
    and in `several`, whose values are lists of tokens. The first column of a feature table is
    `token`. `unused_columns` names the columns of the log that are not read. `form` says how the
    files were read, for the report.
    """

    staged: Staged
    numeric: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    item_features: pa.Table | None = None
    sequence_features: pa.Table | None = None
    unused_columns: tuple[str, ...] = ()
    form: str = ""


ReadSource = Callable[[Engine, pathlib.Path, Options], RawLog]


@dataclasses.dataclass(frozen=True)
class LogSource:
    """A source: its reader, a description of `--raw`, and the options that only some sources take.

    Any other option applies to every source.
    """

    read: ReadSource
    raw: str
    options: tuple[str, ...] = ()


SOURCES: Registry[LogSource] = Registry("source")


def register_source(
    name: str, raw: str, options: tuple[str, ...] = ()
) -> Callable[[ReadSource], ReadSource]:
    """Returns a decorator that registers a reader as the source `name` of `clickflax prepare`.

    `raw` describes the file or folder that `--raw` names; `clickflax prepare --help` shows it.
    `options` are the fields of `Options` that the source takes and other sources may not.
    """

    def register(read: ReadSource) -> ReadSource:
        SOURCES.register(name)(LogSource(read, raw, options))
        return read

    return register


def stage_events(engine: Engine, events: pa.Table, path: pathlib.Path) -> Staged:
    """Returns events in memory as rows of the engine.

    Error messages name the first row of the table as line 1 of `path`.
    """
    rows = events.append_column("_row", pa.array(np.arange(events.num_rows)))

    def locate(row: int) -> Location:
        return str(path), row + 1

    return Staged(engine.con.create_table("events", ibis.memtable(rows)), locate)
