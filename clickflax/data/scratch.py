"""Scratch folders of data sets that are being written, and what killed writings have left of them.

DIR/.NAME.XXXXXXXX.tmp/.lock   held by the process that writes: whoever can take it may clean up
DIR/.NAME.XXXXXXXX.tmp/NAME    the data set until it is complete
DIR/.NAME.XXXXXXXX.old         the data set that it replaces, while the two change places
"""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

from clickflax.runtime.lock import Locked, hold
from clickflax.runtime.terminal import say

LOCK = ".lock"


@contextlib.contextmanager
def scratch_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new private folder next to `path`, which is locked, and removed at the end."""
    with contextlib.ExitStack() as stack:
        yield _locked_folder(path, stack)


def remove_left_overs(path: pathlib.Path) -> None:
    """Removes the scratch folders of killed writings of `path`, and says so.

    If one was killed while the old data set and the new one changed places, the old one is put
    back. Folders of writings that go on are left alone, as are those without a lock: an
    earlier version has made them, and it is not known whether it still writes.
    """
    if not path.parent.is_dir():
        return
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.tmp")
    for folder in sorted(path.parent.iterdir()):
        if not name.fullmatch(folder.name) or not _is_ours(folder):
            continue
        if not (folder / LOCK).exists() and any(folder.iterdir()):
            continue
        with contextlib.suppress(Locked), hold(folder / LOCK, str(folder)):
            _put_back(path, folder.with_suffix(".old"), folder)
            remove_scratch(folder)
            say(f"{folder}: removed; a process that was killed had left it", error=True)


def remove_scratch(folder: pathlib.Path) -> None:
    """Removes a scratch folder, its lock last, so that a kill here leaves it to others to remove.

    Files that cannot be removed are left.
    """
    for inner in folder.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _locked_folder(path: pathlib.Path, stack: contextlib.ExitStack) -> pathlib.Path:
    """Returns a new folder whose lock the stack holds, and which the stack removes."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(".tmp", f".{path.name}.", path.parent))
        # Before it has its lock, another process may take it for a left-over and remove it.
        with contextlib.suppress(Locked, FileNotFoundError):
            stack.enter_context(hold(folder / LOCK, str(folder)))
            if (folder / LOCK).exists():
                stack.callback(remove_scratch, folder)
                return folder


def _is_ours(folder: pathlib.Path) -> bool:
    """Whether it is a folder of this user: the folder of temporary files is that of many users."""
    return not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.getuid()


def _put_back(path: pathlib.Path, old: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts the old data set of a killed writing back to its place, or where it will be removed."""
    if not old.is_dir():
        return
    if path.exists():
        old.replace(folder / "old")
        return
    old.replace(path)
    say(f"{path}: put back; a process that was killed had moved it away", error=True)
