"""Signals at random moments: Ctrl-C, SIGTERM and SIGHUP end a training in time, and say so.

    python experiments/signals.py --out signals   # an hour; experiments/signals.json
    python experiments/signals.py --out signals --tries 5

Each training on the simulated shop gets one signal at a random time between its start and its end;
every other one has to compile all of its programs. It must end within ten seconds by the status of
the signal, with the checkpoint of the last finished step, or say that nothing was saved yet.
"""

import argparse
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

from clickflax.runtime.environment import environment
from clickflax.training.progress import last_saved
from experiments.study import HERE, MACHINE

RECORD = HERE / "signals.json"
CONFIG = HERE.parent / "configs" / "quickstart.py"
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
IN_TIME = 10  # seconds
SWALLOWED = 120  # seconds after which a training that goes on has swallowed the signal
KNOBS = ("train.steps=60", "train.eval_every=10", "train.log_every=5", "train.batch_size=16")


def start(folder: pathlib.Path, data: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
    """Starts a training, whose programs are kept in `cache`; its words are in FOLDER.txt."""
    call = ["train", f"--config={CONFIG}", f"--workdir={folder}", f"--config.data.path={data}"]
    call += [f"--config.{knob}" for knob in KNOBS]
    with folder.with_suffix(".txt").open("w", encoding="utf-8") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "clickflax.cli", *call],
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        )


def whole(folder: pathlib.Path, data: pathlib.Path, cache: pathlib.Path) -> float:
    """Seconds of a training that gets no signal."""
    began = time.monotonic()
    if start(folder, data, cache).wait():
        raise RuntimeError(folder.with_suffix(".txt").read_text(encoding="utf-8"))
    return time.monotonic() - began


def one_try(folder: pathlib.Path, data: pathlib.Path, cache: pathlib.Path, most: float) -> dict:
    """Sends a training a signal at a time up to `most` seconds; what has become of it."""
    chance = random.Random(folder.name)
    number, after = chance.choice(NUMBERS), chance.uniform(0.3, most)
    with start(folder, data, cache) as process:
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            pass
        ended_before = process.poll() is not None
        began = time.monotonic()
        if not ended_before:
            process.send_signal(number)
        try:
            process.wait(SWALLOWED)
        except subprocess.TimeoutExpired:
            process.kill()
        seconds = time.monotonic() - began
    said = folder.with_suffix(".txt").read_text(encoding="utf-8", errors="replace")
    step = re.search(rf"ended by {number.name} at step ([\d,]+)", said)
    return {
        "signal": number.name,
        "after": round(after, 1),
        "seconds": round(seconds, 1),
        "status": process.returncode,
        "ended before": ended_before,
        "in time": seconds <= IN_TIME and process.returncode in (128 + number, -number),
        "said so": f"ended by {number.name}" in said,
        "saved": step is not None and int(step[1].replace(",", "")) == last_saved(folder),
        "nothing yet": "nothing was saved" in said,
        "swallowed": process.returncode == -signal.SIGKILL or process.returncode == 0,
    }


def counts(tries: list[dict]) -> dict:
    """How many tries ended in each way, of those that had not ended before."""
    sent = [one for one in tries if not one["ended before"]]
    names = ("in time", "said so", "saved", "nothing yet", "swallowed")
    return {"tries": len(sent)} | {name: sum(one[name] for one in sent) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a new folder for all runs")
    parser.add_argument("--tries", type=int, default=50)
    parser.add_argument("--record", type=pathlib.Path, default=RECORD)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True)
    data = flags.out / "data"
    subprocess.run([sys.executable, "-m", "clickflax.cli", "simulate", "--out", data], check=True)
    cache = flags.out / "compiled"
    most = [whole(flags.out / name, data, cache) for name in ("compiles", "reads")]
    tries = []
    for i in range(flags.tries):
        own = flags.out / f"compiled-{i}" if i % 2 == 0 else cache
        tries.append(one_try(flags.out / f"run-{i}", data, own, most[i % 2]))
        print(json.dumps(tries[-1]), flush=True)
    about = environment("")
    record = counts(tries) | {"each": tries, "environment": {key: about[key] for key in MACHINE}}
    flags.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(counts(tries)))


if __name__ == "__main__":
    main()
