"""The prepared data set on disk: memory-mapped columns, offsets and vocabularies.

    DIR/dataset.json            format, source, options, variables, sizes, counts, fingerprint
    DIR/offsets.npy             int64 [S+1]; sequence s is events offsets[s]:offsets[s+1]
    DIR/part.npy                int8 [S], 0 train and 1 test; only if the source has a test file
    DIR/events/NAME.npy         [E]: int32 ids (categorical), float32 (numeric, NaN is missing),
                                int64 microseconds since 1970 UTC (`time`, absent without times)
                                [E, M]: int32 ids (several), each once and ascending, then PAD
    DIR/vocab/NAME.parquet      row i is id i + RESERVED: token, count, then catalog features
    DIR/vocab/sequence.parquet  row s is sequence s: token, then sequence features

Sequences are in the order of their first event in the log, and events of a sequence in the order of
time. Ids go by frequency, then by token.
"""

import collections
import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Int8, Int32, Int64, Shaped

from clickflax.batch import RESERVED, UNK
from clickflax.data.arrays import array_header, array_writer, open_array
from clickflax.data.batches import Windows
from clickflax.data.manifest import PREPARE_AGAIN, read_manifest, write_manifest
from clickflax.data.remote import fetch, is_url
from clickflax.data.scratch import remove_left_overs, scratch_folder
from clickflax.data.sessions import Sessions, find_sessions
from clickflax.runtime.files import REMEDY, local, parquet_schema, read_parquet, reading, sha256_of

