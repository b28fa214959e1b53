"""Crash tests: killed trainings resume bit for bit, killed preparations leave no partial data set.

    python experiments/reliability.py --out faults   # experiments/reliability.json
    python experiments/table.py                      # experiments/reliability.md

The parts, of which `--parts` names those to do; the record keeps the others:

- `training`: trainings on one process and on two are killed (SIGKILL) and started again; each must
  end with the parameters and metrics of a training that was not killed (kills.py).
- `prepare`: `clickflax prepare` is killed and must leave either nothing or the whole data set.
- `replace`: `clickflax prepare --overwrite` is killed and must leave the old data set or the new
  one, whole; the next that succeeds must leave nothing beside it.
- `damage`: each file of a run is damaged (damage.py).
- `ending`: a training with a table of two million items gets a SIGTERM, on which it saves a
  checkpoint and exits; the time until then is recorded.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import time

import jax

from clickflax.run.folder import load_run
from clickflax.runtime.environment import environment
from experiments.damage import HARMLESS, damages
from experiments.kills import start, trainings, written
from experiments.prepare_kills import replacements, stores
from experiments.scale import write_log
from experiments.speed import time_command
from experiments.study import HERE, MACHINE, measured_on

RECORD = HERE / "reliability.json"
LARGE = HERE.parent / "configs" / "sasrec_ml1m.py"
ITEMS, WIDTH = 2_000_000, 64
PARTS = ("training", "prepare", "replace", "damage", "ending")


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


def trainings_text(parts: list[dict]) -> str:
    """What has become of the trainings on each number of processes."""
    lines = []
    for one in parts:
        moments = ", ".join(f"{count} {moment}" for moment, count in one["kills"].items())
        devices = "one process" if one["processes"] == 1 else f"{one['processes']} processes"
        lines.append(
            f"{one['runs']} trainings on {devices} were killed {sum(one['kills'].values())} times "
            f"({moments}). {one['equal']} of them ended with the same parameters, bit for bit, and "
            "the same metrics as the training that was not killed."
        )
    return "\n\n".join(lines)


def replacements_text(found: dict) -> str:
    """What has become of the data sets that were to be replaced."""
    left = ", ".join(found["left at the end"]) or "nothing"
    return (
        f"{found['kills']} kills of a preparation that replaces a data set left the old one or the "
        f"new one whole {found['whole']} times in its place, and {found['moved away']} times under "
        "another name, from where the next preparation puts it back. "
        f"{found['left-overs']} times a scratch folder was left; after the next preparation that "
        f"was not killed, {left} was left."
    )


def damages_text(found: dict) -> str:
    """What has become of the damaged runs."""
    columns = (*HARMLESS, "other")
    lines = [
        f"Each of the {found['files']} files of a run was damaged: a bit flipped, the file cut to "
        "its half, or removed. Then the run was opened with its best and its last parameters, and "
        "its training went on to its end:\n",
        "| files | " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for area, counts in found["areas"].items():
        cells = [str(counts.get(name, 0)) for name in columns]
        lines.append(f"| {counts['files']} in {area} | " + " | ".join(cells) + " |")
    other = [
        f"- {one['file']}, {one['how']}, {one['read']}: {one['came']}" for one in found["other"]
    ]
    return "\n".join([*lines, *([""] if other else []), *other])


def endings_text(end: dict) -> str:
    """How long the endings of a large training took."""
    seconds = ", ".join(f"{one:.1f}" for one in end["seconds"])
    return (
        f"A training with a table of {end['items']:,} x {end['width']} got "
        f"{len(end['seconds'])} SIGTERMs. It saved its current step {end['saved']} times, "
        f"and exited after {seconds} s. Its checkpoints take "
        f"{end['bytes'] / 1e9:.1f} GB ({measured_on(end['environment'])})."
    )


def table() -> str:
    """Text of reliability.md."""
    if not RECORD.is_file():
        return ""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    store = record["prepare"]
    texts = [trainings_text(record["training"]["each"])]
    texts.append(
        f"{store['kills']} kills of a preparation left nothing {store['nothing']} times and the "
        f"whole data set {store['whole']} times."
    )
    for name, text in (("replace", replacements_text), ("damage", damages_text)):
        texts += [text(record[name])] if name in record else []
    return "\n\n".join([*texts, endings_text(record["ending"])])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="a new folder for all runs")
    add("--parts", nargs="+", choices=PARTS, default=PARTS)
    add("--trainings", type=int, default=70, help="kills of trainings on one process")
    add("--together", type=int, default=30, help="kills of trainings on two processes")
    add("--stores", type=int, default=20, help="kills of preparations")
    add("--replacements", type=int, default=50, help="kills of preparations that replace")
    add("--every", type=int, default=1, help="damages each n-th file only")
    add("--endings", type=int, default=5, help="SIGTERMs to a large training")
    add("--seed", type=int, default=0, help="of the random times")
    add("--record", type=pathlib.Path, default=RECORD)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True)
    compiled = str(flags.out / "compiled")  # of all trainings, here and in other processes
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    data, chance = flags.out / "shop", random.Random(flags.seed)
    time_command("simulate", f"--out={data}", "--sequences=300", "--items=100")
    do = {
        "training": lambda: {
            "each": [
                trainings(kills, processes, flags.out, data, chance)
                for processes, kills in ((1, flags.trainings), (2, flags.together))
            ]
        },
        "prepare": lambda: stores(flags.stores, flags.out, chance),
        "replace": lambda: replacements(flags.replacements, flags.out, chance),
        "damage": lambda: damages(flags.out, flags.every),
        "ending": lambda: endings(flags.endings, flags.out, chance),
    }
    about = environment("")
    for part in flags.parts:
        found = do[part]()
        print(part, json.dumps(found), flush=True)
        old = json.loads(flags.record.read_text(encoding="utf-8")) if flags.record.is_file() else {}
        here = {"environment": {key: about[key] for key in MACHINE}}
        text = json.dumps({**old, part: found | here}, indent=1)
        flags.record.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
