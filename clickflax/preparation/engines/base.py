"""Where tables of events are: what the preparation asks of an engine, and which there are."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import ibis
import pyarrow as pa

from clickflax.preparation.locate import BadRow, Place


@dataclasses.dataclass(frozen=True)
class Staged:
    """Rows in the engine: the wanted columns under their new names, and `_row`.

    Rows of JSON that is malformed have a true `_malformed`; `malformed` counts the records of
    other text that are, and `rejected` has the first of them. `locate` finds the file and line of
    a `_row`.
    """

    events: ibis.Table
    locate: Callable[[int], Place]
    malformed: int = 0
    rejected: tuple[BadRow, ...] = ()


@runtime_checkable
class Engine(Protocol):
    """Reads files into tables, and has names for what Ibis has none for.

    `_row` rises in the order of the files and of their rows, and may leave numbers out. Columns are
    wanted as {new name: name}; those of text are text.
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
        """Reads delimited text whose columns are `names`."""
        ...

    def read_lines(self, paths: Sequence[pathlib.Path], table: str) -> ibis.Table:
        """Reads whole lines as the column `line`; `_row` is the number of the line, from 0, over
        all files. An empty line is null.
        """
        ...

    def read_json_lines(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        """Reads files of one JSON object per line; empty lines are none."""
        ...

    def read_parquet(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        """Reads Parquet files, their types as they are, and the same in all of them."""
        ...

    def table(self, rows: ibis.Table) -> pa.Table:
        """The rows of an expression in its order."""
        ...

    def stream(self, table: ibis.Table) -> Iterator[pa.RecordBatch]:
        """The rows of an expression in its order, a batch at a time."""
        ...

    def microseconds(self, time: Any) -> Any:
        """A timestamp as microseconds since 1970 UTC."""
        ...

    def moment(self, text: Any, pattern: str) -> Any:
        """Text as a timestamp by a pattern such as %Y%m%d, or by ISO 8601 where that is empty;
        null where it does not parse.
        """
        ...

    def number(self, text: Any) -> Any:
        """Text as a float64, null where it is none."""
        ...

    def shortest(self, number: Any) -> Any:
        """The shortest text that is read as the same float64."""
        ...

    def pieces(self, text: Any, separator: str) -> Any:
        """What stands between separators, as an array."""
        ...

    def json_list(self, text: Any) -> Any:
        """The values of a JSON array as texts, null where the text is none."""
        ...
