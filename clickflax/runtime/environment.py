"""Environment of a run for `environment.json`: code, versions, devices, machine, data."""

import datetime
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax

import clickflax
from clickflax.runtime.redact import without_secrets
from clickflax.runtime.sharding import cores

CHECKOUT = pathlib.Path(clickflax.__file__).resolve().parents[1]
# The entries of `environment` on which the numbers of a run may depend.
CREATED_WITH = ("commit", "dirty", "versions", "backend", "devices", "cpu", "cores")
# Schema of environment.json: what is read of it.
ENVIRONMENT = {
    "data": str,
    "labels": (str, None),
    "resumed?": [{str: object}],
    str: object,
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment(data_fingerprint: str) -> dict[str, Any]:
    """Everything outside the config that a result may depend on, as JSON values."""
    devices = jax.devices()
    kinds = [device.device_kind for device in devices]
    words = [pathlib.Path(sys.argv[0]).name, *map(without_secrets, sys.argv[1:])]
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(words),
        **checkout_state(),
        "versions": {
            "python": platform.python_version(),
            "clickflax": clickflax.__version__,
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "backend": jax.default_backend(),
        "devices": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "processes": jax.process_count(),
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": cores(),
        "data": data_fingerprint,
    }


def read_starts(stored: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Environments of all starts of a run: the first, then those in which it was resumed."""
    return [stored, *stored.get("resumed", [])]


def add_start(stored: dict[str, Any]) -> dict[str, Any]:
    """Environment of a resumed run: adds the current one if it differs from the last."""
    current = environment(stored["data"])
    last = read_starts(stored)[-1]
    if all(current[name] == last.get(name) for name in CREATED_WITH):
        return stored
    return stored | {"resumed": [*stored.get("resumed", []), current]}


def checkout_state(root: pathlib.Path = CHECKOUT) -> dict[str, Any]:
    """Commit of the checkout at `root`, and whether files but JSON differ; None without git."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # An installed package may lie inside the checkout of something else.
    if top is None or pathlib.Path(top).resolve() != root:
        return {"commit": None, "dirty": None}
    # Records of results are not code: several runs in a row write them into the checkout.
    status = _git(root, "status", "--porcelain", "--", ":(exclude)*.json")
    return {
        "commit": _git(root, "rev-parse", "--verify", "HEAD"),
        "dirty": None if status is None else status != "",
    }


def _git(root: pathlib.Path, *arguments: str) -> str | None:
    """Output of a git command, or None if git is not installed or fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    """Name of the processor, from /proc/cpuinfo on Linux and from Python elsewhere."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