RESERVED_TOKENS = ("[PAD]", "[MASK]", "[UNK]", "[CLS]", "[SEP]", "[NA]")
ARRAY_TYPES = {"categorical": "int32", "several": "int32", "numeric": "float32", "time": "int64"}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Tokens of one categorical variable and their ids; the file is read at first use."""

    path: pathlib.Path
    size: int  # number of ids, the reserved ones included
    digest: str = ""  # SHA-256 that the file must have when it is read; "": any

    def token(self, id: int) -> str:
        """Returns the token of an id, such as `[PAD]` for a reserved one."""
        if not 0 <= id < self.size:
            raise ValueError(f"id {id} is not in {self.path}: its ids are 0 to {self.size - 1}.")
        return RESERVED_TOKENS[id] if id < RESERVED else self.tokens()[id - RESERVED]

    def tokens(self) -> list[str]:
        """Returns all tokens in the order of their ids; the first has id RESERVED."""
        return self._tokens

    def ids(self, tokens: Sequence[str]) -> Int32[np.ndarray, " N"]:
        """Returns the ids of tokens, UNK for those that are not in the vocabulary."""
        return np.array([self._index.get(token, UNK) for token in tokens], dtype=np.int32)

    def feature_names(self) -> list[str]:
        """Returns the columns of the catalog besides token and count."""
        names = parquet_schema(self.path).names
        self.check_unchanged()
        return [name for name in names if name not in ("token", "count")]

    def column(self, name: str) -> list | None:
        """Returns a column of the catalog, such as count, title or genres; None if it has none."""
        values = read_column(self.path, name)
        self.check_unchanged()
        return values

    def check_unchanged(self) -> None:
        """Raises ValueError if the file is not the one that was opened: ids have other meanings."""
        if self.digest and sha256_of(self.path) != self.digest:
            raise ValueError(
                f"{self.path} has changed since it was opened, such as by another training in its "
                "folder. Open it again."
            )

    def titles(self) -> list[str | None]:
        """Returns the titles of the tokens; None for a token without one."""
        titles = self.column("title") or [None] * (self.size - RESERVED)
        return [None if title is None else str(title) for title in titles]

    def names(self) -> list[str]:
        """Returns the titles of the tokens; the token itself if it has no title."""
        pairs = zip(self.titles(), self.tokens(), strict=True)
        return [title or token for title, token in pairs]

    @functools.cached_property
    def _tokens(self) -> list[str]:
        table = read_parquet(self.path, {"token": "text", "count": "integers"})
        with reading(self.path):
            tokens = table["token"].to_pylist()
        self.check_unchanged()
        if len(tokens) != self.size - RESERVED:
            raise ValueError(
                f"{self.path} has {len(tokens):,} tokens, not {self.size - RESERVED:,}. {REMEDY}"
            )
        if len(set(tokens)) < len(tokens):
            twice = next(one for one, count in collections.Counter(tokens).items() if count > 1)
            raise ValueError(f"{self.path} has the token {twice!r} twice. {REMEDY}")
        return tokens

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {token: id for id, token in enumerate(self._tokens, start=RESERVED)}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An open data set; columns are memory-mapped, and vocabularies read at first use."""

    path: pathlib.Path
    info: dict
    offsets: Int64[np.ndarray, " bounds"]
    columns: dict[str, np.ndarray]
    source_split: Int8[np.ndarray, " S"] | None  # 0 train, 1 test; only if the source has both
    vocabularies: dict[str, Vocabulary]
    sessions: Sessions | None = None  # None: sequences are not divided

    def with_sessions(self, by: str) -> "Dataset":
        """Returns the data set with sessions as in `config.data.chain`; without, if it is empty."""
        sessions = find_sessions(by, self.offsets, self.columns) if by else None
        return dataclasses.replace(self, sessions=sessions)

    def without_separators(self) -> "Dataset":
        """Returns the data set with the same sessions and no SEP between them."""
        if self.sessions is None:
            return self
        sessions = self.sessions._replace(position=np.arange(self.events))
        return dataclasses.replace(self, sessions=sessions)

    def with_separators(self, values: Shaped[np.ndarray, "E ..."]) -> Shaped[np.ndarray, "P ..."]:
        """Returns the values of events at all positions, with a SEP between sessions."""
        return values if self.sessions is None else self.sessions.with_separators(values)

    def position_ranges(self, ranges: Windows, separator: bool = False) -> Windows:
        """Returns the positions of ranges of events; see `Sessions.position_ranges`."""
        if self.sessions is None:
            return ranges
        return self.sessions.position_ranges(ranges, separator)

    @property
    def session_bounds(self) -> Int[np.ndarray, " bounds"]:
        """First event of each session, and the number of events; without sessions, `offsets`."""
        if self.sessions is None:
            return self.offsets
        number = self.sessions.number
        begins = np.diff(number, prepend=number[:1]) != 0
        begins[self.offsets[:-1]] = True
        return np.append(np.flatnonzero(begins), len(number))

    @property
    def sequence_starts(self) -> Int[np.ndarray, " S"]:
        """Position of the first event of each sequence."""
        return self.position_ranges(Windows(self.offsets[:-1], self.offsets[1:])).start

    @property
    def length(self) -> int:
        """Number of positions: events, and the SEPs between them."""
        return self.events if self.sessions is None else self.sessions.length

    @property
    def sequences(self) -> int:
        return len(self.offsets) - 1

    @property
    def events(self) -> int:
        return len(self.columns["item"])

    @property
    def fingerprint(self) -> str:
        return self.info["fingerprint"]

    def size(self, variable: str) -> int:
        """Returns the number of ids of a categorical variable, the reserved ones included."""
        return self.vocabulary(variable).size

    def vocabulary(self, variable: str) -> Vocabulary:
        """Returns the vocabulary of a variable. Raises ValueError if it is not categorical."""
        if variable not in self.vocabularies:
            raise ValueError(
                f"{variable!r} is not a categorical variable of {self.path}; "
                f"these are: {sorted(self.vocabularies)}."
            )
        return self.vocabularies[variable]

    def ids(self, variable: str) -> Int32[np.ndarray, " E"]:
        """Returns the id of each event in a categorical variable.

        Raises ValueError for a variable with several values per event.
        """
        self.vocabulary(variable)
        if self.columns[variable].ndim > 1:
            raise ValueError(
                f"{variable!r} has several values per event in {self.path}: it can be an input and "
                "select events, but it cannot be predicted, counted or given."
            )
        return self.columns[variable]

    def sequence_column(self, name: str) -> list | None:
        """Returns a column of the sequences, token or a feature, or None if it does not exist."""
        return read_column(self.path / "vocab" / "sequence.parquet", name)

    def sequence_features(self) -> list[str]:
        """Returns the names of the features of sequences."""
        names = parquet_schema(self.path / "vocab" / "sequence.parquet").names
        return [name for name in names if name != "token"]


def open_dataset(path: str | os.PathLike) -> Dataset:
    """Opens a data set, which takes milliseconds at any size; one at a URL is downloaded once.

    Raises FileNotFoundError if it does not exist, and ValueError if it is not a data set of this
    version.
    """
    path = fetch(str(path)) if is_url(path) else pathlib.Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist. Make it with `clickflax prepare`.")
    if not (path / "dataset.json").is_file():
        raise ValueError(f"{path} has no dataset.json: it is not a prepared data set.")
    info = read_manifest(path)
    variables = info["variables"]
    source_split = path / "part.npy"
    _check_headers(path, info)
    return Dataset(
        path=path,
        info=info,
        offsets=open_array(path / "offsets.npy"),
        columns={name: open_array(path / "events" / f"{name}.npy") for name in variables},
        source_split=open_array(source_split) if source_split.is_file() else None,
        vocabularies={
            name: Vocabulary(path / "vocab" / f"{name}.parquet", variable["size"])
            for name, variable in variables.items()
            if variable["kind"] in ("categorical", "several")
        },
    )


