"""DuckDB as the engine of the preparation, and its failures in clear words."""

import contextlib
import functools
import glob
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend

from clickflax.data.store import DISK_FULL
from clickflax.preparation.engines.base import Staged
from clickflax.preparation.engines.duckdb_rejects import keep_rejected, rejected_lines
from clickflax.preparation.locate import check_types, locate_line, locate_row, locate_text
from clickflax.preparation.options import Options

NOT_IN_TEXT = "\x1f"  # read with this delimiter, a whole line is one column
LONGEST_LINE = 1 << 24
UNREADABLE = re.compile(  # what DuckDB says of a line: where, why, and much more
    r"Error on Line: (?P<line>\d+)\nOriginal Line: [^\n]*\n(?P<reason>[^\n]*)\n"
    r".*\n  file = (?P<file>[^\n]*)\n",
    re.DOTALL,
)
BUFFER = 1 << 25  # bytes of text that a thread reads at once


@ibis.udf.scalar.builtin(signature=(("timestamp('UTC')",), "int64"))
def epoch_us(time): ...


@ibis.udf.scalar.builtin(signature=(("string", "string"), "timestamp"))
def try_strptime(text, pattern): ...


@ibis.udf.scalar.builtin(signature=(("string",), "boolean"))
def json_valid(text): ...


@ibis.udf.scalar.builtin(signature=(("string", "string"), "array<string>"))
def json_extract_string(text, path): ...


class DuckDB:
    """Tables of one machine."""

    def __init__(self, con: Backend) -> None:
        self.con = con

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
        columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in names)
        # rejects are stored in any case: so a malformed line is known with its file and number
        self.con.raw_sql(
            f"CREATE TABLE {table} AS SELECT {_chosen(wanted)} FROM read_csv({_list(paths)}, "
            f"columns = {{{columns}}}, delim = {_text(delimiter)}, header = {header}, "
            f"quote = {_text(quote)}, escape = {_text(quote)}, auto_detect = false, "
            f"ignore_errors = true, store_rejects = true, rejects_limit = 0, "
            f"buffer_size = {BUFFER})"
        )
        malformed, first = keep_rejected(self.con, f"rejected_{table}", BUFFER)
        lines = functools.partial(rejected_lines, self.con, f"rejected_{table}")
        locate = functools.partial(locate_text, paths, delimiter, quote, header, lines)
        return Staged(self._numbered(table), locate, malformed, first)

    def read_json_lines(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        self.read_lines(paths, "lines")
        keys = ", ".join(_text('$."' + old + '"') for old in wanted.values())
        chosen = ", ".join(f"found[{k}] AS {_name(new)}" for k, new in enumerate(wanted, start=1))
        self.con.raw_sql(
            f"CREATE TABLE {table} AS SELECT {chosen}, NOT valid AS _malformed FROM (SELECT "
            f"coalesce(json_valid(line), false) AS valid, CASE WHEN json_valid(line) THEN "
            f"json_extract_string(line, [{keys}]) END AS found FROM lines WHERE line IS NOT NULL)"
        )
        self.con.raw_sql("DROP TABLE lines")
        return Staged(self._numbered(table), functools.partial(locate_line, paths))

    def read_parquet(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        check_types(paths, wanted)
        self.con.raw_sql(
            f"CREATE TABLE {table} AS SELECT {_chosen(wanted)} FROM read_parquet({_list(paths)})"
        )
        return Staged(self._numbered(table), functools.partial(locate_row, paths))

    def read_lines(self, paths: Sequence[pathlib.Path], table: str) -> ibis.Table:
        query = (
            f"CREATE TABLE {table} AS SELECT * FROM read_csv({_list(paths)}, columns = "
            f"{{'line': 'VARCHAR'}}, delim = '{NOT_IN_TEXT}', header = false, quote = '', "
            f"escape = '', auto_detect = false, max_line_size = {LONGEST_LINE}, "
            f"buffer_size = {2 * LONGEST_LINE})"
        )
        try:
            self.con.raw_sql(query)
        except duckdb.InvalidInputException as error:
            found = UNREADABLE.search(str(error))
            if found is None:
                raise
            where = f"{found['file']}, line {found['line']}"
            raise ValueError(f"{where}: {found['reason']}") from error
        return self._numbered(table)

    def table(self, rows: ibis.Table) -> pa.Table:
        return self.con.to_pyarrow(rows)

    def stream(self, table: ibis.Table) -> Iterator[pa.RecordBatch]:
        # Arrow's own stream protocol: Ibis's to_pyarrow_batches calls what DuckDB 2 no longer has
        return iter(pa.RecordBatchReader.from_stream(self.con.con.sql(self.con.compile(table))))

    def microseconds(self, time: Any) -> Any:
        return epoch_us(time)

    def moment(self, text: Any, pattern: str) -> Any:
        found: Any = try_strptime(text, pattern) if pattern else text
        return found.try_cast("timestamp('UTC')")

    def number(self, text: Any) -> Any:
        return text.try_cast("float64")

    def shortest(self, number: Any) -> Any:
        return number.cast("string")

    def pieces(self, text: Any, separator: str) -> Any:
        return text.split(separator)

    def json_list(self, text: Any) -> Any:
        is_array = text.startswith("[") & json_valid(text)
        return ibis.ifelse(is_array, json_extract_string(text, "$[*]"), ibis.null("array<string>"))

    def _numbered(self, table: str) -> ibis.Table:
        # rowid of a table is the order in which it was written, which is that of the files:
        # https://duckdb.org/docs/stable/sql/dialect/order_preservation
        rows = self.con.table(table)
        return rows.mutate(_row=rows.rowid())


@contextlib.contextmanager
def open_duckdb(folder: pathlib.Path, options: Options) -> Iterator[DuckDB]:
    """DuckDB with its tables and what spills out of memory in `folder`."""
    try:
        con = ibis.duckdb.connect(
            folder / "engine.duckdb",
            memory_limit=options.memory,
            threads=options.threads,
            temp_directory=str(folder / "spill"),
        )
        try:
            con.raw_sql("SET enable_progress_bar = false")  # it writes to standard output
            # times that name no zone are read in the zone of the session
            con.raw_sql(f"SET TimeZone = {_text(options.time_zone)}")
            yield DuckDB(con)
        finally:
            con.disconnect()
    except duckdb.Error as error:
        raise _translated(error, options) from error


def _translated(error: duckdb.Error, options: Options) -> Exception:
    """A failure of DuckDB as an error for people."""
    text = str(error)
    for code in DISK_FULL:
        if os.strerror(code) in text:
            return OSError(code, os.strerror(code))
    if isinstance(error, duckdb.OutOfMemoryException):
        return OSError(
            f"DuckDB needs more than --memory {options.memory}, or the disk that it spills to is "
            f"too small: {text.splitlines()[0]}"
        )
    if "state machine reached an invalid state" in text:
        return ValueError(
            "the lines of the file end in different ways (CR LF and LF). Convert it, such as with "
            "dos2unix FILE."
        )
    return ValueError(f"DuckDB: {text.splitlines()[0]}")


def _chosen(wanted: Mapping[str, str]) -> str:
    return ", ".join(f"{_name(old)} AS {_name(new)}" for new, old in wanted.items())


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _list(paths: Sequence[pathlib.Path]) -> str:
    return "[" + ", ".join(_text(glob.escape(str(path))) for path in paths) + "]"
