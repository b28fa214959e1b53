"""What a run was made with, for `environment.json`: code, versions, devices, machine, data."""

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
from clickflax.runtime.sharding import cores

HERE = pathlib.Path(clickflax.__file__).resolve().parents[1]
# What may change numbers, of all that `environment` tells.
MADE_WITH = ("commit", "dirty", "versions", "backend", "devices", "cpu", "cores")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment(data_fingerprint: str) -> dict[str, Any]:
    """Everything outside the config that a result may depend on; JSON can hold it."""
    devices = jax.devices()
    kinds = [device.device_kind for device in devices]
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        **checkout(),
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


def starts(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The environment of the first start, and of those that went on with something else."""
    return [told, *told.get("resumed", [])]


def resumed(told: dict[str, Any]) -> dict[str, Any]:
    """The environment of a run that goes on, with that of today if it is another one."""
    now, last = environment(told["data"]), starts(told)[-1]
    if all(now[name] == last[name] for name in MADE_WITH):
        return told
    return told | {"resumed": [*told.get("resumed", []), now]}


def checkout(root: pathlib.Path = HERE) -> dict[str, Any]:
    """Commit of the checkout at `root`, and whether files but JSON differ; None without git."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # An installed package may lie inside the checkout of something else.
    if top is None or pathlib.Path(top).resolve() != root:
        return {"commit": None, "dirty": None}
    # Records of results, which several runs in a row write into the checkout, are no code.
    status = _git(root, "status", "--porcelain", "--", ":(exclude)*.json")
    return {
        "commit": _git(root, "rev-parse", "--verify", "HEAD"),
        "dirty": None if status is None else status != "",
    }


def _git(root: pathlib.Path, *arguments: str) -> str | None:
    """What git says, or None where it is not installed or fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    """The processor's name as Linux tells it, else as Python does."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
