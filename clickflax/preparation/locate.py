"""Locations of rows in files, for error messages."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence

from clickflax.preparation.text_files import numbered_lines, records

Location = tuple[str, int]  # file and line, or file and row for Parquet; the first is 1
LISTED = 5  # bad rows in a report
SHOWN = 100  # characters of a bad row


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be read: its location, the bad value and the reason."""

    file: str
    line: int
    value: str | None
    reason: str

    def __str__(self) -> str:
        value = "" if self.value is None else f" ({self.value!r})"
        return f"{self.file}, line {self.line}: {self.reason}{value}"


def locate_text(
    paths: Sequence[pathlib.Path],
    delimiter: str,
    quote: str,
    header: bool,
    rejected: Callable[[pathlib.Path], Collection[int]],
    row: int,
) -> Location:
    """Returns the location of a row of text, counted as the engine does: without rejected lines."""
    locations = (
        (str(path), line)
        for path in paths
        for line, _ in itertools.islice(
            records(path, delimiter, quote, rejected(path)), int(header), None
        )
    )
    return next(itertools.islice(locations, row, None))


def locate_line(paths: Sequence[pathlib.Path], row: int) -> Location:
    """Returns the location of a line, counted without empty lines."""
    locations = (
        (str(path), number) for path in paths for number, line in numbered_lines(path) if line
    )
    return next(itertools.islice(locations, row, None))


def check_columns(path: pathlib.Path, names: Sequence[str], wanted: Mapping[str, str]) -> None:
    """Raises ValueError if a wanted column does not exist."""
    for new, old in wanted.items():
        if old not in names:
            raise ValueError(f"{path} has no column {old!r} for {new}; it has {list(names)}.")
