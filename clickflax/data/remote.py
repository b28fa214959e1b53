"""Data sets at URLs, through fsspec.

A data set at a URL has its files in pieces, so that each host fetches many at once, and next to
them the dataset.json, which is written last:

    URL/dataset.json
    URL/FINGERPRINT/files.json      {file: bytes}
    URL/FINGERPRINT/FILE.00000      the first PIECE bytes of a file, and so on
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable
from typing import Any

import fsspec
from filelock import FileLock
from fsspec.spec import AbstractFileSystem

from clickflax.data.manifest import FINGERPRINT, PREPARE_AGAIN, digests
from clickflax.runtime.files import parse_json_file
from clickflax.runtime.redact import without_secrets
from clickflax.runtime.schema import RELATIVE_PATH, check_schema

PIECE = 1 << 26  # bytes
PARALLEL_PIECES = 16  # pieces
FILES = "files.json"


def is_url(path: str | os.PathLike) -> bool:
    """Returns whether a path is a URL, such as gs://bucket/shop."""
    return "://" in str(path)


def open_url(url: str) -> tuple[AbstractFileSystem, str]:
    """Returns the file system of a URL, and the path in it.

    Raises ValueError if fsspec does not know the protocol.
    """
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{without_secrets(url)}: {error}") from error
    return files, root.rstrip("/")


def check_overwrite(url: str, overwrite: bool) -> None:
    """Raises FileExistsError if the URL has a data set, unless `overwrite` is set."""
    files, root = open_url(url)
    if _read(files, root, url) is not None and not overwrite:
        raise FileExistsError(
            f"{without_secrets(url)} exists: name another folder, or pass --overwrite."
        )


def publish(folder: pathlib.Path, url: str, overwrite: bool = False) -> None:
    """Writes a data set to a URL.

    Raises FileExistsError if the URL has a data set, unless `overwrite` is set.
    """
    check_overwrite(url, overwrite)
    files, root = open_url(url)
    old = _read(files, root, url)
    info = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    target = f"{root}/{info['fingerprint']}"
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    sizes = {str(name): (folder / name).stat().st_size for name in names}
    for parent in {str((pathlib.PurePosixPath(target) / name).parent) for name in sizes}:
        files.makedirs(parent, exist_ok=True)

    def put(name: str, number: int) -> None:
        with (folder / name).open("rb") as file:
            file.seek(number * PIECE)
            files.pipe_file(f"{target}/{_piece(name, number)}", file.read(PIECE))

    _all_at_once(put, sizes)
    files.pipe_file(f"{target}/{FILES}", json.dumps(sizes).encode())
    # From here on the URL has the new data set; until then it has the old one.
    files.pipe_file(f"{root}/dataset.json", (folder / "dataset.json").read_bytes())
    if old is not None and old["fingerprint"] != info["fingerprint"]:
        with contextlib.suppress(FileNotFoundError):  # another process has replaced it, too
            files.rm(f"{root}/{old['fingerprint']}", recursive=True)


def fetch(url: str) -> pathlib.Path:
    """Returns the local folder with the data set of a URL, which is downloaded once per machine.

    The folder is in $CLICKFLAX_CACHE, by default in ~/.cache/clickflax. Raises FileNotFoundError if
    the URL has no data set, and ValueError if it is damaged.
    """
    files, root = open_url(url)
    info = _read(files, root, url)
    if info is None:
        raise FileNotFoundError(
            f"{without_secrets(url)} has no dataset.json: make it with `clickflax prepare`."
        )
    cache = pathlib.Path(os.environ.get("CLICKFLAX_CACHE", "~/.cache/clickflax")).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    # Logs with equal columns may differ in dataset.json.
    manifest = hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()
    folder = cache / f"{info['fingerprint']}-{manifest[:8]}"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            new = folder.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)  # of a start that was killed
            try:
                _fetch(files, f"{root}/{info['fingerprint']}", new)
            except FileNotFoundError as error:
                raise ValueError(
                    f"{without_secrets(url)}: {error} does not exist. If the data set was just "
                    "replaced, try again."
                ) from error
            if digests(new).fingerprint != info["fingerprint"]:
                raise ValueError(
                    f"{without_secrets(url)} is damaged: its fingerprint is not that of its files."
                )
            new.replace(folder)
    return folder


def _fetch(files: AbstractFileSystem, source: str, folder: pathlib.Path) -> None:
    """Downloads the pieces of all files at `source` into a folder."""
    listed: Any = files.cat_file(f"{source}/{FILES}")
    sizes = parse_json_file(f"{source}/{FILES}", listed, PREPARE_AGAIN)
    check_schema(f"{source}/{FILES}", sizes, {RELATIVE_PATH: range(1 << 48)}, remedy=PREPARE_AGAIN)
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            file.truncate(size)

    def get(name: str, number: int) -> None:
        with (folder / name).open("r+b") as file:
            file.seek(number * PIECE)
            piece: Any = files.cat_file(f"{source}/{_piece(name, number)}")
            file.write(piece)

    _all_at_once(get, sizes)


def _all_at_once(do: Callable[[str, int], None], sizes: dict[str, int]) -> None:
    """Calls `do` for each piece of each file, many at once."""
    pieces: Iterable[tuple[str, int]] = (
        (name, number) for name, size in sizes.items() for number in range(-(-size // PIECE))
    )
    with concurrent.futures.ThreadPoolExecutor(PARALLEL_PIECES) as pool:
        for _ in pool.map(lambda piece: do(*piece), pieces):
            pass


def _piece(name: str, number: int) -> str:
    return f"{name}.{number:05}"


def _read(files: AbstractFileSystem, root: str, url: str) -> dict[str, Any] | None:
    """Returns the dataset.json of a URL, or None.

    Raises ValueError if it has no fingerprint.
    """
    try:
        text: Any = files.cat_file(f"{root}/dataset.json")
    except FileNotFoundError:
        return None
    name = f"{without_secrets(url).rstrip('/')}/dataset.json"
    info = parse_json_file(name, text, PREPARE_AGAIN)
    # It names a folder that is written here, and that `publish` removes at the URL.
    check_schema(name, info, {"fingerprint": FINGERPRINT, str: object}, remedy=PREPARE_AGAIN)
    return info
