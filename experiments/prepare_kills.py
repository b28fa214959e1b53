"""Kills of preparations, for reliability.py."""

import collections
import pathlib
import random
import signal
import subprocess
import time

import numpy as np

from clickflax.data.check import open_checked
from clickflax.data.store import open_dataset
from experiments.kills import LOOK_EVERY, start
from experiments.speed import time_command


def killed(call: list[str], seconds: float) -> bool:
    """Runs a command and kills it after some seconds; returns False if it had ended before."""
    with start(call) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"clickflax {' '.join(call)} ended with {process.returncode}.")
    return process.returncode != 0


def prepare_call(log: pathlib.Path, folder: pathlib.Path, *flags: str) -> list[str]:
    """The words of a preparation."""
    names = "--columns=sequence=user,item=item,time=time"
    return ["prepare", "log", f"--raw={log}", f"--out={folder}", names, "--k-core=5", *flags]


def write_random_log(log: pathlib.Path, seed: int) -> None:
    """Writes a log of 400,000 events."""
    numbers = np.random.default_rng(seed)
    columns = [numbers.integers(20_000, size=400_000), numbers.integers(5_000, size=400_000)]
    table = np.stack([*columns, numbers.integers(2**31, size=400_000)], 1)
    np.savetxt(log, table, "%d", ",", header="user,item,time", comments="")


def stores(kills: int, out: pathlib.Path, chance: random.Random) -> dict:
    """Kills preparations `kills` times and counts what they leave behind."""
    log, found = out / "log.csv", {"kills": 0, "nothing": 0, "whole": 0, "ended before": 0}
    write_random_log(log, 0)
    seconds = time_command(*prepare_call(log, out / "store"))
    whole = open_dataset(out / "store").fingerprint
    while found["kills"] < kills:
        folder = out / f"store-{found['kills']}-{found['ended before']}"
        if not killed(prepare_call(log, folder), chance.uniform(0, seconds)):
            found["ended before"] += 1
            continue
        found["kills"] += 1
        if not folder.exists():
            found["nothing"] += 1
        elif open_dataset(folder).fingerprint == whole:
            found["whole"] += 1
    return found


def replacements(kills: int, out: pathlib.Path, chance: random.Random) -> dict:
    """Kills preparations that replace a data set by another, half of them near the end."""
    folder = out / "replace" / "store"
    logs, fingerprints, seconds = [out / "0.csv", out / "1.csv"], set(), 0.0
    for seed, log in enumerate(logs):
        write_random_log(log, seed)
        seconds = time_command(*prepare_call(log, folder, "--overwrite"))
        fingerprints.add(open_checked(folder).fingerprint)
    found: collections.Counter[str] = collections.Counter()
    while found["kills"] < kills:
        with start(prepare_call(chance.choice(logs), folder, "--overwrite")) as process:
            complete = chance.random() < 0.5
            until = time.monotonic() + chance.uniform(0, seconds)
            while process.poll() is None and (complete or time.monotonic() < until):
                time.sleep(LOOK_EVERY / 10)
                # The manifest of the new data set is its last file.
                if complete and list(folder.parent.glob(".store.*.tmp/store/dataset.json")):
                    time.sleep(chance.uniform(0, 0.005))
                    break
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        if process.returncode == 0:
            found["ended before"] += 1
            continue
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"a preparation of {folder} ended with {process.returncode}.")
        found["kills"] += 1
        found["left-overs"] += len(list(folder.parent.iterdir())) > 1
        if folder.exists():
            found["whole"] += open_checked(folder).fingerprint in fingerprints
        else:  # the next one puts it back
            (old,) = folder.parent.glob(".store.*.old")
            found["moved away"] += open_checked(old).fingerprint in fingerprints
    time_command(*prepare_call(logs[0], folder, "--overwrite"))
    left = [path.name for path in folder.parent.iterdir() if path != folder]
    return {"whole": 0, "moved away": 0, **found, "left at the end": left}
