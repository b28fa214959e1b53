"""JSON and Parquet files that are written whole or not at all."""

import json
import os
import pathlib
from collections.abc import Mapping
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


def write_json(path: pathlib.Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # another process has its own
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def write_parquet(path: pathlib.Path, columns: Mapping[str, np.ndarray]) -> None:
    """Columns of a Parquet file, whole or not at all."""
    partial = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.table(dict(columns)), partial)
    partial.replace(path)
