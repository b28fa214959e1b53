"""Locations of rows in files, for error messages."""

import csv
import dataclasses
import gzip
import io
import itertools
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import pyarrow.parquet as pq

Location = tuple[str, int]  # file and line, or file and row for Parquet; the first is 1
LISTED = 5  # bad rows in a report
READ_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be read: its location, the bad value and the reason."""

    file: str
    line: int
    value: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason} ({self.value!r})"


def open_text(path: pathlib.Path) -> io.TextIOWrapper:
    """Opens a text file, plain or gzip; bytes that are not UTF-8 are shown as escapes."""
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", errors="backslashreplace", newline="")


def line_numbers(path: pathlib.Path, starts: Sequence[int]) -> list[int]:
    """Returns the numbers of the lines that start at these byte positions, which rise."""
    numbers = []
    line = 1
    position = 0
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        for start in starts:
            while position < start:
                piece = file.read(min(start - position, READ_BYTES))
                if not piece:
                    raise EOFError(f"{path} ends before its byte {start}.")
                line += piece.count(b"\n")
                position += len(piece)
            numbers.append(line)
    return numbers


def records(
    path: pathlib.Path,
    delimiter: str,
    quote: str,
    rejected: Collection[int] = (),
) -> Iterator[tuple[int, list[str]]]:
    """Yields first line and fields of each record of a text file, without empty records.

    Lines whose number is in `rejected` are left out.
    """
    numbers: list[int] = []

    def lines(file: io.TextIOWrapper) -> Iterator[str]:
        for number, line in enumerate(file, start=1):
            if number not in rejected:
                numbers.append(number)
                yield line

    with open_text(path) as file:
        if quote:
            rows = csv.reader(lines(file), delimiter=delimiter, quotechar=quote)
        else:
            rows = (line.rstrip("\r\n").split(delimiter) for line in lines(file))
        for row in rows:
            if row not in ([], [""]):
                yield numbers[0], row
            numbers.clear()


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
        (str(path), number)
        for path in paths
        for number, line in enumerate(open_text(path), start=1)
        if line.strip("\r\n")
    )
    return next(itertools.islice(locations, row, None))


def locate_parquet_row(paths: Sequence[pathlib.Path], row: int) -> Location:
    """Returns the location of a row of Parquet."""
    for path in paths:
        rows = pq.read_metadata(path).num_rows
        if row < rows:
            return str(path), row + 1
        row -= rows
    raise IndexError(row)


def check_columns(path: pathlib.Path, names: Sequence[str], wanted: Mapping[str, str]) -> None:
    """Raises ValueError if a wanted column does not exist."""
    for new, old in wanted.items():
        if old not in names:
            raise ValueError(f"{path} has no column {old!r} for {new}; it has {list(names)}.")


def check_types(paths: Sequence[pathlib.Path], wanted: Mapping[str, str]) -> None:
    """Raises ValueError if Parquet files lack a wanted column, or differ in its type."""
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
