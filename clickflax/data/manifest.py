"""The manifest of a data set, dataset.json: its schema, sizes, fingerprint and checksums."""

import hashlib
import json
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from clickflax.batch import RESERVED
from clickflax.data.arrays import array_chunks, array_header, open_array
from clickflax.runtime.files import local, parquet_schema, parse_json_file, reading
from clickflax.runtime.schema import FILE_NAME, RELATIVE_PATH, Text, check_schema, shorten

ARRAY_FORMAT = "clickflax data set 1"
PREPARE_AGAIN = (
    "It was damaged or changed: prepare the data set again, or restore it from a backup."
)
FINGERPRINT = Text("64 hexadecimal digits", lambda text: bool(re.fullmatch("[0-9a-f]{64}", text)))
MOST_IDS = range(RESERVED, 1 << 31)
# The schemas of a variable by its kind.
VARIABLE_SCHEMAS = {
    "categorical": {"kind": str, "size": MOST_IDS},
    "several": {"kind": str, "size": MOST_IDS, "width": range(1, 1 << 31)},
    "numeric": {"kind": str, "mean?": object, "std?": object},
    "time": {"kind": str},
}
MANIFEST = {
    "format": str,
    "variables": {
        "item": {"kind": {"categorical"}, str: object},
        "time?": {"kind": {"time"}, str: object},
        FILE_NAME: {"kind": {"categorical", "several", "numeric"}, str: object},
    },
    "sequences": range(1, 1 << 48),
    "events": range(1, 1 << 48),
    "fingerprint": FINGERPRINT,
    "checksums?": {RELATIVE_PATH: int},  # younger than the format
    str: object,
}
ARRAY_KINDS = {"int32": "categorical", "float32": "numeric", "int64": "time"}


def write_manifest(
    folder: pathlib.Path,
    *,
    source: str,
    options: Mapping[str, object],
    counts: Mapping[str, object],
) -> dict:
    """Checks the arrays and tables of a folder, and writes and returns their dataset.json."""
    offsets = open_array(folder / "offsets.npy")
    paths = {path.stem: path for path in sorted((folder / "events").glob("*.npy"))}
    _check_arrays(folder, offsets, paths)
    variables = {name: _describe(folder, name, path) for name, path in paths.items()}
    found = digests(folder)
    info = {
        "format": ARRAY_FORMAT,
        "source": source,
        "options": dict(options),
        "variables": variables,
        "sequences": len(offsets) - 1,
        "events": int(offsets[-1]),
        "items": pq.read_metadata(local(folder / "vocab" / "item.parquet")).num_rows,
        "counts": dict(counts),
        "fingerprint": found.fingerprint,
        "checksums": found.checksums,
    }
    text = json.dumps(info, indent=2, ensure_ascii=False) + "\n"
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    return info


class Digests(NamedTuple):
    """The fingerprint of a data set, and a checksum of each of its files by name."""

    fingerprint: str
    checksums: dict[str, int]


def read_info(file: pathlib.Path, schema: Any) -> dict:
    """Returns a JSON file of a data set. Raises ValueError if it does not have the schema."""
    info = parse_json_file(file, file.read_bytes(), PREPARE_AGAIN)
    check_schema(file, info, schema, remedy=PREPARE_AGAIN)
    return info


def read_manifest(path: pathlib.Path) -> dict:
    """Returns the dataset.json of a folder. Raises ValueError for that of another version."""
    file = path / "dataset.json"
    info = read_info(file, {str: object})
    if info.get("format") != ARRAY_FORMAT:
        raise ValueError(
            f"{path} has format {shorten(info.get('format'))}, this version of clickflax reads "
            f"{ARRAY_FORMAT!r}. Prepare it again."
        )
    check_schema(file, info, MANIFEST, remedy=PREPARE_AGAIN)
    for name, variable in info["variables"].items():
        schema = VARIABLE_SCHEMAS[variable["kind"]]
        check_schema(file, variable, schema, f"variables.{name}", PREPARE_AGAIN)
    return info


def digests(folder: pathlib.Path) -> Digests:
    """Reads a data set once, with bounded memory, and returns its digests.

    The fingerprint is the SHA-256 of names, values and tokens; equal content has an equal one
    anywhere, and equal checksums.
    """
    digest = hashlib.sha256(ARRAY_FORMAT.encode())
    checksums = {}
    for path in sorted(folder.glob("*.npy")) + sorted((folder / "events").glob("*.npy")):
        digest.update(f"\n{path.stem} ".encode())
        checksum = 0
        for values in array_chunks(path):
            if values.dtype.kind == "f":  # a NaN has many bit patterns
                values = np.where(np.isnan(values), np.float32(np.nan), values)
            digest.update(values.data)
            checksum = zlib.crc32(values.data, checksum)
        checksums[path.relative_to(folder).as_posix()] = checksum
    for path in sorted((folder / "vocab").glob("*.parquet")):
        checksum = 0
        for name in parquet_schema(path).names:
            digest.update(f"\n{path.stem} {name} ".encode())
            # Batches of any size give the same text: row groups of Parquet must not matter.
            with reading(path), pq.ParquetFile(local(path)) as file:
                for batch in file.iter_batches(columns=[name]):
                    values = json.dumps(batch.column(0).to_pylist(), default=str)
                    text = values[1:-1].encode() + b", "
                    digest.update(text)
                    checksum = zlib.crc32(text, checksum)
        checksums[path.relative_to(folder).as_posix()] = checksum
    return Digests(digest.hexdigest(), checksums)


def _check_arrays(
    folder: pathlib.Path, offsets: np.ndarray, paths: Mapping[str, pathlib.Path]
) -> None:
    """Raises ValueError if offsets, columns and the table of sequences do not fit together."""
    if "item" not in paths:
        raise ValueError(f"events/item.npy is missing among {sorted(paths)}.")
    if len(offsets) < 2 or offsets[0] != 0 or (np.diff(offsets) < 1).any():
        raise ValueError("offsets start at 0 and rise: at least one sequence, none of them empty.")
    for name, path in paths.items():
        (length, *several), dtype, *_ = array_header(path)
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
    rows = pq.read_metadata(local(folder / "vocab" / "sequence.parquet")).num_rows
    if rows != len(offsets) - 1:
        raise ValueError(f"sequence.parquet has {rows} rows for {len(offsets) - 1} sequences.")


def _describe(folder: pathlib.Path, name: str, path: pathlib.Path) -> dict:
    """Returns the entry of one variable in dataset.json."""
    (_, *several), dtype, *_ = array_header(path)
    kind = ARRAY_KINDS[dtype.name]
    if kind == "categorical":
        vocabulary = folder / "vocab" / f"{name}.parquet"
        size = pq.read_metadata(local(vocabulary)).num_rows + RESERVED
        if several:
            return {"kind": "several", "size": size, "width": several[0]}
        return {"kind": kind, "size": size}
    if kind == "numeric":
        return {"kind": kind, **_moments(path)}
    return {"kind": kind}


def _moments(path: pathlib.Path) -> dict:
    """Returns mean and standard deviation of the values that are not NaN; 0 and 1 of none."""
    count, total, squares = 0, 0.0, 0.0
    for values in array_chunks(path):
        values = values[~np.isnan(values)].astype(np.float64)
        count, total = count + len(values), total + float(values.sum())
    mean = total / max(count, 1)
    for values in array_chunks(path):
        values = values[~np.isnan(values)].astype(np.float64)
        squares += float(np.square(values - mean).sum())
    return {"mean": mean, "std": float(np.sqrt(squares / count)) if count else 1.0}
