"""The DuckDB engine, and its errors in plain words."""

import contextlib
import functools
import glob
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend

from clickflax.data.store import DISK_FULL
from clickflax.preparation.engines.base import Staged
from clickflax.preparation.engines.duckdb_rejects import (
    keep_rejected,
    path_for_duckdb,
    plain_reason,
    rejected_lines,
)
from clickflax.preparation.locate import SHOWN, locate_line, locate_text
from clickflax.preparation.options import Options
from clickflax.preparation.parquet_files import locate_parquet_row, read_schema
from clickflax.preparation.reasons import (
    ARRAY_FOR_OBJECT,
    KEY_TWICE,
    MALFORMED_JSON,
    NO_OBJECT,
    infinite_value,
    nested_value,
)
from clickflax.preparation.text_files import COPY_AGAIN
from clickflax.runtime.files import first_line

# The JSON of a line; null if it is malformed.
VALID_LINE = "CASE WHEN json_valid(line) THEN line END"
NOT_IN_TEXT = "\x1f"  # read with this delimiter, a whole line is one column
MAX_LINE_BYTES = 1 << 24
READ_ERROR = re.compile(  # line and reason in an error message of DuckDB, among other text
    r"Error on Line: (?P<line>\d+)\nOriginal Line: [^\n]*\n(?P<reason>[^\n]*)\n"
)
BUFFER_BYTES = 1 << 25  # of text, per thread


@ibis.udf.scalar.builtin(signature=(("timestamp('UTC')",), "int64"))
def epoch_us(time): ...


@ibis.udf.scalar.builtin(signature=(("string", "string"), "timestamp"))
def try_strptime(text, pattern): ...


@ibis.udf.scalar.builtin(signature=(("string",), "array<string>"))
def json_elements(text): ...


