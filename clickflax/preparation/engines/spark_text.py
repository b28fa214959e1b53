"""Lines, quotes and paths as Spark takes them, and what is said of those that it cannot read."""

import csv
import pathlib
import re
import urllib.parse
from collections.abc import Sequence
from datetime import datetime

from clickflax.preparation.locate import Place

NOT_UTF_8 = "it is not UTF-8"


def quoted(delimiter: str, quote: str) -> str:
    """What a line is whose quotes are right: a field begins with one and ends with one, or does not
    begin with one. What is matched is not given back: long lines would take all of the stack.
    """
    q, d = re.escape(quote), re.escape(delimiter)
    field = f"(?:{q}[^{q}]*+(?:{q}{q}[^{q}]*+)*+{q} *|[^{q}{d}][^{d}]*+|)"
    return f"^{field}(?:{d}{field})*+$"


def check_pattern(pattern: str) -> None:
    """Refuses a pattern that no time could have."""
    try:
        datetime.strptime("", pattern)
    except ValueError as error:
        if "format" in str(error) and "does not match" not in str(error):
            raise ValueError(f"--time-format={pattern!r}: {error}.") from error


def reason_of(names: Sequence[str], delimiter: str, quote: str, line: str) -> str:
    """Why a line is refused, in the words of DuckDB."""
    rows = csv.reader([line], delimiter=delimiter, quotechar=quote) if quote else [[]]
    found = len(next(iter(rows))) if quote else len(line.split(delimiter))
    if found == len(names):
        return NOT_UTF_8
    # DuckDB stops counting at the first one too many
    return f"Expected Number of Columns: {len(names)} Found: {min(found, len(names) + 1)}"


def line_of(paths: Sequence[pathlib.Path], begins: Sequence[int], row: int) -> Place:
    """The file and line of a line, counted over all files."""
    which = max(k for k, begin in enumerate(begins) if begin <= row)
    return str(paths[which]), row - begins[which] + 1


def key_of(path: pathlib.Path | str) -> str:
    """A path, or how Spark writes it, without what may be written in two ways."""
    if isinstance(path, pathlib.Path):
        return str(path.resolve())
    return urllib.parse.unquote(urllib.parse.urlsplit(path).path)


def uri(path: pathlib.Path) -> str:
    return path.resolve().as_uri()


def escaped(path: pathlib.Path) -> str:
    """A path of which Spark takes no sign for a pattern."""
    return re.sub(r"([*?\[\]{}\\])", r"\\\1", str(path.resolve()))
