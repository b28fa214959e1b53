"""The DuckDB engine, and its errors in plain words."""

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
from clickflax.preparation.locate import check_types, locate_line, locate_parquet_row, locate_text
from clickflax.preparation.options import Options

NOT_IN_TEXT = "\x1f"  # read with this delimiter, a whole line is one column
MAX_LINE_BYTES = 1 << 24
READ_ERROR = re.compile(  # an error message of DuckDB: line, reason and file, among other text
    r"Error on Line: (?P<line>\d+)\nOriginal Line: [^\n]*\n(?P<reason>[^\n]*)\n"
    r".*\n  file = (?P<file>[^\n]*)\n",
    re.DOTALL,
)
BUFFER_BYTES = 1 << 25  # of text, per thread


@ibis.udf.scalar.builtin(signature=(("timestamp('UTC')",), "int64"))
def epoch_us(time): ...


@ibis.udf.scalar.builtin(signature=(("string", "string"), "timestamp"))
def try_strptime(text, pattern): ...


@ibis.udf.scalar.builtin(signature=(("string",), "boolean"))
def json_valid(text): ...


@ibis.udf.scalar.builtin(signature=(("string", "string"), "array<string>"))
def json_extract_string(text, path): ...


class DuckDB:
    """An engine on one machine."""

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
        # Rejects are always stored: they name the file and line of a malformed record.
        self.con.raw_sql(
            f"CREATE TABLE {table} AS SELECT {_selected_columns(wanted)} "
            f"FROM read_csv({_list(paths)}, columns = {{{columns}}}, "
            f"delim = {_text(delimiter)}, header = {header}, quote = {_text(quote)}, "
            f"escape = {_text(quote)}, auto_detect = false, ignore_errors = true, "
            f"store_rejects = true, rejects_limit = 0, buffer_size = {BUFFER_BYTES})"
        )
        malformed, first = keep_rejected(self.con, f"rejected_{table}", BUFFER_BYTES)
        lines = functools.partial(rejected_lines, self.con, f"rejected_{table}")
        locate = functools.partial(locate_text, paths, delimiter, quote, header, lines)
        return Staged(self._numbered(table), locate, malformed, first)

    def read_json_lines(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        self.read_lines(paths, "lines")
        keys = ", ".join(_text('$."' + old + '"') for old in wanted.values())
        chosen = ", ".join(f"fields[{k}] AS {_name(new)}" for k, new in enumerate(wanted, start=1))
        self.con.raw_sql(
            f"CREATE TABLE {table} AS SELECT {chosen}, NOT valid AS _malformed FROM (SELECT "
            f"coalesce(json_valid(line), false) AS valid, CASE WHEN json_valid(line) THEN "
            f"json_extract_string(line, [{keys}]) END AS fields FROM lines WHERE line IS NOT NULL)"
        )
        self.con.raw_sql("DROP TABLE lines")
        return Staged(self._numbered(table), functools.partial(locate_line, paths))

    def read_parquet(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        check_types(paths, wanted)
        self.con.raw_sql(
            f"CREATE TABLE {table} AS SELECT {_selected_columns(wanted)} "
            f"FROM read_parquet({_list(paths)})"
        )
        return Staged(self._numbered(table), functools.partial(locate_parquet_row, paths))

    def read_lines(self, paths: Sequence[pathlib.Path], table: str) -> ibis.Table:
        query = (
            f"CREATE TABLE {table} AS SELECT * FROM read_csv({_list(paths)}, columns = "
            f"{{'line': 'VARCHAR'}}, delim = '{NOT_IN_TEXT}', header = false, quote = '', "
            f"escape = '', auto_detect = false, max_line_size = {MAX_LINE_BYTES}, "
            f"buffer_size = {2 * MAX_LINE_BYTES})"
        )
        try:
            self.con.raw_sql(query)
        except duckdb.InvalidInputException as error:
            match = READ_ERROR.search(str(error))
            if match is None:
                raise
            location = f"{match['file']}, line {match['line']}"
            raise ValueError(f"{location}: {match['reason']}") from error
        return self._numbered(table)

    def to_arrow(self, rows: ibis.Table) -> pa.Table:
        return self.con.to_pyarrow(rows)

    def batches(self, rows: ibis.Table) -> Iterator[pa.RecordBatch]:
        # Ibis's to_pyarrow_batches calls a method that DuckDB 2 has removed.
        return iter(pa.RecordBatchReader.from_stream(self.con.con.sql(self.con.compile(rows))))

    def microseconds(self, time: Any) -> Any:
        return epoch_us(time)

    def parse_timestamp(self, text: Any, pattern: str) -> Any:
        time: Any = try_strptime(text, pattern) if pattern else text
        return time.try_cast("timestamp('UTC')")

    def parse_number(self, text: Any) -> Any:
        return text.try_cast("float64")

    def format_number(self, number: Any) -> Any:
        return number.cast("string")

    def split_text(self, text: Any, separator: str) -> Any:
        return text.split(separator)

    def parse_json_list(self, text: Any) -> Any:
        is_array = text.startswith("[") & json_valid(text)
        return ibis.ifelse(is_array, json_extract_string(text, "$[*]"), ibis.null("array<string>"))

    def _numbered(self, table: str) -> ibis.Table:
        # The rowid of a table is the order in which it was written, that of the files:
        # https://duckdb.org/docs/stable/sql/dialect/order_preservation
        rows = self.con.table(table)
        return rows.mutate(_row=rows.rowid())


@contextlib.contextmanager
def open_duckdb(folder: pathlib.Path, options: Options) -> Iterator[DuckDB]:
    """Opens DuckDB, with its tables and spilled memory in `folder`."""
    try:
        con = ibis.duckdb.connect(
            folder / "engine.duckdb",
            memory_limit=options.memory,
            threads=options.threads,
            temp_directory=str(folder / "spill"),
        )
        try:
            con.raw_sql("SET enable_progress_bar = false")  # on standard output
            # Times without a zone are read in the zone of the session.
            con.raw_sql(f"SET TimeZone = {_text(options.time_zone)}")
            yield DuckDB(con)
        finally:
            con.disconnect()
    except duckdb.Error as error:
        raise _readable_error(error, options) from error


def _readable_error(error: duckdb.Error, options: Options) -> Exception:
    """Returns an error of DuckDB in plain words."""
    text = str(error)
    for code in DISK_FULL:
        if os.strerror(code) in text:
            return OSError(code, os.strerror(code))
    if isinstance(error, duckdb.OutOfMemoryException):
        return OSError(
            f"DuckDB needs more than --memory {options.memory}, or a larger disk for spilled "
            f"memory: {text.splitlines()[0]}"
        )
    if "state machine reached an invalid state" in text:
        return ValueError(
            "the lines of the file have different endings (CR LF and LF). Convert it, such as "
            "with dos2unix FILE."
        )
    return ValueError(f"DuckDB: {text.splitlines()[0]}")


def _selected_columns(wanted: Mapping[str, str]) -> str:
    return ", ".join(f"{_name(old)} AS {_name(new)}" for new, old in wanted.items())


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _list(paths: Sequence[pathlib.Path]) -> str:
    return "[" + ", ".join(_text(glob.escape(str(path))) for path in paths) + "]"
