"""Records of text that DuckDB refused: how many, which, and whether rows were lost by them."""

import pathlib
from collections.abc import Collection

from ibis.backends.duckdb import Backend

from clickflax.preparation.locate import LISTED, BadRow, line_numbers


def keep_rejected(con: Backend, table: str, buffer: int) -> tuple[int, tuple[BadRow, ...]]:
    """How many records the last reading refused, kept in `table`, and the first of them."""
    # DuckDB numbers records, not lines: where the record starts tells the line
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
        # what the quote swallows is neither read nor rejected: it could not be counted
        (line,) = line_numbers(pathlib.Path(broken[0]), [broken[1]])
        raise ValueError(
            f"{broken[0]}, line {line}: a quote is opened and not closed, so that it is unknown "
            "where rows end. Mend it, or read quotes as any other character with --quote=none."
        )
    # DuckDB takes a buffer without a good row for the end of the file
    part = buffer // 4
    hopeless = con.raw_sql(
        f"SELECT file FROM {table} GROUP BY file, start // {part} "
        f"HAVING sum(strlen(text) + 1) >= {part // 2} ORDER BY file LIMIT 1"
    ).fetchone()
    if hopeless is not None:
        raise ValueError(
            f"{hopeless[0]} has more than {part // 2 >> 20} MB of malformed lines in one place; "
            "is the delimiter or the quote right?"
        )
    count = con.raw_sql(f"SELECT count(*) FROM {table}").fetchall()[0][0]
    found = con.raw_sql(
        f"SELECT file, start, text, reason FROM {table} ORDER BY file, start LIMIT {LISTED}"
    ).fetchall()
    rows = []
    for file, start, text, reason in found:
        (line,) = line_numbers(pathlib.Path(file), [start])
        reason = reason.splitlines()[0].rstrip(".")
        blank = len(text) - len(text.lstrip("\r\n"))  # an empty line before it belongs to it
        line += text[:blank].count("\n")
        rows.append(BadRow(file, line, text.strip("\r\n"), reason))
    return count, tuple(rows)


def rejected_lines(con: Backend, table: str, path: pathlib.Path) -> Collection[int]:
    """The numbers of the lines of the records of a file that were refused."""
    # a record may begin with the end of the line before it, and with empty lines
    found = con.con.execute(
        f"SELECT start, length(ends) - length(replace(ends, chr(10), '')) AS all_breaks, "
        f"length(core) - length(replace(core, chr(10), '')) AS breaks FROM (SELECT start, "
        f"rtrim(text, chr(13) || chr(10)) AS ends, trim(text, chr(13) || chr(10)) AS core "
        f"FROM {table} WHERE file = ?) ORDER BY start",
        [str(path)],
    ).fetchall()
    lines = line_numbers(path, [start for start, _, _ in found])
    return {
        line + all_breaks - further
        for line, (_, all_breaks, breaks) in zip(lines, found, strict=True)
        for further in range(breaks + 1)
    }
