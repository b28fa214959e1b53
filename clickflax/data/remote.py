"""What lies elsewhere: logs and data sets at URLs, through fsspec, and tables of a warehouse.

A data set at a URL has its files in pieces, so that each host fetches many at once, and next to
them the dataset.json, which is written last:

    URL/dataset.json
    URL/FINGERPRINT/files.json      {file: bytes}
    URL/FINGERPRINT/FILE.00000      the first PIECE bytes of a file, and so on
"""

import concurrent.futures
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable
from typing import Any

import fsspec
import ibis
from filelock import FileLock
from fsspec.spec import AbstractFileSystem

from clickflax.data.options import Options
from clickflax.data.seal import fingerprint

PIECE = 1 << 26  # bytes
AT_ONCE = 16  # pieces
FILES = "files.json"


def is_url(path: str | os.PathLike) -> bool:
    """Whether a path is not one of this machine, such as gs://bucket/shop."""
    return "://" in str(path)


def publish(folder: pathlib.Path, url: str, overwrite: bool = False) -> None:
    """Writes a data set to a URL. Raises FileExistsError where there is one that may not be
    replaced.
    """
    files, root = _open(url)
    old = _read(files, f"{root}/dataset.json")
    if old is not None and not overwrite:
        raise FileExistsError(f"{url} is there: name another folder, or give --overwrite.")
    info = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    there = f"{root}/{info['fingerprint']}"
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    sizes = {str(name): (folder / name).stat().st_size for name in names}

    def put(name: str, number: int) -> None:
        with (folder / name).open("rb") as file:
            file.seek(number * PIECE)
            files.pipe_file(f"{there}/{_piece(name, number)}", file.read(PIECE))

    _all_at_once(put, sizes)
    files.pipe_file(f"{there}/{FILES}", json.dumps(sizes).encode())
    # from here on the URL has the new data set, and before that the old one
    files.pipe_file(f"{root}/dataset.json", (folder / "dataset.json").read_bytes())
    if old is not None and old["fingerprint"] != info["fingerprint"]:
        files.rm(f"{root}/{old['fingerprint']}", recursive=True)


def fetch(url: str) -> pathlib.Path:
    """The folder of this machine that has the data set of a URL; all processes of a machine share
    it. It lies in $CLICKFLAX_CACHE, by default in ~/.cache/clickflax.
    """
    files, root = _open(url)
    info = _read(files, f"{root}/dataset.json")
    if info is None:
        raise FileNotFoundError(f"{url} has no dataset.json: make it with `clickflax prepare`.")
    cache = pathlib.Path(os.environ.get("CLICKFLAX_CACHE", "~/.cache/clickflax")).expanduser()
    folder = cache / info["fingerprint"]
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            new = folder.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)  # of a start that was killed
            _fetch(files, f"{root}/{info['fingerprint']}", new)
            if fingerprint(new) != info["fingerprint"]:
                raise ValueError(f"{url} is damaged: its fingerprint is not that of its files.")
            new.replace(folder)
    return folder


def bring(raw: str, folder: pathlib.Path, options: Options) -> pathlib.Path:
    """A log from elsewhere as a file or a folder in `folder`: the files of a URL as they are, a
    table of the warehouse that `--engine` names with its rows in the order of time, then of the
    other columns.
    """
    name = raw.rstrip("/").rpartition("/")[2]
    if not is_url(options.engine):
        files, root = _open(raw)
        if not files.exists(root):
            raise FileNotFoundError(f"{raw} is not there.")
        files.get(root, str(folder / name), recursive=files.isdir(root))
        return folder / name
    con = ibis.connect(options.engine)
    try:
        table = con.table(raw)
        wanted = {column.name: column.source for column in options.columns}
        for new, old in wanted.items():
            if old not in table.columns:
                raise ValueError(
                    f"{raw} has no column {old!r} for {new}; it has {list(table.columns)}."
                )
        first = [wanted["time"]] if "time" in wanted else []
        columns = list(dict.fromkeys([*first, *wanted.values()]))
        rows = table.select(columns).order_by(columns)
        con.to_parquet(rows, folder / f"{name}.parquet")
    finally:
        con.disconnect()
    return folder / f"{name}.parquet"


def _fetch(files: AbstractFileSystem, there: str, folder: pathlib.Path) -> None:
    """Writes the files of a data set, every piece to its place."""
    sizes = json.loads(files.cat_file(f"{there}/{FILES}"))
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            file.truncate(size)

    def get(name: str, number: int) -> None:
        with (folder / name).open("r+b") as file:
            file.seek(number * PIECE)
            piece: Any = files.cat_file(f"{there}/{_piece(name, number)}")
            file.write(piece)

    _all_at_once(get, sizes)


def _all_at_once(do: Callable[[str, int], None], sizes: dict[str, int]) -> None:
    """Calls `do` for each piece of each file, many at once."""
    pieces: Iterable[tuple[str, int]] = (
        (name, number) for name, size in sizes.items() for number in range(-(-size // PIECE))
    )
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda piece: do(*piece), pieces):
            pass


def _piece(name: str, number: int) -> str:
    return f"{name}.{number:05}"


def _open(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it. ValueError where there is none for it."""
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url}: {error}") from error
    return files, root.rstrip("/")


def _read(files: AbstractFileSystem, path: str) -> dict | None:
    """A file of JSON, None where there is none."""
    try:
        return json.loads(files.cat_file(path))
    except FileNotFoundError:
        return None
