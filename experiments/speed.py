"""How fast a training step and recommendation are, and how fast those of other libraries.

    python experiments/speed.py --data ../shared/data/ml-1m/sequences.txt --max-len 200 \\
        --peers rectools=PYTHON,recbole=PYTHON --peer-scripts ../shared/peers

`--data` is a file of `user item` lines in the order of time, `PYTHON` the interpreter of an
environment that has the library. Every program runs by itself, one after the other, in this one
sitting; each prints one JSON line, ours the last, with the ratios to the others. Step times are
medians without the first two; recommendation includes its compilation.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

import clickflax
from clickflax import recommend
from clickflax.cli import main as clickflax_main
from clickflax.config import default
from clickflax.run import load_run
from clickflax.runtime import checkpoint, sharding
from clickflax.setup import batch_of, last_checkpoint, set_up
from clickflax.train import Progressed

TASKS = {"bert4rec": "masked_item", "sasrec": "next_item"}
RATES = {"rectools": "train_sequences_per_s", "recbole": "train_rows_per_s"}


def config_for(flags: argparse.Namespace, data: pathlib.Path):
    """The model that the scripts of the others build: dropouts of 0.2, a fifth hidden."""
    c = default()
    c.data.path = str(data)
    c.data.validation_users = 0
    c.tasks = (TASKS[flags.model],)
    if flags.model == "sasrec":
        c.model.update({"norm": "pre", "output": "none", "output_bias": False})
        c.model.embedding_norm = False
    c.model.update({"width": flags.width, "layers": flags.layers, "heads": flags.heads})
    c.model.update({"feed_forward": 4 * flags.width, "max_len": flags.max_len})
    c.model.dropout = c.model.attention_dropout = 0.2
    c.train.batch_size = flags.batch
    return c.lock()


def ours(flags: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Prepares the data, takes the steps, recommends for everybody."""
    sharding.use_devices(0)
    start = time.perf_counter()
    prepare = ["prepare", "pairs", "--raw", flags.data, "--out", str(folder / "data")]
    if clickflax_main(prepare):
        raise SystemExit(1)
    prepare_s = time.perf_counter() - start
    setting, state = set_up(config_for(flags, folder / "data"), folder / "run")
    times = []
    for step in range(flags.steps):
        start = time.perf_counter()
        state, metrics = setting.step(state, batch_of(setting, step), setting.key)
        float(metrics["loss"])
        times.append(time.perf_counter() - start)
    step_s = float(np.median(times[2:]))
    packing = setting.batches.packing
    past = Progressed(step=flags.steps)._asdict()
    checkpoint.save(last_checkpoint(folder / "run"), flags.steps, past, params=state.params)
    run = load_run(folder / "run")
    start = time.perf_counter()
    users = recommend.write_lists(run, None, None, folder / "lists.parquet", 10, True)
    recommend_s = time.perf_counter() - start
    sequences = setting.batches.windows_per_batch
    return {
        "peer": f"clickflax {clickflax.__version__}",
        "model": flags.model,
        "max_len": flags.max_len,
        "batch": round(sequences, 1),
        "step_s": round(step_s, 4),
        "train_sequences_per_s": round(sequences / step_s, 1),
        "first_step_s": round(times[0], 2),
        "padding": round(1 - float(packing.length.sum()) / (packing.rows * flags.max_len), 4),
        "prepare_s": round(prepare_s, 2),
        "recommend_users_per_s": round(users / recommend_s, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.device_count()} devices "
        f"of {jax.default_backend()}",
        "date": time.strftime("%Y-%m-%d"),
    }


def peer(name: str, python: str, flags: argparse.Namespace) -> dict:
    """Runs the script of another library in its own environment; its line of results."""
    model = {"bert4rec": "BERT4Rec", "sasrec": "SASRec"}[flags.model]
    options = {
        "--data": flags.data,
        "--model": flags.model if name == "rectools" else model,
        "--max-len": flags.max_len,
        "--width": flags.width,
        "--layers": flags.layers,
        "--heads": flags.heads,
        "--batch": flags.batch,
        "--steps": flags.steps,
    }
    command = [python, str(pathlib.Path(flags.peer_scripts) / f"{name}_bench.py")]
    command += [str(word) for pair in options.items() for word in pair]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", choices=sorted(TASKS), default="bert4rec")
    parser.add_argument("--max-len", type=int, default=200)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peers", default="", help="rectools=PYTHON,recbole=PYTHON")
    parser.add_argument("--peer-scripts", default="../shared/peers")
    flags = parser.parse_args()
    if flags.steps < 3:
        parser.error("--steps must be 3 or more: the first two are not counted")
    others = dict(pair.split("=", 1) for pair in flags.peers.split(",") if pair)
    unknown = sorted(others.keys() - RATES)
    if unknown:
        parser.error(f"--peers names {unknown}; these are known: {sorted(RATES)}")
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        found = {name: peer(name, python, flags) for name, python in others.items()}
        # What preparation prints is no result here.
        sys.stdout, stdout = sys.stderr, sys.stdout
        line = ours(flags, pathlib.Path(folder))
        sys.stdout = stdout
    for name, other in found.items():
        print(json.dumps(other))
        ratios[f"times_{name}"] = round(line["train_sequences_per_s"] / other[RATES[name]], 2)
        if "recommend_users_per_s" in other:
            rate = line["recommend_users_per_s"] / other["recommend_users_per_s"]
            ratios[f"times_{name}_recommend"] = round(rate, 2)
    print(json.dumps(line | ratios))


if __name__ == "__main__":
    main()
