"""Kills of trainings at chosen moments, for reliability.py.

Half of the kills come at any time. The others wait for a moment: until a checkpoint is being
written, until the step before a validation has been written, or for a part of the first seconds, in
which programs are compiled or read. What a killed training was doing is seen from what it has left.
"""

import collections
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from clickflax.run.folder import load_run
from clickflax.runtime.params import by_name
from clickflax.runtime.processes import HEARTBEAT
from experiments.study import HERE

CONFIG = HERE.parent / "configs" / "quickstart.py"
EVAL_EVERY = 8  # steps
TINY = (
    *("train.steps=40", f"train.eval_every={EVAL_EVERY}", "train.log_every=4"),
    *("train.batch_size=16", "train.cpu_devices=1", "model.width=16", "model.max_len=16"),
)
MOST_KILLS = 6  # of a training, before it may come to its end
ALL_KILLED = 0.9  # share of the kills of two processes that kill both
LOOK_EVERY = 0.002  # seconds


def tiny_training(folder: pathlib.Path, data: pathlib.Path | None, *knobs: str) -> list[str]:
    """The words of the command of a tiny training; without data, on a shop of its own."""
    words = ["train", f"--config={CONFIG}", f"--workdir={folder}"]
    words += [f"--config.data.path={data}"] if data else []
    return words + [f"--config.{knob}" for knob in (*TINY, *knobs)]


def start(call: Sequence[str], said: pathlib.Path | None = None) -> subprocess.Popen:
    """Starts a clickflax command; its words are appended to a file, or lost."""
    with (said or pathlib.Path(os.devnull)).open("a", encoding="utf-8") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "clickflax.cli", *call], stdout=file, stderr=file
        )


def start_all(call: Sequence[str], processes: int, folder: pathlib.Path) -> list[subprocess.Popen]:
    """Starts a training on so many processes; their words are in FOLDER.0.txt and so on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = [f"--processes={processes}", f"--coordinator=localhost:{port}"]
    return [
        start(
            [*call, *(shared + [f"--process={i}"] if processes > 1 else [])],
            folder.with_name(f"{folder.name}.{i}.txt"),
        )
        for i in range(processes)
    ]


def written(folder: pathlib.Path) -> list[dict]:
    """Lines in the metrics of a run, without their seconds."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def same_run(one: pathlib.Path, other: pathlib.Path) -> bool:
    """True if two runs have the same parameters, bit for bit, and the same metrics."""
    for which in ("best", "last"):
        ours, theirs = (by_name(load_run(folder, which).params) for folder in (one, other))
        if ours.keys() != theirs.keys():
            return False
        if not all(np.array_equal(ours[name], theirs[name]) for name in ours):
            return False
    return written(one) == written(other)


def saves(folder: pathlib.Path) -> set[str]:
    """The temporary folders of the checkpoints of a run that are being written."""
    return {str(path) for path in folder.glob("checkpoints/*/*tmp*")}


def validations(folder: pathlib.Path) -> set[int]:
    """The steps of a run that are written and that a validation follows."""
    return {line["step"] for line in written(folder) if line["step"] % EVAL_EVERY == 0}


def wait_for(
    find: Callable[[pathlib.Path], set], count: int, folder: pathlib.Path, started: list
) -> None:
    """Waits until `find` has found so many new things, or a process has ended."""
    seen = find(folder)
    while count > 0 and all(one.poll() is None for one in started):
        new = find(folder) - seen
        seen |= new
        count -= len(new)
        time.sleep(LOOK_EVERY)


def wait_for_moment(
    folder: pathlib.Path, started: list, seconds: tuple[float, float], chance: random.Random
) -> None:
    """Waits for a random moment, given the seconds to the first line of metrics and to the end."""
    aims = ("any time", "first seconds", "saving", "validating")
    aim = chance.choices(aims, (3, 1, 1, 1))[0]
    pause = {"any time": seconds[1], "first seconds": seconds[0], "saving": 0.1, "validating": 0.1}
    if aim == "saving":
        wait_for(saves, chance.randint(1, 5), folder, started)
    elif aim == "validating":
        wait_for(validations, chance.randint(1, 4), folder, started)
    end = time.monotonic() + chance.uniform(0, pause[aim])
    while time.monotonic() < end and all(one.poll() is None for one in started):
        time.sleep(LOOK_EVERY)


def changed(folder: pathlib.Path) -> int:
    """When the metrics of a run were last written; 0 if never."""
    path = folder / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0


def moment_of(folder: pathlib.Path, before: int) -> str:
    """What a killed training was doing; `before` is `changed` at its start."""
    if changed(folder) == before:
        return "starting"
    if saves(folder):
        return "saving"
    last = next(reversed(written(folder)), None)
    if last and last["step"] % EVAL_EVERY == 0 and "loss" in last:
        return "validating"
    return "training"


def kill(started: list[subprocess.Popen], connected: bool, chance: random.Random) -> None:
    """Kills all processes of a training, or one of them, after which the others must end.

    Before all are `connected`, the others would wait for minutes for the one that was killed.
    """
    one_alone = connected and chance.random() >= ALL_KILLED
    victims = [chance.choice(started)] if one_alone else started
    for one in victims:
        one.send_signal(signal.SIGKILL)
    for one in started:
        try:
            one.wait(3 * HEARTBEAT)
        except subprocess.TimeoutExpired:
            one.kill()
            raise


def end_of(started: list[subprocess.Popen], folder: pathlib.Path) -> None:
    """Waits for all processes of a training. Raises RuntimeError if one has failed."""
    if any([one.wait(600) for one in started]):
        raise RuntimeError(f"the training in {folder} has failed; see {folder}.0.txt")


def seconds_of(call: Sequence[str], processes: int, folder: pathlib.Path) -> tuple[float, float]:
    """Seconds of a training to its first line of metrics, and to its end."""
    began = time.monotonic()
    started = start_all(call, processes, folder)
    wait_for(lambda folder: {changed(folder)} - {0}, 1, folder, started)
    first = time.monotonic() - began
    end_of(started, folder)
    return first, time.monotonic() - began


def trainings(
    kills: int, processes: int, out: pathlib.Path, data: pathlib.Path, chance: random.Random
) -> dict:
    """Kills trainings `kills` times and compares each with one that was not killed."""
    whole, again = out / f"whole-{processes}", out / f"again-{processes}"
    seconds_of(tiny_training(whole, data), processes, whole)  # compiles all programs
    seconds = seconds_of(tiny_training(again, data), processes, again)
    found: collections.Counter[str] = collections.Counter()
    runs = equal = 0
    while found.total() < kills:
        folder = out / f"killed-{processes}-{runs}"
        call = tiny_training(folder, data)
        for _ in range(min(chance.randint(1, MOST_KILLS), kills - found.total())):
            before = changed(folder)
            started = start_all(call, processes, folder)
            wait_for_moment(folder, started, seconds, chance)
            if any(one.poll() is not None for one in started):
                end_of(started, folder)
                break
            kill(started, changed(folder) != before, chance)
            found[moment_of(folder, before)] += 1
        end_of(start_all(call, processes, folder), folder)
        runs += 1
        equal += same_run(folder, whole)
        print(f"{processes} processes: {runs} runs, {equal} equal, {dict(found)}", flush=True)
    return {"processes": processes, "kills": dict(found), "runs": runs, "equal": equal}
