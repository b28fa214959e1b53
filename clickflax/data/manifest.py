"""The manifest of a data set, dataset.json: checked arrays, sizes and fingerprint."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq

from clickflax.batch import RESERVED

ARRAY_FORMAT = "clickflax data set 1"
ARRAY_KINDS = {"int32": "categorical", "float32": "numeric", "int64": "time"}
CHUNK_VALUES = 1 << 22  # read at once, so that memory is bounded


@contextlib.contextmanager
def array_writer(
    path: pathlib.Path, dtype: np.dtype, shape: tuple[int, ...]
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends values, along the first axis, to a new `.npy`.

    A full disk raises OSError; with a memory map it would end the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    dtype = np.dtype(dtype)

    def append(values: np.ndarray) -> None:
        nonlocal written
        if values.dtype != dtype:
            raise ValueError(f"{path.name}: {values.dtype} values for a {dtype} column.")
        if values.shape[1:] != shape[1:]:
            raise ValueError(f"{path.name}: {values.shape} values for a {shape} column.")
        file.write(np.ascontiguousarray(values).data)
        written += len(values)

    with path.open("wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype.newbyteorder("<")),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(file, header)
        yield append
    if written != shape[0]:
        raise ValueError(f"{path.name}: {written} values were written, not {shape[0]}.")


def write_manifest(
    folder: pathlib.Path,
    *,
    source: str,
    options: Mapping[str, object],
    counts: Mapping[str, object],
) -> dict:
    """Checks the arrays and tables of a folder, and writes and returns their dataset.json."""
    offsets = np.load(folder / "offsets.npy")
    paths = {path.stem: path for path in sorted((folder / "events").glob("*.npy"))}
    _check_arrays(folder, offsets, paths)
    variables = {name: _describe(folder, name, path) for name, path in paths.items()}
    info = {
        "format": ARRAY_FORMAT,
        "source": source,
        "options": dict(options),
        "variables": variables,
        "sequences": len(offsets) - 1,
        "events": int(offsets[-1]),
        "items": pq.read_metadata(folder / "vocab" / "item.parquet").num_rows,
        "counts": dict(counts),
        "fingerprint": fingerprint(folder),
    }
    text = json.dumps(info, indent=2, ensure_ascii=False) + "\n"
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    return info


def fingerprint(folder: pathlib.Path) -> str:
    """Returns the SHA-256 of names, values and tokens; equal content has an equal one anywhere."""
    digest = hashlib.sha256(ARRAY_FORMAT.encode())
    for path in sorted(folder.glob("*.npy")) + sorted((folder / "events").glob("*.npy")):
        digest.update(f"\n{path.stem} ".encode())
        for values in _chunks(path):
            if values.dtype.kind == "f":  # a NaN has many bit patterns
                values = np.where(np.isnan(values), np.float32(np.nan), values)
            digest.update(values.data)
    for path in sorted((folder / "vocab").glob("*.parquet")):
        for name in pq.read_schema(path).names:
            digest.update(f"\n{path.stem} {name} ".encode())
            # Batches of any size give the same text: row groups of Parquet must not matter.
            for batch in pq.ParquetFile(path).iter_batches(columns=[name]):
                values = json.dumps(batch.column(0).to_pylist(), default=str)
                digest.update(values[1:-1].encode() + b", ")
    return digest.hexdigest()


def _check_arrays(
    folder: pathlib.Path, offsets: np.ndarray, paths: Mapping[str, pathlib.Path]
) -> None:
    """Raises ValueError if offsets, columns and the table of sequences do not fit together."""
    if "item" not in paths:
        raise ValueError(f"events/item.npy is missing among {sorted(paths)}.")
    if len(offsets) < 2 or offsets[0] != 0 or (np.diff(offsets) < 1).any():
        raise ValueError("offsets start at 0 and rise: at least one sequence, none of them empty.")
    for name, path in paths.items():
        (length, *several), dtype = _header(path)
        if length != offsets[-1]:
            raise ValueError(f"events/{name}.npy has {length} values for {offsets[-1]} events.")
        if dtype.name not in ARRAY_KINDS or (dtype.name == "int64") != (name == "time"):
            raise ValueError(
                f"events/{name}.npy is {dtype.name}: categorical columns are int32, numeric ones "
                "float32, and `time` alone is int64."
            )
        if several and (name == "item" or dtype.name != "int32" or len(several) > 1):
            raise ValueError(
                f"events/{name}.npy is {dtype.name} of {several} per event: only categorical "
                "columns other than the item may have several values per event."
            )
    rows = pq.read_metadata(folder / "vocab" / "sequence.parquet").num_rows
    if rows != len(offsets) - 1:
        raise ValueError(f"sequence.parquet has {rows} rows for {len(offsets) - 1} sequences.")


def _describe(folder: pathlib.Path, name: str, path: pathlib.Path) -> dict:
    """Returns the entry of one variable in dataset.json."""
    (_, *several), dtype = _header(path)
    kind = ARRAY_KINDS[dtype.name]
    if kind == "categorical":
        vocabulary = folder / "vocab" / f"{name}.parquet"
        size = pq.read_metadata(vocabulary).num_rows + RESERVED
        if several:
            return {"kind": "several", "size": size, "width": several[0]}
        return {"kind": kind, "size": size}
    if kind == "numeric":
        return {"kind": kind, **_moments(path)}
    return {"kind": kind}


def _moments(path: pathlib.Path) -> dict:
    """Returns mean and standard deviation of the values that are not NaN; 0 and 1 of none."""
    count, total, squares = 0, 0.0, 0.0
    for values in _chunks(path):
        values = values[~np.isnan(values)].astype(np.float64)
        count, total = count + len(values), total + float(values.sum())
    mean = total / max(count, 1)
    for values in _chunks(path):
        values = values[~np.isnan(values)].astype(np.float64)
        squares += float(np.square(values - mean).sum())
    return {"mean": mean, "std": float(np.sqrt(squares / count)) if count else 1.0}


def _header(path: pathlib.Path) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and dtype of a `.npy`."""
    with path.open("rb") as file:
        return _read_header(file)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _chunks(path: pathlib.Path) -> Iterator[np.ndarray]:
    """Yields the values of a `.npy`, up to CHUNK_VALUES at a time."""
    with path.open("rb") as file:
        _, dtype = _read_header(file)
        while len(values := np.fromfile(file, dtype=dtype, count=CHUNK_VALUES)):
            yield values
