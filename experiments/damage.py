"""Damage to each file of a run in turn, for reliability.py.

A bit of a file is flipped, the file is cut to its half, or removed. Then the run is opened with its
best and its last parameters, and its training goes on. Each must be an error with the path, or go
by an older checkpoint and say so, or give what the whole run gives, to the bit.
"""

import collections
import contextlib
import io
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from clickflax.config.default import to_dict
from clickflax.run.folder import last_checkpoint, load_run
from clickflax.runtime import checkpoint
from clickflax.runtime.errors import user_message
from clickflax.runtime.files import read_parquet
from clickflax.runtime.params import by_name
from clickflax.training.loop import parse_train_flags, train
from experiments.kills import tiny_training

STEPS, LONGER = 16, 20  # of the run, and of a training that goes on
NAMED, OLDER, SAME = "error with the path", "older checkpoint, said so", "same to the bit"
HARMLESS = (NAMED, OLDER, SAME)


def damage(path: pathlib.Path, how: str) -> bool:
    """Damages a file; False if it is empty, so that nothing can be flipped or cut."""
    data = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
        return True
    if how == "flipped" and data:
        data[len(data) // 2] ^= 4
    path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
    return len(data) > 0


def call_of(folder: pathlib.Path, steps: int, data: pathlib.Path | None = None) -> list[str]:
    """The words of a training that can be made longer."""
    return tiny_training(folder, data, "optim.schedule=constant", f"train.steps={steps}")


def answers(folder: pathlib.Path, which: str) -> dict[str, Any]:
    """All on which the answers of a run depend, besides its parameters; and those, by name."""
    run = load_run(folder, which)
    tables = {name: one.path for name, one in run.vocabularies.items()}
    columns = {name: read_parquet(path, {"token": "text"}) for name, path in tables.items()}
    return {
        "config": json.dumps(to_dict(run.config), sort_keys=True),
        "variables": run.variables,
        "vocabularies": {name: table.to_pydict() for name, table in columns.items()},
        "features": {name: one.values.tobytes() for name, one in run.features.items()},
        "params": {name: np.asarray(one) for name, one in by_name(run.params).items()},
    }


def goes_on(folder: pathlib.Path) -> dict[str, Any]:
    """Resumes a training and returns what its parameters are at the end."""
    config, _ = parse_train_flags(call_of(folder, LONGER)[1:])
    train(config, folder)
    return answers(folder, "last")


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two runs answer alike, to the bit."""
    ours, theirs = one["params"], other["params"]
    return (
        {**one, "params": 0} == {**other, "params": 0}
        and ours.keys() == theirs.keys()
        and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    )


def outcome(folder: pathlib.Path, read: Callable[[], dict], whole: dict, older: list[dict]) -> str:
    """What has become of reading a damaged run; one of HARMLESS, or words about it."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = read()
    except Exception as error:  # of any kind: it is what is measured
        text = user_message(error)
        return NAMED if str(folder) in text else f"{type(error).__name__}: {text[:200]}"
    if equal(found, whole):
        return SAME
    if any(equal(found, one) for one in older):
        return OLDER if "damaged: step" in said.getvalue() else "an older checkpoint, unsaid"
    return "other answers"


def earlier(folder: pathlib.Path, whole: dict, kept: str) -> list[dict]:
    """The answers with the parameters of the older checkpoints, as `whole` has those of the newest.

    Parameters have no padding, as the tables lie on one device.
    """
    path = last_checkpoint(folder).with_name(kept)
    steps = [int(one.name) for one in path.iterdir() if one.name.isdigit()]
    found = []
    for step in steps:
        _, params = checkpoint.load_params(path, checkpoint.on_host(), step)
        arrays = {name: np.asarray(one) for name, one in by_name(params).items()}
        found.append({**whole, "params": arrays})
    return found


def area(name: str) -> str:
    """The part of a run that a file belongs to."""
    parts = pathlib.PurePath(name).parts
    if parts[0] == "checkpoints":
        return "/".join(parts[:2])
    return parts[0] if len(parts) > 1 else "other files"


def damages(out: pathlib.Path, every: int) -> dict:
    """Damages each file of a run in turn, or every n-th, and counts what comes of it."""
    run, copy = out / "run", out / "damaged"
    subprocess.run(
        [sys.executable, "-m", "clickflax.cli", *["simulate", "--sequences=300", "--items=100"]]
        + [f"--out={run / 'data'}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run([sys.executable, "-m", "clickflax.cli", *call_of(run, STEPS)], check=True)
    whole = {which: answers(run, which) for which in ("best", "last")}
    older = {which: earlier(run, whole[which], which) for which in ("best", "last")}
    shutil.copytree(run, copy)
    whole["on"], older["on"] = goes_on(copy), []
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    wrong = []
    names = sorted(str(one.relative_to(run)) for one in run.rglob("*") if one.is_file())[::every]
    for name in names:
        counts[area(name)]["files"] += 1
        for how in ("flipped", "cut", "removed"):
            shutil.rmtree(copy)
            shutil.copytree(run, copy)
            if not damage(copy / name, how):
                continue
            reads = {
                "best": lambda: answers(copy, "best"),
                "last": lambda: answers(copy, "last"),
                "on": lambda: goes_on(copy),
            }
            for what, read in reads.items():
                came = outcome(copy, read, whole[what], older[what])
                counts[area(name)][came if came in HARMLESS else "other"] += 1
                if came not in HARMLESS:
                    wrong.append({"file": name, "how": how, "read": what, "came": came})
                    print(wrong[-1], flush=True)
    return {"files": len(names), "areas": {k: dict(v) for k, v in counts.items()}, "other": wrong}
