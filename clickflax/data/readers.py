"""Files of a log become one table in the engine, its rows numbered in the order of the files.

Text is read as text: a token stays as it is written ("007"), and a value that does not parse is
found later, with its file and line.
"""

import dataclasses
import functools
import glob
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import duckdb
import ibis
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from clickflax.data.places import (
    BadRow,
    Place,
    locate_line,
    locate_row,
    locate_text,
    open_text,
    records,
)
from clickflax.data.rejects import keep_rejected, rejected_lines

DELIMITERS = (",", "\t", ";", "|", " ")
NOT_IN_TEXT = "\x1f"  # read with this delimiter, a whole line is one column
LONGEST_LINE = 1 << 24
UNREADABLE = re.compile(  # what DuckDB says of a line: where, why, and much more
    r"Error on Line: (?P<line>\d+)\nOriginal Line: [^\n]*\n(?P<reason>[^\n]*)\n"
    r".*\n  file = (?P<file>[^\n]*)\n",
    re.DOTALL,
)
BUFFER = 1 << 25  # bytes of text that a thread reads at once


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


@dataclasses.dataclass(frozen=True)
class Log:
    """The files of a log in the order of their names, their form, and the columns they have."""

    paths: tuple[pathlib.Path, ...]
    form: str  # parquet, jsonl, or the delimiter of text
    names: tuple[str, ...]
    header: bool = False
    quote: str = ""


def find_log(path: pathlib.Path, delimiter: str | None, header: bool, quote: str) -> Log:
    """A CSV, TSV, Parquet or JSON-lines file, or a folder of files of one such form."""
    paths = log_files(path)
    form = _form(paths[0])
    if form in ("parquet", "jsonl") and (delimiter is not None or not header or quote != '"'):
        raise ValueError(f"--delimiter, --no-header and --quote are for text, not for {paths[0]}.")
    if form == "parquet":
        return Log(paths, form, tuple(pq.read_schema(paths[0]).names))
    if form == "jsonl":
        return Log(paths, form, _json_names(paths[0]))
    delimiter = delimiter or ("\t" if form == "tsv" else find_delimiter(paths[0]))
    names = first_fields(paths[0], delimiter, quote)
    for path in paths[1:] if header else ():
        other = first_fields(path, delimiter, quote)
        if other != names:
            raise ValueError(
                f"{path} begins with {list(other)}, {paths[0]} with {list(names)}: the files of a "
                "folder must have the same header."
            )
    if not header:
        names = tuple(str(number) for number in range(1, len(names) + 1))
    return Log(paths, delimiter, names, header, quote)


def read_log(con: Backend, log: Log, wanted: Mapping[str, str], table: str = "events") -> Staged:
    """Reads the wanted columns, {new name: name}, of a log."""
    check_columns(log.paths[0], log.names, wanted)
    if log.form == "parquet":
        return read_parquet(con, log.paths, wanted, table)
    if log.form == "jsonl":
        return read_json_lines(con, log.paths, wanted, table)
    return read_text(
        con,
        log.paths,
        log.names,
        wanted,
        delimiter=log.form,
        header=log.header,
        quote=log.quote,
        table=table,
    )


def log_files(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The files of a log in the order of their names; all of one form."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there.")
    paths = [path]
    if path.is_dir():
        entries = sorted(p for p in path.iterdir() if p.name[0] not in "._")
        paths = [p for p in entries if not p.is_dir()]
        folders = [p.name for p in entries if p.is_dir()]
        if folders:
            raise ValueError(f"{path} has the subfolders {folders}: name one folder of files.")
        if not paths:
            raise ValueError(f"{path} is an empty folder.")
    forms = {_form(p): p.name for p in paths}
    if len(forms) > 1:
        raise ValueError(f"{path} mixes forms: {sorted(forms.values())}. Name one file or form.")
    return tuple(paths)


FORMS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}


def _form(path: pathlib.Path) -> str:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix not in FORMS:
        raise ValueError(f"{path} ends in {suffix!r}; a log ends in one of {sorted(FORMS)}.")
    return FORMS[suffix]


def read_text(
    con: Backend,
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
    columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in names)
    chosen = ", ".join(f"{_name(old)} AS {_name(new)}" for new, old in wanted.items())
    # rejects are stored in any case: so a malformed line is known with its file and number
    con.raw_sql(
        f"CREATE TABLE {table} AS SELECT {chosen} FROM read_csv({_list(paths)}, "
        f"columns = {{{columns}}}, delim = {_text(delimiter)}, header = {header}, "
        f"quote = {_text(quote)}, escape = {_text(quote)}, "
        f"auto_detect = false, ignore_errors = true, store_rejects = true, rejects_limit = 0, "
        f"buffer_size = {BUFFER})"
    )
    malformed, first = keep_rejected(con, f"rejected_{table}", BUFFER)
    lines = functools.partial(rejected_lines, con, f"rejected_{table}")
    locate = functools.partial(locate_text, paths, delimiter, quote, header, lines)
    return Staged(_numbered(con, table), locate, malformed, first)


