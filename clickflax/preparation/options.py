"""What can be asked of `clickflax prepare`: every option once, with its default and its flag."""

import argparse
import dataclasses
import os
import pathlib
import re
from typing import Any

from clickflax.data.durations import parse_gap

ENGINES = ("duckdb", "pyspark")
KINDS = ("categorical", "numeric", "several")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Column:
    """Where a variable is read from, and how; kind None leaves that to the type of the column."""

    name: str
    source: str
    kind: str | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """How a log is read, cleaned and filtered; the defaults keep every event."""

    columns: tuple[Column, ...] = ()
    delimiter: str | None = None
    quote: str = '"'
    header: bool = True
    separator: str = "|"
    items: pathlib.Path | None = None
    attributes: pathlib.Path | None = None
    test: pathlib.Path | None = None
    time_format: str = "auto"
    time_zone: str = "UTC"
    on_bad_rows: str = "error"
    session_gap: int | None = None  # microseconds
    repeats: str = "keep"
    k_core: int = 1
    min_count: int = 1
    min_length: int = 1
    max_length: int | None = None
    engine: str = "duckdb"
    memory: str = "2GB"
    threads: int = os.cpu_count() or 1

    def __post_init__(self) -> None:
        for name in ("k_core", "min_count", "min_length", "max_length", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')}={value} must be at least 1.")
        for name in ("items", "attributes", "test"):
            if re.match(r"\w+:/", str(getattr(self, name))):
                raise ValueError(f"--{name} must be on this machine: copy it here first.")
        if self.engine not in ENGINES and "://" not in self.engine:
            raise ValueError(f"--engine={self.engine} is not one of {list(ENGINES)}, nor a URL.")
        if len(self.quote) != 1 and self.quote != "none":
            raise ValueError(f"--quote={self.quote} is neither one character nor none.")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ValueError(f"--delimiter={self.delimiter!r} is not one character.")
        if not self.separator:
            raise ValueError("--separator is empty: name what stands between values, such as |.")
        if self.max_length is not None and self.max_length < self.shortest:
            raise ValueError(
                f"--max-length={self.max_length} is below the shortest length asked for, "
                f"{self.shortest}: no sequence would be left."
            )

    @property
    def shortest(self) -> int:
        """Events that a sequence needs to be kept."""
        return max(self.k_core, self.min_length)

    @property
    def rarest(self) -> int:
        """Events that an item needs to be kept."""
        return max(self.k_core, self.min_count)

    def kind(self, name: str) -> str | None:
        """The kind that `--columns` gives a variable, None where it gives none."""
        return next((column.kind for column in self.columns if column.name == name), None)


def parse_columns(text: str) -> tuple[Column, ...]:
    """`sequence=user,time=timestamp,item=product,price=price:numeric` as columns."""
    columns = []
    for part in text.split(","):
        name, equals, source = (piece.strip() for piece in part.partition("="))
        if not equals or not source or not NAME.fullmatch(name):
            raise ValueError(
                f"--columns: {part!r} is not NAME=COLUMN. Write "
                "--columns sequence=user,time=timestamp,item=product,price=price:numeric"
            )
        head, _, kind = source.rpartition(":")
        columns.append(Column(name, head, kind) if kind in KINDS else Column(name, source))
    names = [column.name for column in columns]
    small = [name.lower() for name in names]  # the engine takes Item and item for one name
    for name in names:
        if small.count(name.lower()) > 1:
            raise ValueError(f"--columns: {name} is given twice (upper and lower case are one).")
    for name in ("sequence", "item"):
        if name not in names:
            raise ValueError(f"--columns needs {name}=COLUMN; it has only {names}.")
    for column in columns:
        if column.name in ("sequence", "item", "time") and column.kind is not None:
            raise ValueError(f"--columns: {column.name} takes no kind such as :{column.kind}.")
    return tuple(columns)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of all options, with the defaults that stand above."""
    read = parser.add_argument_group("reading")
    read.add_argument(
        "--columns",
        metavar="NAME=COLUMN,...",
        help="source `log` (and `recbole`): which columns are the sequence, the item, the time and "
        "further variables; `:numeric`, `:categorical` or `:several` (values at once, such as "
        "tags) after a column says its kind (otherwise columns of fractions in Parquet are "
        "numeric, those of lists several, all others categorical)",
    )
    read.add_argument(
        "--delimiter", help=r"of text, such as ; or \t; found in the first line when not given"
    )
    read.add_argument(
        "--quote", default=Options.quote, help='of text (default "), or none: quotes are characters'
    )
    read.add_argument(
        "--no-header", action="store_true", help="text has no header: columns are 1, 2, 3, ..."
    )
    read.add_argument(
        "--separator",
        default=Options.separator,
        help="between the values of a text that has several (default |)",
    )
    read.add_argument(
        "--items",
        type=pathlib.Path,
        metavar="FILE",
        help="source `log`: a table with the log's item column and features such as title, genres",
    )
    read.add_argument(
        "--attributes",
        type=pathlib.Path,
        metavar="FILE",
        help="source `sequences`: JSON of item -> attributes",
    )
    read.add_argument(
        "--test", type=pathlib.Path, metavar="FILE", help="source `sessions`: the test file"
    )
    read.add_argument(
        "--time-format",
        default=Options.time_format,
        help="auto (default), s, ms, us or ns since 1970, iso, or a pattern such as %%Y%%m%%d",
    )
    read.add_argument(
        "--time-zone",
        default=Options.time_zone,
        help="of times that name none, such as Europe/Berlin (default UTC)",
    )
    read.add_argument(
        "--on-bad-rows",
        choices=("error", "skip"),
        default=Options.on_bad_rows,
        help="stop at rows that cannot be read (default), or skip, count and list them",
    )
    keep = parser.add_argument_group("filtering, repeated until nothing changes")
    keep.add_argument(
        "--session-gap", metavar="30m", help="a pause longer than this begins a new sequence"
    )
    keep.add_argument(
        "--repeats",
        choices=("keep", "merge"),
        default=Options.repeats,
        help="keep (default), or merge events that repeat the item and all categorical variables "
        "of the event before them",
    )
    keep.add_argument("--k-core", type=int, default=1, metavar="N", help="both of the next two")
    keep.add_argument("--min-count", type=int, default=1, metavar="N", help="events of an item")
    keep.add_argument("--min-length", type=int, default=1, metavar="N", help="events of a sequence")
    keep.add_argument("--max-length", type=int, metavar="N", help="keep the last N events")
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine",
        default=Options.engine,
        metavar="duckdb|pyspark|URL",
        help="duckdb (default), on this machine; pyspark, on the cluster that Spark is set up for, "
        "otherwise on this machine; or where Ibis finds the table --raw, such as "
        "postgres://user@host/shop, which is read from there and prepared here",
    )
    engine.add_argument(
        "--memory",
        default=Options.memory,
        help=f"of the engine on this machine (default {Options.memory})",
    )
    engine.add_argument(
        "--threads",
        type=int,
        default=Options.threads,
        help="of the engine on this machine (default: all cores)",
    )


def from_flags(flags: argparse.Namespace) -> Options:
    """The options that parsed flags stand for."""
    names = [field.name for field in dataclasses.fields(Options)]
    values: dict[str, Any] = {name: getattr(flags, name) for name in names if name != "header"}
    values["columns"] = parse_columns(flags.columns) if flags.columns else ()
    if flags.session_gap is not None:
        values["session_gap"] = parse_gap("--session-gap", flags.session_gap)
    values["delimiter"] = "\t" if flags.delimiter == r"\t" else flags.delimiter
    values["header"] = not flags.no_header
    return Options(**values)
