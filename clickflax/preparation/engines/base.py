"""The protocol of an engine, and the rows that it stages."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import ibis
import pyarrow as pa

from clickflax.preparation.locate import BadRow, Location


@dataclasses.dataclass(frozen=True)
class Staged:
    """Rows in the engine: the wanted columns under their new names, and `_row`.

    Malformed rows of JSON have a reason in `_malformed`, null elsewhere, and the beginning of the
    line in `_text`. `malformed` counts the malformed records of other text, and `rejected` has the
    first of them. `locate` finds the file and line of a `_row`.
    """

    events: ibis.Table
    locate: Callable[[int], Location]
    malformed: int = 0
    rejected: tuple[BadRow, ...] = ()


@runtime_checkable
class Engine(Protocol):
    """Reads files into tables, and provides functions that Ibis lacks.

    `_row` rises in the order of the files and of their rows, and may skip numbers. Wanted columns
    are {new name: name}; columns of text files are text.
    """

    con: Any  # a backend of Ibis

    def read_text(
        self,
        paths: Sequence[pathlib.Path],
        names: Sequence[str],
        wanted: Mapping[str, str],
        *,
        delimiter: str,
        header: bool = False,
        quote: str = "",
        table: str = "events",
    ) -> Staged:
        """Reads delimited text with the columns `names`, whose unwanted ones may be equal."""
        ...

    def read_lines(self, paths: Sequence[pathlib.Path], table: str) -> ibis.Table:
        """Reads whole lines as the column `line`, null if empty.

        `_row` is the number of the line, from 0, over all files.
        """
        ...

    def json_keys(self, lines: str) -> list[str]:
        """Returns the keys of all objects in a table of lines, in the order of their appearance."""
        ...

    def parse_json_lines(
        self,
        lines: str,
        paths: Sequence[pathlib.Path],
        wanted: Mapping[str, str],
        lists: Sequence[str] = (),
        table: str = "events",
    ) -> Staged:
        """Reads the lines of files with one JSON object per line as texts; blank lines are skipped.

        A row is malformed if it is no object, if a key appears twice in it, and if a wanted value
        is an object, an array (except in the columns `lists`), or infinite. A NaN is null, and a
        whole number is written without a fraction.
        """
        ...

    def read_parquet(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        """Reads columns of Parquet files, whose types must be the same in all files."""
        ...

    def to_arrow(self, rows: ibis.Table) -> pa.Table:
        """Returns the rows of an expression in its order."""
        ...

    def batches(self, rows: ibis.Table) -> Iterator[pa.RecordBatch]:
        """Yields the rows of an expression in its order, a batch at a time."""
        ...

    def microseconds(self, time: Any) -> Any:
        """Returns a timestamp as microseconds since 1970 UTC."""
        ...

    def parse_timestamp(self, text: Any, pattern: str) -> Any:
        """Parses text by a pattern such as %Y%m%d, or by ISO 8601 if the pattern is empty.

        The timestamp is null if the text does not parse.
        """
        ...

    def parse_number(self, text: Any) -> Any:
        """Parses text as a float64, null if it is not a number."""
        ...

    def format_number(self, number: Any) -> Any:
        """Returns the shortest text that parses as the same float64."""
        ...

    def split_text(self, text: Any, separator: str) -> Any:
        """Splits text at a separator into an array."""
        ...

    def parse_json_list(self, text: Any) -> Any:
        """Returns the values of a JSON array as texts, null if the text is not an array.

        A whole number is written without a fraction.
        """
        ...
