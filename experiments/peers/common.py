"""Shared parts of the scripts that time other libraries: flags, data, clock, checks, record.

Only NumPy and the standard library are imported: the environments of the libraries lack the rest.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
DROPOUT = 0.2
MASKED = 0.2  # share of the events of a sequence that BERT4Rec masks
LEARNING_RATE = 1e-3
TOP_K = 10


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Flags that all scripts have; the first line of `doc` is the description."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--data", required=True, help="a file of `user item` lines, in time order")
    parser.add_argument("--model", choices=("bert4rec", "sasrec"), default="bert4rec")
    parser.add_argument("--max-len", type=int, default=200, help="longest sequence, in events")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128, help="sequences per training step")
    parser.add_argument("--steps", type=int, default=10, help="training steps")
    parser.add_argument("--record", type=pathlib.Path, help="a JSON file to write, too")
    return parser


def add_users(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of scripts that recommend."""
    parser.add_argument("--users", type=int, default=6040, help="the first users get items")


def add_accelerator(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of scripts that use PyTorch."""
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")


def read_events(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of a file of `user item` lines, in its order."""
    users, items = np.loadtxt(path, dtype=np.int64, unpack=True)
    return users, items


def positions(users: np.ndarray) -> np.ndarray:
    """Position of each event among the events of its user, from 0."""
    order = np.argsort(users, kind="stable")
    _, first, count = np.unique(users[order], return_index=True, return_counts=True)
    position = np.empty(len(users), np.int64)
    position[order] = np.arange(len(users)) - np.repeat(first, count)
    return position


def in_order(users: np.ndarray) -> np.ndarray:
    """Each user once, in the order of their first events."""
    _, first = np.unique(users, return_index=True)
    return users[np.sort(first)]


def median_step(times: list[float], skip: int) -> float:
    """Median seconds between consecutive times, without the first `skip` steps.

    Raises ValueError if no step is left.
    """
    seconds = np.diff(times)[skip:]
    if not len(seconds):
        raise ValueError(f"{len(times)} times and skip={skip} leave no step: raise --steps.")
    return float(np.median(seconds))


def seconds_since(start: float) -> float:
    """Seconds since a time of `time.perf_counter()`."""
    return time.perf_counter() - start


def peak_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check_lists(
    users: np.ndarray,
    items: np.ndarray,
    list_users: np.ndarray,
    list_items: np.ndarray,
    count: int,
) -> None:
    """Raises ValueError unless `count` users have TOP_K items each, none of which they have had."""
    lists = np.unique(list_users, return_counts=True)[1]
    if len(lists) != count or not (lists == TOP_K).all():
        sizes = np.unique(lists).tolist()
        raise ValueError(
            f"{len(lists)} users have {sizes} items each, where {count} users should have {TOP_K}."
        )
    known = set(zip(users.tolist(), items.tolist(), strict=True))
    recommended = zip(list_users.tolist(), list_items.tolist(), strict=True)
    seen = sum(pair in known for pair in recommended)
    if seen:
        raise ValueError(f"{seen} recommended items are among those that the user has had.")


def report(
    flags: argparse.Namespace, name: str, packages: tuple[str, ...], numbers: dict[str, object]
) -> None:
    """Prints the record as one JSON line, and writes it to `--record` if given.

    `name` is that of the library in `--peers` of speed.py; the first of `packages` is its version.
    """
    versions = {package: importlib.metadata.version(package) for package in packages}
    config = {flag: value for flag, value in vars(flags).items() if flag != "record"}
    record = {
        "peer": f"{name} {versions[packages[0]]}",
        "config": config | {"data": pathlib.Path(flags.data).parent.name},
        **numbers,
        "peak_rss_mb": peak_mb(),
        "environment": {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **commit(),
            "versions": {"python": platform.python_version(), **versions},
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
        },
    }
    print(json.dumps(record))
    if flags.record:
        flags.record.parent.mkdir(parents=True, exist_ok=True)
        flags.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def commit() -> dict[str, object]:
    """Commit of this checkout, and whether files other than JSON have changed; None without git."""
    head = git("rev-parse", "--verify", "HEAD")
    status = git("status", "--porcelain", "--", ":(exclude)*.json")
    return {"commit": head, "dirty": None if status is None else status != ""}


def git(*words: str) -> str | None:
    """Output of a git command, or None if git is not installed or fails."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_model() -> str:
    """Name of the processor, from /proc/cpuinfo on Linux and from Python elsewhere."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