# The values of a JSON array as texts; null if the text is no array.
JSON_ELEMENTS = """CREATE MACRO json_elements(text) AS list_transform(
    json_extract(CASE WHEN json_valid(text) AND json_type(text) = 'ARRAY' THEN text END, '$[*]'),
    lambda value: CASE
        WHEN json_type(value) = 'DOUBLE'
        THEN nullif(regexp_replace(json_extract_string(value, '$'), '\\.0$', ''), 'NaN')
        ELSE json_extract_string(value, '$')
    END
)"""


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
        # Columns are known by their position: names may differ in case only, or be empty.
        columns = ", ".join(f"c{position}: 'VARCHAR'" for position in range(len(names)))
        # Rejects are always stored: they name the file and line of a malformed record.
        self._read(
            table,
            _selected_columns(names, wanted),
            paths,
            lambda files: (
                f"read_csv({files}, columns = {{{columns}}}, "
                f"delim = {_text(delimiter)}, header = {header}, quote = {_text(quote)}, "
                f"escape = {_text(quote)}, auto_detect = false, hive_partitioning = false, "
                f"ignore_errors = true, "
                f"store_rejects = true, rejects_limit = 0, buffer_size = {BUFFER_BYTES})"
            ),
        )
        malformed, first = keep_rejected(self.con, f"rejected_{table}", BUFFER_BYTES)
        lines = functools.partial(rejected_lines, self.con, f"rejected_{table}")
        locate = functools.partial(locate_text, paths, delimiter, quote, header, lines)
        return Staged(self._numbered(table), locate, malformed, first)

    def json_keys(self, lines: str) -> list[str]:
        keys = self.con.raw_sql(
            f"SELECT key FROM (SELECT unnest(json_keys({VALID_LINE})) AS key, rowid AS row "
            f"FROM {lines}) GROUP BY key ORDER BY min(row), key"
        )
        return [key for (key,) in keys.fetchall()]

    def parse_json_lines(
        self,
        lines: str,
        paths: Sequence[pathlib.Path],
        wanted: Mapping[str, str],
        lists: Sequence[str] = (),
        table: str = "events",
    ) -> Staged:
        keys = "[" + ", ".join(_text(_json_path(old)) for old in wanted.values()) + "]"
        chosen = ", ".join(
            f"{_json_value(position)} AS {_name(new)}"
            for position, new in enumerate(wanted, start=1)
        )
        self.con.raw_sql(
            f"CREATE TABLE {table} AS SELECT {chosen}, reason AS _malformed, "
            f"CASE WHEN reason IS NOT NULL THEN left(line, {SHOWN}) END AS _text "
            f"FROM (SELECT *, CASE {_json_reasons(wanted, lists)} END AS reason FROM "
            f"(SELECT line, object, json_type(object) AS type, json_keys(object) AS keys, "
            f"json_type(object, {keys}) AS types, json_extract_string(object, {keys}) AS texts "
            f"FROM (SELECT line, {VALID_LINE} AS object FROM {lines} WHERE trim(line) != '')))"
        )
        self.con.raw_sql(f"DROP TABLE {lines}")
        return Staged(self._numbered(table), functools.partial(locate_line, paths))

    def read_parquet(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        names = read_schema(paths[0]).names
        aliases = ", ".join(f"c{position}" for position in range(len(names)))
        # DuckDB ignores case in names: those of the file are known by their position.
        columns = _selected_columns(names, wanted)
        self._read(
            table,
            columns,
            paths,
            lambda files: (
                # The name of a folder, such as item=5, is no column.
                f"read_parquet({files}, hive_partitioning = false) AS rows({aliases})"
            ),
        )
        return Staged(self._numbered(table), functools.partial(locate_parquet_row, paths))

    def read_lines(self, paths: Sequence[pathlib.Path], table: str) -> ibis.Table:
        self._read(
            table,
            "*",
            paths,
            lambda files: (
                f"read_csv({files}, columns = {{'line': 'VARCHAR'}}, "
                f"delim = '{NOT_IN_TEXT}', header = false, quote = '', escape = '', "
                f"auto_detect = false, hive_partitioning = false, "
                f"max_line_size = {MAX_LINE_BYTES}, "
                f"buffer_size = {2 * MAX_LINE_BYTES})"
            ),
        )
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
        return json_elements(text)

    def _read(
        self,
        table: str,
        columns: str,
        paths: Sequence[pathlib.Path],
        rows_of: Callable[[str], str],
    ) -> None:
        """Makes a table of columns of files; `rows_of` returns the SQL of the rows of some files.

        Raises ValueError with the name of a file that DuckDB cannot read.
        """
        create = f"CREATE TABLE {table} AS SELECT {columns} FROM "
        try:
            self.con.raw_sql(create + rows_of(_list(paths)))
        except (duckdb.OutOfMemoryException, duckdb.InterruptException):
            raise
        except duckdb.Error as error:
            # DuckDB seldom names the file: it is the first one that cannot be read alone.
            for path in paths:
                try:
                    self.con.raw_sql(create + rows_of(_list([path])))
                    self.con.raw_sql(f"DROP TABLE {table}")
                except duckdb.Error as own:
                    raise _file_error(path, own) from own
            raise _file_error(paths[0], error) from error

    def _numbered(self, table: str) -> ibis.Table:
        # The rowid of a table is the order in which it was written, that of the files:
        # https://duckdb.org/docs/stable/sql/dialect/order_preservation
        rows = self.con.table(table)
        return rows.mutate(_row=rows.rowid())


@contextlib.contextmanager
def open_duckdb(folder: pathlib.Path, options: Options) -> Iterator[DuckDB]:
    """Opens DuckDB, with its tables and spilled memory in `folder`."""
    if "\\" in str(folder):
        raise ValueError(
            f"DuckDB takes \\ in {folder.parents[2] / folder.parent.name} for a slash: give --out "
            "another folder."
        )
    # DuckDB takes what follows a `?` in the path of a database for parameters. Without a file, it
    # keeps in memory what fits there, and spills the rest.
    database = folder / "engine.duckdb" if "?" not in str(folder) else ":memory:"
    try:
        con = ibis.duckdb.connect(
            database,
            memory_limit=options.memory,
            threads=options.threads,
            temp_directory=str(folder / "spill"),
        )
        try:
            con.raw_sql("SET enable_progress_bar = false")  # on standard output
            con.raw_sql(JSON_ELEMENTS)
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
    return ValueError(f"DuckDB fails: {_reason(error)}.")


def _file_error(path: pathlib.Path, error: duckdb.Error) -> Exception:
    """Returns an error of DuckDB that reads a file, in plain words; others as they are."""
    text = str(error)
    if any(os.strerror(code) in text for code in DISK_FULL):
        return error
    if "state machine reached an invalid state" in text:
        return ValueError(
            f"{path}: its lines have different endings (CR LF, LF, CR). Convert it, such as with "
            "dos2unix."
        )
    match = READ_ERROR.search(text)
    if match is not None:
        return ValueError(f"{path}, line {match['line']}: {plain_reason(match['reason'])}.")
    return ValueError(f"{path} cannot be read: {_reason(error)}. {COPY_AGAIN}")


def _reason(error: duckdb.Error) -> str:
    """Returns the first line of an error of DuckDB, without its kind."""
    return re.sub(r"^([A-Z][A-Za-z]* )+Error: ", "", first_line(error))


def _selected_columns(names: Sequence[str], wanted: Mapping[str, str]) -> str:
    """Returns the wanted ones of the columns c0, c1, ..., which have these names in the file."""
    return ", ".join(f"c{names.index(old)} AS {_name(new)}" for new, old in wanted.items())


def _json_path(key: str) -> str:
    """Returns the path of a key in an object."""
    return '$."' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _json_value(position: int) -> str:
    """Returns the value at a position of `texts` as text."""
    text = f"texts[{position}]"
    return (
        f"CASE WHEN types[{position}] != 'DOUBLE' THEN {text} WHEN {text} != 'NaN' "
        f"THEN regexp_replace({text}, '\\.0$', '') END"
    )


def _json_reasons(wanted: Mapping[str, str], lists: Sequence[str]) -> str:
    """Returns the cases in which a row is malformed, each with its reason."""
    cases = [
        ("type IS NULL", MALFORMED_JSON),
        ("type = 'ARRAY'", ARRAY_FOR_OBJECT),
        ("type != 'OBJECT'", NO_OBJECT),
        ("len(keys) != list_unique(keys)", KEY_TWICE),
    ]
    for position, (new, old) in enumerate(wanted.items(), start=1):
        nested = f"types[{position}] IN ('ARRAY', 'OBJECT')"
        if new in lists:
            elements = f"json_type(object, {_text(_json_path(old) + '[*]')})"
            nested = (
                f"types[{position}] = 'OBJECT' OR list_has_any({elements}, ['ARRAY', 'OBJECT'])"
            )
        cases.append((nested, nested_value(old, new in lists)))
        infinite = f"types[{position}] = 'DOUBLE' AND texts[{position}] LIKE '%Infinity'"
        cases.append((infinite, infinite_value(old)))
    return " ".join(f"WHEN {condition} THEN {_text(reason)}" for condition, reason in cases)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _list(paths: Sequence[pathlib.Path]) -> str:
    return "[" + ", ".join(_text(glob.escape(path_for_duckdb(path))) for path in paths) + "]"
