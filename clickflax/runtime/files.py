"""JSON and Parquet files that are written whole or not at all."""

import contextlib
import json
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def read_json(path: pathlib.Path) -> Any:
    """A JSON file of a run folder."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: {path.parent} is not the folder of a run "
            "(`clickflax train --workdir=...` makes one)."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is no whole JSON file ({error}): what wrote it was cut short, or it was "
            "changed. Copy it from a backup, or make it again."
        ) from None


@contextlib.contextmanager
def atomic(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file that is written whole or not at all: yields a temporary path, which becomes `path`.

    The temporary path is next to it, and of this process and thread alone. After an error it is
    removed, and `path` stays as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_parquet(path: pathlib.Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes columns as a Parquet file."""
    with atomic(path) as partial:
        pq.write_table(pa.table(dict(columns)), partial)
