"""Checks of the contents of a data set: offsets, ids, vocabularies and fingerprint."""

import os

import numpy as np
import pyarrow.compute as pc

from clickflax.batch import RESERVED
from clickflax.data.arrays import CHUNK_VALUES, array_chunks
from clickflax.data.manifest import PREPARE_AGAIN, digests
from clickflax.data.store import Dataset, open_dataset
from clickflax.runtime.files import read_parquet


def open_checked(path: str | os.PathLike) -> Dataset:
    """Opens a data set and checks its contents, which takes a second for ten million events.

    Raises ValueError with the file that is damaged, and all errors of `open_dataset`.
    """
    dataset = open_dataset(path)
    _check_offsets(dataset)
    _check_ids(dataset)
    _check_vocabularies(dataset)
    _check_digests(dataset)
    return dataset


def _check_offsets(dataset: Dataset) -> None:
    """Raises ValueError if a sequence has no event, or the last one does not end at the last."""
    offsets, path = dataset.offsets, dataset.path / "offsets.npy"
    if offsets[0] != 0 or offsets[-1] != dataset.events:
        raise ValueError(
            f"{path} goes from {offsets[0]} to {offsets[-1]}, not from 0 to {dataset.events}, the "
            f"number of events. {PREPARE_AGAIN}"
        )
    for first in range(0, dataset.sequences, CHUNK_VALUES):
        falls = np.diff(offsets[first : first + CHUNK_VALUES + 1]) < 1
        if falls.any():
            sequence = first + int(falls.argmax())
            raise ValueError(
                f"{path}: sequence {sequence} is from event {offsets[sequence]} to "
                f"{offsets[sequence + 1]}. {PREPARE_AGAIN}"
            )


def _check_ids(dataset: Dataset) -> None:
    """Raises ValueError for an id that is not in its vocabulary, and a part that does not exist."""
    sizes = {f"events/{name}.npy": one.size for name, one in dataset.vocabularies.items()}
    if dataset.source_split is not None:
        sizes["part.npy"] = 2
    for name, size in sizes.items():
        for values in array_chunks(dataset.path / name):
            least, most = int(values.min()), int(values.max())
            if least < 0 or most >= size:
                raise ValueError(
                    f"{dataset.path / name} has the id {least if least < 0 else most}; its ids are "
                    f"0 to {size - 1}. {PREPARE_AGAIN}"
                )


def _check_vocabularies(dataset: Dataset) -> None:
    """Raises ValueError for a vocabulary of another size, and for tokens that stand twice."""
    rows = {name: one.size - RESERVED for name, one in dataset.vocabularies.items()}
    for name, expected in {**rows, "sequence": dataset.sequences}.items():
        path = dataset.path / "vocab" / f"{name}.parquet"
        types = {"token": "text"} | ({"count": "integers"} if name in rows else {})
        tokens = read_parquet(path, types)["token"]
        if len(tokens) != expected:
            raise ValueError(
                f"{path} has {len(tokens):,} tokens, not {expected:,}. {PREPARE_AGAIN}"
            )
        distinct = pc.call_function("count_distinct", [tokens]).as_py()
        if distinct < expected:
            raise ValueError(f"{path} has {expected - distinct:,} tokens twice. {PREPARE_AGAIN}")


def _check_digests(dataset: Dataset) -> None:
    """Raises ValueError if the fingerprint is not that of the files; it names those that differ.

    Data sets of versions before 0.2.0 have no checksums, by which it could.
    """
    found = digests(dataset.path)
    if found.fingerprint == dataset.fingerprint:
        return
    expected = dataset.info.get("checksums", {})
    names = [name for name, sum in found.checksums.items() if expected.get(name, sum) != sum]
    names += sorted(expected.keys() ^ found.checksums.keys()) if expected else []
    raise ValueError(
        f"{dataset.path}: {', '.join(names) or 'a file'} is not as it was prepared: the "
        f"fingerprint of the data set is no longer {dataset.fingerprint[:12]}. {PREPARE_AGAIN}"
    )
