"""JSON and Parquet files: written whole or not at all, and read with errors that name the file."""

import contextlib
import csv
import json
import lzma
import os
import pathlib
import secrets
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# What libraries raise for a damaged file, or one of another format. A ValueError of this package,
# which has its own words, is none of these.
READ_ERRORS = (
    pa.ArrowException,
    csv.Error,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RecursionError,
    UnicodeError,
)
REMEDY = "It was cut short or changed. Restore it from a backup, or make it again."


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


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file of a run folder.

    Raises FileNotFoundError if it does not exist, and ValueError if it is not valid JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: {path.parent} is not the folder of a run "
            "(`clickflax train --workdir=...` makes one)."
        )
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file, see `atomic`."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_parquet(path: pathlib.Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes columns to a Parquet file, see `atomic`."""
    with atomic(path) as partial:
        pq.write_table(pa.table(dict(columns)), partial)
