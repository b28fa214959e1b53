"""JSON and Parquet files that are written whole or not at all."""

import contextlib
import json
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


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
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}): it was cut short or changed. Restore it from a "
            "backup, or make it again."
        ) from None


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file, see `atomic`."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_parquet(path: pathlib.Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes columns to a Parquet file, see `atomic`."""
    with atomic(path) as partial:
        pq.write_table(pa.table(dict(columns)), partial)
