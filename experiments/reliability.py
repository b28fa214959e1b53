"""Crash tests: killed trainings resume bit for bit, killed preparations leave no partial data set.

    python experiments/reliability.py --out faults   # some minutes; experiments/reliability.json
    python experiments/table.py                      # experiments/reliability.md

A training on the simulated shop is killed (SIGKILL) after a random time and started again, until it
ends. Its parameters and metrics must equal those of a training that was not killed. `clickflax
prepare` is killed in the same way and must leave either nothing or the whole data set. A training
with a table of two million items gets a SIGTERM, on which it saves a checkpoint and exits; the time
until then is recorded.
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np

from clickflax.data.store import open_dataset
from clickflax.run.folder import load_run
from clickflax.runtime.environment import environment
from clickflax.runtime.params import by_name
from experiments.scale import write_log
from experiments.speed import time_command
from experiments.study import HERE, MACHINE, measured_on, run_command

RECORD = HERE / "reliability.json"
CONFIG = HERE.parent / "configs" / "quickstart.py"
LARGE = HERE.parent / "configs" / "sasrec_ml1m.py"
ITEMS, WIDTH = 2_000_000, 64
SHORT = ["steps=60", "eval_every=10", "log_every=5", "batch_size=16"]


def start(call: list[str]) -> subprocess.Popen:
    """Starts a clickflax command without output."""
    none = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", "clickflax.cli", *call], stdout=none, stderr=none
    )


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


def written(folder: pathlib.Path) -> list[dict]:
    """Lines in the metrics of a run, without their seconds."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def same_run(one: pathlib.Path, other: pathlib.Path) -> bool:
    """True if two runs have the same parameters, bit for bit, and the same metrics."""
    ours, theirs = (by_name(load_run(folder, "last").params) for folder in (one, other))
    alike = all(np.array_equal(ours[name], theirs[name]) for name in ours)
    return alike and ours.keys() == theirs.keys() and written(one) == written(other)


def trainings(kills: int, out: pathlib.Path, chance: random.Random) -> dict:
    """Kills trainings `kills` times and compares them with one that was not killed."""
    knobs = [f"--config.train.{knob}" for knob in SHORT]

    def call(folder: pathlib.Path) -> list[str]:
        data = f"--config.data.path={out / 'whole' / 'data'}" if folder.name != "whole" else ""
        return ["train", f"--config={CONFIG}", f"--workdir={folder}", *knobs, *filter(None, [data])]

    run_command(*call(out / "whole"))
    began = time.monotonic()  # with all programs compiled
    run_command(*call(out / "again"))
    seconds, done, runs, alike = time.monotonic() - began, 0, 0, 0
    while done < kills:
        folder = out / f"killed-{runs}"
        while killed(call(folder), chance.uniform(0, seconds) if done < kills else 3600):
            done += 1
        runs += 1
        alike += same_run(folder, out / "whole")
    return {"kills": done, "runs": runs, "equal": alike}


def stores(kills: int, out: pathlib.Path, chance: random.Random) -> dict:
    """Kills preparations `kills` times and counts what they leave behind."""
    log, found = out / "log.csv", {"kills": 0, "nothing": 0, "whole": 0, "ended before": 0}
    numbers = np.random.default_rng(0)
    columns = [numbers.integers(20_000, size=400_000), numbers.integers(5_000, size=400_000)]
    table = np.stack([*columns, numbers.integers(2**31, size=400_000)], 1)
    np.savetxt(log, table, "%d", ",", header="user,item,time", comments="")

    def call(folder: pathlib.Path) -> list[str]:
        names = "--columns=sequence=user,item=item,time=time"
        return ["prepare", "log", f"--raw={log}", f"--out={folder}", names, "--k-core=5"]

    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "clickflax.cli", *call(out / "store")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds, whole = time.monotonic() - began, open_dataset(out / "store").fingerprint
    while found["kills"] < kills:
        folder = out / f"store-{found['kills']}-{found['ended before']}"
        if not killed(call(folder), chance.uniform(0, seconds)):
            found["ended before"] += 1
            continue
        found["kills"] += 1
        if not folder.exists():
            found["nothing"] += 1
        elif open_dataset(folder).fingerprint == whole:
            found["whole"] += 1
    return found


def endings(times: int, out: pathlib.Path, chance: random.Random) -> dict:
    """Seconds from SIGTERM to the exit of a training with a large table."""
    write_log(out / "log.txt", ITEMS, 50, 1_000)
    time_command("prepare", "pairs", "--raw", str(out / "log.txt"), "--out", str(out / "large"))
    knobs = [f"data.path={out / 'large'}", "data.validation_users=0", "train.batch_size=20"]
    knobs += [f"model.width={WIDTH}", "model.max_len=50", "loss.negatives=256", "loss.shared=True"]
    knobs += ["train.log_every=1", "train.steps=100000"]
    folder, seconds, saved = out / "ended", [], []
    call = ["train", f"--config={LARGE}", f"--workdir={folder}"]
    call += [f"--config.{knob}" for knob in knobs]
    for _ in range(times):  # each resumes the one before
        with start(call) as process:
            before = step_of(folder)
            while step_of(folder) == before and process.poll() is None:
                time.sleep(0.1)
            time.sleep(chance.uniform(0, 10))
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait()
            seconds.append(round(time.monotonic() - began, 1))
        if process.returncode != 128 + signal.SIGTERM:
            raise RuntimeError(f"{' '.join(call)} ended with {process.returncode}.")
        saved.append(load_run(folder, "last").progress["step"] == step_of(folder))
    files = [path for path in (folder / "checkpoints").rglob("*") if path.is_file()]
    return {
        "items": ITEMS,
        "width": WIDTH,
        "bytes": sum(path.stat().st_size for path in files),
        "seconds": seconds,
        "saved": sum(saved),
    }


def step_of(folder: pathlib.Path) -> int:
    """Last step in the metrics of a run; 0 before the first."""
    return max((line["step"] for line in written(folder)), default=0)


def table() -> str:
    """Text of reliability.md."""
    if not RECORD.is_file():
        return ""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    train, store, end = record["training"], record["prepare"], record["ending"]
    seconds = ", ".join(f"{one:.1f}" for one in end["seconds"])
    return (
        f"{train['runs']} trainings were killed {train['kills']} times. {train['equal']} of them "
        "ended with the same parameters, bit for bit, and the same metrics as the training that "
        f"was not killed. {store['kills']} kills of a preparation left nothing "
        f"{store['nothing']} times and the whole data set {store['whole']} times.\n\n"
        f"A training with a table of {end['items']:,} x {end['width']} got "
        f"{len(end['seconds'])} SIGTERMs. It saved its current step {end['saved']} times, "
        f"and exited after {seconds} s. Its checkpoints take "
        f"{end['bytes'] / 1e9:.1f} GB ({measured_on(record['environment'])})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a new folder for all runs")
    parser.add_argument("--trainings", type=int, default=50, help="kills of trainings")
    parser.add_argument("--stores", type=int, default=20, help="kills of preparations")
    parser.add_argument("--endings", type=int, default=5, help="SIGTERMs to a large training")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True)
    chance = random.Random(flags.seed)
    record = {
        "prepare": stores(flags.stores, flags.out, chance),
        "training": trainings(flags.trainings, flags.out, chance),
        "ending": endings(flags.endings, flags.out, chance),
    }
    about = environment("")
    record["environment"] = {key: about[key] for key in MACHINE}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table())


if __name__ == "__main__":
    main()
