"""JSON and Parquet files: written whole or not at all, and read with errors that name the file."""

import contextlib
import csv
import hashlib
import json
import lzma
import os
import pathlib
import secrets
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clickflax.runtime.schema import REMEDY, check_schema, shorten

# What libraries raise for a damaged file, or one of another format. A ValueError of this package,
# which has its own words, is none of these.
READ_ERRORS = (
    pa.ArrowException,
    csv.Error,
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    EOFError,
    RecursionError,
    UnicodeError,
)
DEEPEST = 100  # brackets in brackets of a JSON file
# Types of Parquet columns, with the kinds of Arrow types that they include.
COLUMN_TYPES: dict[str, Callable[[pa.DataType], bool]] = {
    "text": lambda one: pa.types.is_string(one) or pa.types.is_large_string(one),
    "integers": pa.types.is_integer,
    "numbers": lambda one: pa.types.is_integer(one) or pa.types.is_floating(one),
}


@contextlib.contextmanager
def reading(path: str | os.PathLike, remedy: str = REMEDY) -> Iterator[None]:
    """A context in which a file is read: an error of a library becomes a ValueError about the file.

    Errors of the file system pass; so do ValueErrors in words of this package.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        wrong = error.object[error.start : error.start + 4]
        raise ValueError(
            f"{path} is not UTF-8: its byte {error.start} begins {wrong!r}. {remedy}"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). {remedy}") from error
    except zlib.error as error:
        raise ValueError(
            f"{path} cannot be read: its compressed data are damaged. {remedy}"
        ) from error
    except READ_ERRORS as error:
        raise ValueError(f"{path} cannot be read: {first_line(error)}. {remedy}") from error
    except OSError as error:
        if error.strerror:
            raise
        # Such as gzip's "Not a gzipped file", which does not say which.
        raise ValueError(f"{path} cannot be read: {first_line(error)}. {remedy}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop; its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def local(path: str | os.PathLike) -> str:
    """The absolute path of a file, for pyarrow, to which `~` and `file:` at its beginning are more
    than a name.
    """
    return os.path.abspath(path)


def sha256_of(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A context that yields a temporary path to write to, and renames it to `path` at its end.

    Readers see the old file or the new one, each whole; after an error, the old one. The temporary
    path is in the same folder and different in each call, so that several writers of a file do not
    mix: the last one to finish wins.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: pathlib.Path, schema: Any = object) -> Any:
    """Reads a JSON file of a run folder.

    Raises FileNotFoundError if it does not exist, and ValueError if it is not valid JSON or does
    not have this schema (see schema.py).
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: {path.parent} is not the folder of a run "
            "(`clickflax train --workdir=...` makes one)."
        )
    value = parse_json_file(path, path.read_bytes())
    check_schema(path, value, schema)
    return value


def parse_json_file(path: str | os.PathLike, text: bytes | str, remedy: str = REMEDY) -> Any:
    """The value of a JSON text; an error names the file that it was read from."""
    with reading(path, remedy):
        text = text.decode() if isinstance(text, bytes) else text
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError as error:  # an integer of thousands of digits
            raise ValueError(f"{path} cannot be read: {error}. {remedy}") from error
    if _depth(value) > DEEPEST:
        raise ValueError(f"{path} has more than {DEEPEST} brackets in brackets. {remedy}")
    return value


def _depth(value: Any) -> int:
    """How deep objects and lists are nested, without recursion; it stops below DEEPEST."""
    level, depth = [value], 0
    while depth <= DEEPEST:
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            break
        level = [
            inner for one in level for inner in (one.values() if isinstance(one, dict) else one)
        ]
        depth += 1
    return depth


def text_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Yields the lines of a UTF-8 file with their numbers, from 1 on, and their line ends.

    Raises ValueError for a line that is not UTF-8.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not UTF-8 ({shorten(line.strip())}). Save the file as "
                    "UTF-8."
                ) from error
            yield number, text


def json_lines(path: pathlib.Path, schema: Any) -> Iterator[tuple[str, Any]]:
    """Yields the lines of a JSON-lines file, each with its value.

    An incomplete last line, which another process may be writing, is left out. Raises ValueError
    for a line that is not valid JSON, or does not have this schema.
    """
    for number, line in text_lines(path):
        if line.endswith("\n"):
            value = parse_json_file(f"{path}, line {number},", line)
            check_schema(f"{path}, line {number}", value, schema)
            yield line, value


def text_of_json(value: Any) -> str:
    """The text of a JSON file."""
    return json.dumps(value, indent=1) + "\n"


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file, see `atomic`."""
    with atomic(path) as partial:
        partial.write_text(text_of_json(value), encoding="utf-8")


def write_parquet(path: pathlib.Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes columns to a Parquet file, see `atomic`."""
    with atomic(path) as partial:
        pq.write_table(pa.table(dict(columns)), local(partial))


def parquet_schema(path: str | os.PathLike) -> pa.Schema:
    """The columns of a Parquet file and their types."""
    with reading(path):
        return pq.read_schema(local(path))


def read_parquet(path: str | os.PathLike, types: Mapping[str, str | None]) -> pa.Table:
    """Reads columns of a Parquet file, {name: a type of COLUMN_TYPES, or None for any}.

    Raises ValueError if a column is missing, has another type, or has no value in a row although it
    has a type.
    """
    schema = parquet_schema(path)
    for name, type in types.items():
        if schema.names.count(name) != 1:
            raise ValueError(f"{path} has the columns {schema.names}, not one {name!r}. {REMEDY}")
        if type and not COLUMN_TYPES[type](schema.field(name).type):
            raise ValueError(
                f"{path}: the column {name!r} is {schema.field(name).type}, not {type}. {REMEDY}"
            )
    with reading(path), pq.ParquetFile(local(path)) as file:
        table = file.read(columns=list(types))
        table.validate(full=True)
    for name, type in types.items():
        if type and table[name].null_count:
            row = table[name].is_null().to_pylist().index(True) + 1
            raise ValueError(f"{path}, row {row}: there is no {name!r}. {REMEDY}")
    return table
