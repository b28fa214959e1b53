"""Lines, quotes and paths in Spark's notation, and the reasons for rejected lines."""

import csv
import pathlib
import re
import urllib.parse
from collections.abc import Sequence
from datetime import datetime

from clickflax.preparation.locate import Location
from clickflax.preparation.reasons import NOT_UTF_8, wrong_width


def balanced_quotes(delimiter: str, quote: str) -> str:
    """Returns the regular expression of a line with balanced quotes.

    A field that begins with a quote ends with one. Possessive quantifiers avoid backtracking, which
    would overflow the stack on long lines.
    """
    q = re.escape(quote)
    d = re.escape(delimiter)
    field = f"(?:{q}[^{q}]*+(?:{q}{q}[^{q}]*+)*+{q} *|[^{q}{d}][^{d}]*+|)"
    return f"^{field}(?:{d}{field})*+$"


def check_time_pattern(pattern: str) -> None:
    """Raises ValueError if a pattern has an unknown directive."""
    try:
        datetime.strptime("", pattern)
    except ValueError as error:
        if "format" in str(error) and "does not match" not in str(error):
            raise ValueError(f"--time-format={pattern!r}: {error}.") from error


def rejection_reason(names: Sequence[str], delimiter: str, quote: str, line: str) -> str:
    """Returns the reason for a rejected line."""
    if quote:
        count = len(next(csv.reader([line], delimiter=delimiter, quotechar=quote)))
    else:
        count = len(line.split(delimiter))
    if count == len(names):
        return NOT_UTF_8
    return wrong_width(count if count < len(names) else None, len(names))


def line_of(paths: Sequence[pathlib.Path], begins: Sequence[int], row: int) -> Location:
    """Returns the location of a row that is counted over all files, which begin at `begins`."""
    file = max(k for k, begin in enumerate(begins) if begin <= row)
    return str(paths[file]), row - begins[file] + 1


def path_key(path: pathlib.Path | str) -> str:
    """Returns one spelling of a local path and of the URI that Spark writes for it."""
    if isinstance(path, pathlib.Path):
        return str(path.resolve())
    return urllib.parse.unquote(urllib.parse.urlsplit(path).path)


def path_uri(path: pathlib.Path) -> str:
    """Returns the path as a file:// URI."""
    return path.resolve().as_uri()


def escape_glob(path: pathlib.Path) -> str:
    """Returns a path in which Spark finds no wildcard."""
    return re.sub(r"([*?\[\]{}\\])", r"\\\1", str(path.resolve()))
