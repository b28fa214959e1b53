"""Options of `clickflax prepare`: each with its default and its flag."""

import argparse
import dataclasses
import os
import pathlib
import re
from typing import Any

from clickflax.data.durations import parse_gap

ENGINES = ("duckdb", "pyspark")
COLUMN_KINDS = ("categorical", "numeric", "several")
VARIABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class ColumnOption:
    """A variable and the column it is read from; with kind None, the column's type decides."""

    name: str
    source: str
    kind: str | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """How a log is read, cleaned and filtered; the defaults keep every event."""

    columns: tuple[ColumnOption, ...] = ()
    delimiter: str | None = None
    quote: str = '"'
    header: bool = True
    separator: str = "|"
    missing: tuple[str, ...] = ()
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
                raise ValueError(
                    f"--{name}={getattr(self, name)} must be a local file: copy it to this machine."
                )
        if self.engine not in ENGINES and "://" not in self.engine:
            raise ValueError(f"--engine={self.engine} is not one of {list(ENGINES)}, nor a URL.")
        if len(self.quote) != 1 and self.quote != "none":
            raise ValueError(f"--quote={self.quote} is neither one character nor none.")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ValueError(f"--delimiter={self.delimiter!r} is not one character.")
        if self.delimiter is not None and self.delimiter in ("\n", "\r", self.quote):
            raise ValueError(f"--delimiter={self.delimiter!r} ends lines, or is the --quote.")
        if self.quote in ("\n", "\r"):
            raise ValueError(f"--quote={self.quote!r} ends lines.")
        if not self.separator:
            raise ValueError("--separator is empty: name the text between values, such as |.")
        if self.max_length is not None and self.max_length < self.min_sequence_events:
            raise ValueError(
                f"--max-length={self.max_length} is below the minimum length "
                f"{self.min_sequence_events} of --k-core and --min-length: no sequence would be "
                "left."
            )

    @property
    def min_sequence_events(self) -> int:
        """Number of events below which a sequence is dropped."""
        return max(self.k_core, self.min_length)

    @property
    def min_item_events(self) -> int:
        """Number of events below which an item is dropped."""
        return max(self.k_core, self.min_count)

    def kind(self, name: str) -> str | None:
        """Returns the kind that `--columns` sets for a variable, or None."""
        return next((column.kind for column in self.columns if column.name == name), None)


