"""Text files as every source reads them: bytes, lines, records and headers.

A line ends in LF, CR LF or CR, the same in the whole file, and its number counts from 1. Empty
lines are skipped, except for the first, which must not be empty. Text is UTF-8, with or without a
byte order mark, unless a source documents another encoding.
"""

import contextlib
import csv
import gzip
import io
import itertools
import pathlib
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa

from clickflax.preparation.reasons import wrong_width
from clickflax.runtime.files import reading

DELIMITERS = (",", "\t", ";", "|")
SAMPLED_RECORDS = 100  # to choose between delimiters; the engine checks all
READ_BYTES = 1 << 24
LONGEST_FIELD = 1 << 24  # characters
COMPRESSED = (".gz", ".zst")
# The first bytes of files that are no text.
SIGNATURES = {
    b"\x1f\x8b": "gzip: give it a name that ends in .gz",
    b"\x28\xb5\x2f\xfd": "Zstandard: give it a name that ends in .zst",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet: unpack it, or save it as CSV",
    b"PAR1": "Parquet: give it a name that ends in .parquet",
    b"BZh": "bzip2: unpack it",
    b"\xfd7zXZ": "xz: unpack it",
    b"\xff\xfe": "UTF-16: convert it, such as with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16: convert it, such as with iconv -f UTF-16 -t UTF-8",
}
UTF_8 = "utf-8-sig"  # with or without a byte order mark
COPY_AGAIN = "Copy it again, or make it again."


def is_compressed(path: pathlib.Path) -> bool:
    """Returns whether a file is unpacked as it is read, by its name."""
    return path.suffix in COMPRESSED


def open_bytes(path: pathlib.Path) -> io.BufferedReader | gzip.GzipFile:
    """Opens a file, which is unpacked as it is read if its name ends in .gz or .zst."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


@contextlib.contextmanager
def open_text(
    path: pathlib.Path, encoding: str | None = None, errors: str = "backslashreplace"
) -> Iterator[io.TextIOWrapper]:
    """Opens a text file, by default in UTF-8; bytes that are not are shown as escapes."""
    with (
        reading(path, COPY_AGAIN),
        open_bytes(path) as file,
        io.TextIOWrapper(file, encoding or UTF_8, errors, newline="") as text,
    ):
        yield text


def check_text(paths: Sequence[pathlib.Path]) -> None:
    """Raises ValueError for a file that is no text, by its first bytes, or that is not unpacked."""
    for path in paths:
        with reading(path, COPY_AGAIN), open_bytes(path) as file:
            start = file.read(8)
        for signature, advice in SIGNATURES.items():
            if start.startswith(signature):
                raise ValueError(f"{path} is {advice}.")


def line_numbers(path: pathlib.Path, starts: Sequence[int]) -> list[int]:
    """Returns the numbers of the lines that start at these byte positions, which rise."""
    numbers = []
    line = 1
    position = 0
    with reading(path, COPY_AGAIN), open_bytes(path) as file:
        for start in starts:
            while position < start:
                piece = file.read(min(start - position, READ_BYTES))
                if not piece:
                    raise EOFError(f"it ends before its byte {start}")
                line += piece.count(b"\n")
                position += len(piece)
            numbers.append(line)
    return numbers


def numbered_lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields number and text of each line, without its end."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            yield number, line.rstrip("\r\n")


def records(
    path: pathlib.Path,
    delimiter: str,
    quote: str,
    rejected: Collection[int] = (),
    encoding: str | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """Yields first line and fields of each record of a text file, without empty records.

    Lines whose number is in `rejected` are left out. Without an encoding it is UTF-8, and bytes
    that are not are shown as escapes; with one, they raise ValueError.
    """
    numbers: list[int] = []

    def lines(file: io.TextIOWrapper) -> Iterator[str]:
        for number, line in enumerate(file, start=1):
            if number not in rejected:
                if encoding and not line.isascii():
                    _check_encoding(path, number, line, encoding)
                numbers.append(number)
                yield line

    csv.field_size_limit(LONGEST_FIELD)
    with open_text(path, encoding, "surrogateescape" if encoding else "backslashreplace") as file:
        if quote:
            rows = csv.reader(lines(file), delimiter=delimiter, quotechar=quote)
        else:
            rows = (line.rstrip("\r\n").split(delimiter) for line in lines(file))
        for row in rows:
            if row not in ([], [""]):
                yield numbers[0], row
            numbers.clear()


def _check_encoding(path: pathlib.Path, number: int, line: str, encoding: str) -> None:
    """Raises ValueError if a line has bytes that are not of the encoding, as lone surrogates."""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path}, line {number}: its character {error.start + 1} is not {encoding}. Convert "
            "the file, such as with iconv -f LATIN1 -t UTF-8."
        ) from error


def rows_of_width(
    path: pathlib.Path, delimiter: str, width: int, encoding: str = UTF_8
) -> Iterator[tuple[int, list[str]]]:
    """Yields line and fields of a small file without quotes, every row of which has `width` fields.

    Raises ValueError for any other row.
    """
    for line, row in records(path, delimiter, "", encoding=encoding):
        if len(row) != width:
            raise ValueError(f"{path}, line {line}: {wrong_width(len(row), width)}.")
        yield line, row


def first_record(path: pathlib.Path, delimiter: str, quote: str) -> tuple[str, ...]:
    """Returns the fields of the first line of a text file.

    Raises ValueError if that line is empty, or is not UTF-8.
    """
    for line, record in records(path, delimiter, quote, encoding=UTF_8):
        if line > 1:
            raise ValueError(f"{path}: line 1 is blank. Remove it.")
        return tuple(record)
    raise ValueError(f"{path} is empty.")


def find_delimiter(path: pathlib.Path, quote: str) -> str:
    """Returns the delimiter of a text file.

    Of several that the first line has, it is the one that splits all of the first records into
    equally many fields, else the one that splits the first line into most fields. It is a space
    where that line has no other one.

    Raises ValueError if two delimiters would do.
    """
    with open_text(path) as file:
        line = file.readline()
    if not line.strip():
        raise ValueError(f"{path}: line 1 is blank. Remove it." if line else f"{path} is empty.")
    there = [delimiter for delimiter in DELIMITERS if delimiter in line]
    if len(there) < 2:
        return there[0] if there else " " if " " in line.strip() else ","
    fitting = [delimiter for delimiter in there if _fits(path, delimiter, quote)]
    candidates = fitting or there
    width = {one: len(first_record(path, one, quote)) for one in candidates}
    best = [one for one in candidates if width[one] == max(width.values())]
    if len(best) > 1:
        raise ValueError(
            f"{path}, line 1: {' or '.join(map(repr, best))} could separate its fields. Name one "
            "with --delimiter."
        )
    return best[0]


def _fits(path: pathlib.Path, delimiter: str, quote: str) -> bool:
    """Returns whether a delimiter splits the first records into equally many fields, two or more"""
    try:
        first = itertools.islice(records(path, delimiter, quote), SAMPLED_RECORDS)
        widths = {len(row) for _line, row in first}
    except ValueError:
        return False
    return len(widths) == 1 and widths != {1}