def _check_headers(path: pathlib.Path, info: Mapping[str, Any]) -> None:
    """Raises ValueError if an array has another type or shape than dataset.json says."""
    sequences, events = info["sequences"], info["events"]
    expected = {"offsets.npy": ("int64", (sequences + 1,))}
    for name, variable in info["variables"].items():
        width = (variable["width"],) if variable["kind"] == "several" else ()
        expected[f"events/{name}.npy"] = (ARRAY_TYPES[variable["kind"]], (events, *width))
    if (path / "part.npy").is_file():
        expected["part.npy"] = ("int8", (sequences,))
    for name, (type, shape) in expected.items():
        found, dtype, *_ = array_header(path / name)
        if (dtype.name, found) != (type, shape):
            raise ValueError(
                f"{path / name} has {dtype.name} values of the shape {found}; dataset.json says "
                f"{type} and {shape}. {PREPARE_AGAIN}"
            )


def open_vocabulary(path: str | os.PathLike) -> Vocabulary:
    """Opens one vocabulary file, such as the copy of a run; if it changes, it is read no more."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the vocabulary {path} does not exist.")
    with reading(path):
        rows = pq.read_metadata(local(path)).num_rows
        return Vocabulary(path, rows + RESERVED, sha256_of(path))


def read_column(path: pathlib.Path, name: str) -> list | None:
    """Returns one column of a Parquet file, or None if it has no such column."""
    if name not in parquet_schema(path).names:
        return None
    table = read_parquet(path, {name: None})
    with reading(path):
        return table[name].to_pylist()


@contextlib.contextmanager
def new_dataset_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yields a temporary folder next to `path`, which is renamed to it at the end.

    If an error is raised, the folder is removed, and `path` stays as it was. Removes what killed
    writings of `path` have left, and says so. Raises FileExistsError if `path` exists, unless it is
    a data set and `overwrite` is set.
    """
    path = pathlib.Path(os.path.realpath(path))
    remove_left_overs(path)
    _check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The outer folder is private; the inner one, which is kept, has the usual permissions.
        with scratch_folder(path) as outer:
            folder = outer / path.name
            folder.mkdir()
            yield folder
            _swap(folder, path)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise OSError(
                f"cannot write {path}: {os.strerror(error.errno).lower()}. Nothing was kept; "
                "free some space, or write to another disk."
            ) from error
        raise


def write_dataset(
    folder: pathlib.Path,
    *,
    source: str,
    options: Mapping[str, object],
    offsets: Int[np.ndarray, " bounds"],
    events: Mapping[str, np.ndarray],
    vocabularies: Mapping[str, pa.Table],
    sequences: pa.Table,
    counts: Mapping[str, object],
) -> dict:
    """Writes arrays and tables in memory as a data set, and returns its dataset.json.

    The dtype of an event column decides its kind: int32 ids are categorical and need a vocabulary
    (token, count, then features), or several values per event if they are [E, M]; float32 is
    numeric; int64 is `time` in microseconds.
    """
    write_array(folder / "offsets.npy", np.asarray(offsets, dtype=np.int64))
    for name, values in events.items():
        write_array(folder / "events" / f"{name}.npy", values)
    for name, table in {**vocabularies, "sequence": sequences}.items():
        write_table(folder / "vocab" / f"{name}.parquet", table)
    return write_manifest(folder, source=source, options=options, counts=counts)


def write_array(path: pathlib.Path, values: np.ndarray) -> None:
    """Writes one array; its folder is created."""
    with array_writer(path, values.dtype, values.shape) as append:
        append(values)


def write_table(path: pathlib.Path, table: pa.Table) -> None:
    """Writes one Parquet file; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, local(path))


def _check_free(path: pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError if `path` exists, unless it is a data set and `overwrite` is set."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / "dataset.json").is_file():
        raise FileExistsError(f"{path} exists and is not a data set: name another folder.")
    if not overwrite:
        raise FileExistsError(f"{path} exists: name another folder, or pass --overwrite.")


def _swap(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Replaces `path` by a finished folder; an error leaves the old one."""
    if not path.exists() or not any(path.iterdir()):
        folder.replace(path)
        return
    old = folder.parent.with_suffix(".old")  # outside the folder that is removed after an error
    path.replace(old)
    try:
        folder.replace(path)
    except BaseException:
        old.replace(path)
        raise
    old.replace(folder.parent / "old")