def parse_columns(text: str) -> tuple[ColumnOption, ...]:
    """Parses `sequence=user,time=timestamp,item=product,price=price:numeric`."""
    columns = []
    for entry in text.split(","):
        name, equals, source = (piece.strip() for piece in entry.partition("="))
        if not equals or not source or not VARIABLE_NAME.fullmatch(name):
            raise ValueError(
                f"--columns: {entry!r} is not NAME=COLUMN. Write "
                "--columns sequence=user,time=timestamp,item=product,price=price:numeric"
            )
        head, _, kind = source.rpartition(":")
        if kind in COLUMN_KINDS:
            columns.append(ColumnOption(name, head, kind))
        else:
            columns.append(ColumnOption(name, source))
    names = [column.name for column in columns]
    lowercase = [name.lower() for name in names]  # engines do not distinguish Item and item
    for name in names:
        if lowercase.count(name.lower()) > 1:
            raise ValueError(f"--columns: {name} appears twice (upper and lower case are equal).")
    for name in ("sequence", "item"):
        if name not in names:
            raise ValueError(f"--columns needs {name}=COLUMN; it has only {names}.")
    for column in columns:
        if column.name in ("sequence", "item", "time") and column.kind is not None:
            raise ValueError(f"--columns: {column.name} takes no kind such as :{column.kind}.")
    return tuple(columns)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of all options, with their defaults."""
    _add_column_flags(parser)
    _add_format_flags(parser)
    _add_filter_flags(parser)
    _add_engine_flags(parser)


def _add_column_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("columns and files")
    group.add_argument(
        "--columns",
        metavar="NAME=COLUMN,...",
        help="sources `log` and `recbole`: the columns of the sequence, the item, the time and any "
        "further variables; `:numeric`, `:categorical` or `:several` (several values per event, "
        "such as tags) after a column sets its kind (default: by the type of a Parquet column, "
        "fractions are numeric and lists are several; everything else is categorical)",
    )
    group.add_argument(
        "--items",
        type=pathlib.Path,
        metavar="FILE",
        help="source `log`: a table with the log's item column and features such as title, genres",
    )
    group.add_argument(
        "--attributes",
        type=pathlib.Path,
        metavar="FILE",
        help="source `sequences`: JSON of item -> attributes",
    )
    group.add_argument(
        "--test", type=pathlib.Path, metavar="FILE", help="source `sessions`: the test file"
    )


def _add_format_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("format")
    group.add_argument(
        "--delimiter",
        help=r"field delimiter of text, such as ; or \t (default: detected in the first line)",
    )
    group.add_argument(
        "--quote",
        default=Options.quote,
        help='quote character of text (default "), or none: quotes have no meaning',
    )
    group.add_argument(
        "--no-header",
        action="store_true",
        help="the text has no header: its columns are 1, 2, 3, ...",
    )
    group.add_argument(
        "--separator",
        default=Options.separator,
        help="separator between the values of a text with several values (default |)",
    )
    group.add_argument(
        "--missing",
        action="append",
        default=[],
        metavar="WORD",
        help=r"a text that stands for a missing value, such as NULL or \N; may be repeated",
    )
    group.add_argument(
        "--time-format",
        default=Options.time_format,
        help="auto (default), s, ms, us or ns since 1970, iso, or a pattern such as %%Y%%m%%d",
    )
    group.add_argument(
        "--time-zone",
        default=Options.time_zone,
        help="time zone of times without one, such as Europe/Berlin (default UTC)",
    )
    group.add_argument(
        "--on-bad-rows",
        choices=("error", "skip"),
        default=Options.on_bad_rows,
        help="error (default): stop at rows that cannot be read; skip: count and list them",
    )


def _add_filter_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sessions and filters; filters repeat until nothing changes")
    group.add_argument(
        "--session-gap",
        metavar="30m",
        help="start a new sequence after a longer pause between events",
    )
    group.add_argument(
        "--repeats",
        choices=("keep", "merge"),
        default=Options.repeats,
        help="keep (default), or merge events that repeat the item and all categorical variables "
        "of the event before them",
    )
    group.add_argument(
        "--k-core",
        type=int,
        default=1,
        metavar="N",
        help="minimum for both --min-count and --min-length",
    )
    group.add_argument(
        "--min-count", type=int, default=1, metavar="N", help="drop items with fewer events"
    )
    group.add_argument(
        "--min-length", type=int, default=1, metavar="N", help="drop sequences with fewer events"
    )
    group.add_argument(
        "--max-length", type=int, metavar="N", help="keep the last N events of each sequence"
    )


def _add_engine_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        default=Options.engine,
        metavar="duckdb|pyspark|URL",
        help="duckdb (default): on this machine; pyspark: on the cluster that Spark is configured "
        "for, or else on this machine; a URL of Ibis, such as postgres://user@host/shop: read the "
        "table --raw from there and prepare it on this machine",
    )
    group.add_argument(
        "--memory",
        default=Options.memory,
        help=f"memory of the engine on this machine (default {Options.memory})",
    )
    group.add_argument(
        "--threads",
        type=int,
        default=Options.threads,
        help="threads of the engine on this machine (default: all cores)",
    )


def from_flags(flags: argparse.Namespace) -> Options:
    """Returns the options of parsed flags."""
    names = [field.name for field in dataclasses.fields(Options)]
    values: dict[str, Any] = {name: getattr(flags, name) for name in names if name != "header"}
    values["columns"] = parse_columns(flags.columns) if flags.columns else ()
    if flags.session_gap is not None:
        values["session_gap"] = parse_gap("--session-gap", flags.session_gap)
    values["delimiter"] = "\t" if flags.delimiter == r"\t" else flags.delimiter
    values["header"] = not flags.no_header
    values["missing"] = tuple(flags.missing)
    return Options(**values)
