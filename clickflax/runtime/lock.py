"""Locks of folders: one process writes at a time, also of machines that share a disk."""

import contextlib
import datetime
import os
import pathlib
import platform
from collections.abc import Iterator

import filelock


class Locked(ValueError):
    """Raised where another process holds a lock; its message names the process."""


@contextlib.contextmanager
def hold(path: pathlib.Path, what: str) -> Iterator[None]:
    """A context that holds the lock of a file, which it makes, with its folder.

    The kernel releases the lock when the process ends, however it ends. Raises Locked, about
    `what`, if another process holds it; the file `PATH.holder` says which.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_name(f"{path.name}.holder")
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Locked(
            f"{what} is in use by {_read_holder(holder)}. Wait until it has ended, or end it."
        ) from None
    try:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = f"process {os.getpid()} on {platform.node()}, since {now}"
        holder.write_text(about + "\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def is_held(path: pathlib.Path) -> bool:
    """Whether a process holds the lock of a file."""
    if not path.exists():
        return False
    try:
        with filelock.FileLock(path, timeout=0):
            return False
    except filelock.Timeout:
        return True


def _read_holder(path: pathlib.Path) -> str:
    """Who holds a lock, in words."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:  # it has just begun
        return "another process"