def read_json_lines(
    con: Backend, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str
) -> Staged:
    """Reads files of one JSON object per line; empty lines are none."""
    read_lines(con, paths, "lines")
    keys = ", ".join(_text('$."' + old + '"') for old in wanted.values())
    chosen = ", ".join(f"found[{k}] AS {_name(new)}" for k, new in enumerate(wanted, start=1))
    con.raw_sql(
        f"CREATE TABLE {table} AS SELECT {chosen}, NOT valid AS _malformed FROM (SELECT "
        f"coalesce(json_valid(line), false) AS valid, CASE WHEN json_valid(line) THEN "
        f"json_extract_string(line, [{keys}]) END AS found FROM lines WHERE line IS NOT NULL)"
    )
    con.raw_sql("DROP TABLE lines")
    return Staged(_numbered(con, table), functools.partial(locate_line, paths))


def read_parquet(
    con: Backend, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str
) -> Staged:
    """Reads Parquet files, their types as they are, and the same in all of them."""
    first = pq.read_schema(paths[0])
    for path in paths[1:]:
        schema = pq.read_schema(path)
        check_columns(path, schema.names, wanted)
        for name in wanted.values():
            if schema.field(name).type != first.field(name).type:
                raise ValueError(
                    f"{name!r} is {first.field(name).type} in {paths[0]} and "
                    f"{schema.field(name).type} in {path}: write all files with the same types."
                )
    chosen = ", ".join(f"{_name(old)} AS {_name(new)}" for new, old in wanted.items())
    con.raw_sql(f"CREATE TABLE {table} AS SELECT {chosen} FROM read_parquet({_list(paths)})")
    return Staged(_numbered(con, table), functools.partial(locate_row, paths))


def read_lines(con: Backend, paths: Sequence[pathlib.Path], table: str) -> ibis.Table:
    """Reads whole lines as the column `line`, numbered by `_row`; an empty line is null."""
    query = (
        f"CREATE TABLE {table} AS SELECT * FROM read_csv({_list(paths)}, columns = "
        f"{{'line': 'VARCHAR'}}, delim = '{NOT_IN_TEXT}', header = false, quote = '', escape = '', "
        f"auto_detect = false, max_line_size = {LONGEST_LINE}, buffer_size = {2 * LONGEST_LINE})"
    )
    try:
        con.raw_sql(query)
    except duckdb.InvalidInputException as error:
        found = UNREADABLE.search(str(error))
        if found is None:
            raise
        raise ValueError(f"{found['file']}, line {found['line']}: {found['reason']}") from error
    return _numbered(con, table)


def check_columns(path: pathlib.Path, names: Sequence[str], wanted: Mapping[str, str]) -> None:
    """Refuses a wanted column that is not there, naming those that are."""
    for new, old in wanted.items():
        if old not in names:
            raise ValueError(f"{path} has no column {old!r} for {new}; it has {list(names)}.")


def first_fields(path: pathlib.Path, delimiter: str, quote: str) -> tuple[str, ...]:
    """The fields of the first line of a text file."""
    for line, record in records(path, delimiter, quote):
        if line > 1:
            raise ValueError(f"{path}: line 1 is blank. Take it out.")
        return tuple(record)
    raise ValueError(f"{path} is empty.")


def find_delimiter(path: pathlib.Path) -> str:
    """The delimiter that splits the first line into most fields."""
    with open_text(path) as file:
        line = file.readline()
    if not line.strip():
        raise ValueError(f"{path}: line 1 is blank. Take it out." if line else f"{path} is empty.")
    return max(DELIMITERS, key=line.count)


def _json_names(path: pathlib.Path) -> tuple[str, ...]:
    """The keys of the first thousand objects."""
    names: dict[str, None] = {}
    with open_text(path) as file:
        for line in itertools.islice(file, 1000):
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                continue  # counted, with its line, when the file is read
            if isinstance(found, dict):
                names.update(dict.fromkeys(found))
    return tuple(names)


def _numbered(con: Backend, table: str) -> ibis.Table:
    # rowid of a table is the order in which it was written, which is that of the files:
    # https://duckdb.org/docs/stable/sql/dialect/order_preservation
    rows = con.table(table)
    return rows.mutate(_row=rows.rowid())


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _list(paths: Sequence[pathlib.Path]) -> str:
    return "[" + ", ".join(_text(glob.escape(str(path))) for path in paths) + "]"
