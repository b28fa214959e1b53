"""Records of text that DuckDB rejected: their number, their location, and lost rows."""

import pathlib
import re
from collections.abc import Collection

from ibis.backends.duckdb import Backend

from clickflax.preparation.locate import LISTED, SHOWN, BadRow
from clickflax.preparation.reasons import NOT_UTF_8, UNCLOSED_QUOTE, wrong_width
from clickflax.preparation.text_files import line_numbers

WRONG_WIDTH = re.compile(r"Expected Number of Columns: (?P<wanted>\d+) Found: (?P<found>\d+)")
TOO_LONG = re.compile(r"Maximum line size of (?P<most>\d+) bytes exceeded")


def path_for_duckdb(path: pathlib.Path) -> str:
    """Returns a path as DuckDB takes it: `~` and `file:` at its beginning are only a name."""
    return str(path) if path.is_absolute() else f"./{path}"


def keep_rejected(con: Backend, table: str, buffer: int) -> tuple[int, tuple[BadRow, ...]]:
    """Keeps the records that the last read rejected in `table`; returns their number and the first.

    Raises ValueError if the rejected records may have swallowed good rows.
    """
    # DuckDB numbers records, not lines: the byte position of a record gives its line.
    con.raw_sql(
        f"CREATE TABLE {table} AS SELECT file_path AS file, line_byte_position - 1 AS start, "
        "any_value(csv_line) AS text, any_value(error_message) AS reason, "
        "bool_or(error_type = 'UNQUOTED VALUE') AS broken "
        "FROM reject_errors JOIN reject_scans USING (scan_id, file_id) GROUP BY ALL; "
        "DROP TABLE reject_errors; DROP TABLE reject_scans"
    )
    broken = con.raw_sql(
        f"SELECT file, start FROM {table} WHERE broken ORDER BY ALL LIMIT 1"
    ).fetchone()
    if broken is not None:
        # Rows that the quote swallows are neither read nor rejected, and could not be counted.
        path = pathlib.Path(broken[0])
        (line,) = line_numbers(path, [broken[1]])
        raise ValueError(
            f"{path}, line {line}: {UNCLOSED_QUOTE}, so that the end of "
            "rows is unknown. Correct it, or read quotes as ordinary characters with --quote=none."
        )
    # DuckDB treats a buffer without a good row as the end of the file.
    window = buffer // 4
    dense = con.raw_sql(
        f"SELECT file FROM {table} GROUP BY file, start // {window} "
        f"HAVING sum(strlen(text) + 1) >= {window // 2} ORDER BY file LIMIT 1"
    ).fetchone()
    if dense is not None:
        raise ValueError(
            f"{pathlib.Path(dense[0])} has more than {window // 2 >> 20} MB of malformed lines in "
            "a row; is the delimiter or the quote right? Set it with --delimiter or --quote."
        )
    count = con.raw_sql(f"SELECT count(*) FROM {table}").fetchall()[0][0]
    first = con.raw_sql(
        f"SELECT file, start, text, reason FROM {table} ORDER BY file, start LIMIT {LISTED}"
    ).fetchall()
    rows = []
    for file, start, text, reason in first:
        path = pathlib.Path(file)
        (line,) = line_numbers(path, [start])
        blank = len(text) - len(text.lstrip("\r\n"))  # the record begins with empty lines
        line += text[:blank].count("\n")
        rows.append(BadRow(str(path), line, text.strip("\r\n")[:SHOWN], plain_reason(reason)))
    return count, tuple(rows)


def plain_reason(reason: str) -> str:
    """Returns the reason of DuckDB for a rejected line in plain words."""
    width = WRONG_WIDTH.search(reason)
    if width is not None:
        found, wanted = int(width["found"]), int(width["wanted"])
        # DuckDB stops to count at the first field too many.
        return wrong_width(found if found < wanted else None, wanted)
    if "not utf-8" in reason:
        return NOT_UTF_8
    longest = TOO_LONG.search(reason)
    if longest is not None:
        return f"it is longer than {int(longest['most']):,} bytes"
    if "unterminated quote" in reason:
        return UNCLOSED_QUOTE
    return f"DuckDB does not read it: {reason.splitlines()[0].rstrip('.')}"


def rejected_lines(con: Backend, table: str, path: pathlib.Path) -> Collection[int]:
    """Returns the numbers of the lines of a file's rejected records."""
    # A record may begin with the end of the line before it, and with empty lines.
    rejected = con.con.execute(
        f"SELECT start, length(ends) - length(replace(ends, chr(10), '')) AS all_breaks, "
        f"length(core) - length(replace(core, chr(10), '')) AS breaks FROM (SELECT start, "
        f"rtrim(text, chr(13) || chr(10)) AS ends, trim(text, chr(13) || chr(10)) AS core "
        f"FROM {table} WHERE file = ?) ORDER BY start",
        [path_for_duckdb(path)],
    ).fetchall()
    lines = line_numbers(path, [start for start, _, _ in rejected])
    return {
        line + all_breaks - further
        for line, (_, all_breaks, breaks) in zip(lines, rejected, strict=True)
        for further in range(breaks + 1)
    }
