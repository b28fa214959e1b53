"""One training on several numbers of devices: its metrics, and the memory of each device.

    python experiments/devices.py same --data data/ml-1m  # one device, eight, two processes of four
    python experiments/devices.py share                   # a table of 2,000,000 items on eight
    python experiments/table.py                           # experiments/devices.md

The devices are parts of one CPU.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax

from clickflax.config import default, follow, vary
from clickflax.runtime import sharding
from clickflax.runtime.environment import environment
from clickflax.training.setup import set_up
from experiments.scale import write_log
from experiments.speed import time_command
from experiments.study import HERE, devices_of, markdown, read_records, run_command, write_record

RECORDS = HERE / "devices"
LOCAL = HERE.parent / "launch" / "local.sh"
CONFIG = HERE.parent / "configs" / "sasrec_ml1m.py"
STEPS = 200
WAYS = {  # processes, devices of each, devices that share the tables
    "one device": (1, 1, 1),
    "eight devices": (1, 8, 1),
    "two processes of four devices": (2, 4, 1),
    "two processes of four devices, each table shared by eight": (2, 4, 8),
}
ITEMS, WIDTH, SHARES = 2_000_000, 64, 8


def same(data: pathlib.Path, runs: pathlib.Path) -> None:
    """Trains in each way of `WAYS`, and records the test metrics."""
    found = {}  # written at the end: all runs see the same files in the checkout
    for way, (processes, devices, shares) in WAYS.items():
        folder = runs / way.replace(" ", "-").replace(",", "")
        flags = [f"--config={CONFIG}", f"--workdir={folder}", f"--config.data.path={data}"]
        flags += [f"--config.train.{knob}={STEPS}" for knob in ("steps", "eval_every")]
        flags += [f"--config.train.cpu_devices={devices}", f"--config.train.model_devices={shares}"]
        if processes == 1:
            run_command("train", *flags)
        else:
            path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
            call = [str(LOCAL), str(processes), *flags]
            subprocess.run(call, check=True, env={**os.environ, "PATH": path})
        run_command("evaluate", f"--run={folder}")
        found[way] = json.loads((folder / "test.json").read_text(encoding="utf-8"))
    for i, (way, record) in enumerate(found.items()):
        write_record(RECORDS / f"same.{i}.json", {**record, "way": way})


def held() -> list[int]:
    """Bytes of live arrays on each device; arrays that share a buffer count once."""
    parts = [shard for array in jax.live_arrays() for shard in array.addressable_shards]
    sizes = {(p.device.id, p.data.unsafe_buffer_pointer()): p.data.nbytes for p in parts}
    owners = [device.id for device in jax.devices()]
    return [sum(n for (owner, _), n in sizes.items() if owner == one) for one in owners]


def share(steps: int) -> None:
    """Trains with a table that all devices share, and records the bytes that each holds."""
    sharding.use_devices(SHARES)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_log(folder / "log.txt", ITEMS, 50, 1_000)
        words = ("--raw", str(folder / "log.txt"), "--out", str(folder / "data"))
        time_command("prepare", "pairs", *words)
        c = follow(vary(default(), "sasrec_modern"), "turning_dross")
        c.data.path, c.data.validation_users = str(folder / "data"), 0
        c.model.max_len, c.model.width = 50, WIDTH
        c.loss.update({"negatives": 256, "shared": True})
        c.train.update({"batch_size": 20, "cpu_devices": SHARES, "model_devices": SHARES})
        context, state = set_up(c, folder / "run")
        losses = []
        for step in range(steps):
            state, metrics = context.steps(state, step, 1)
            losses.append(float(metrics["loss"][0]))
        table = state.params["embedder"]["tables_item"]["embedding"]
        record = {
            "items": ITEMS,
            "width": WIDTH,
            "devices": SHARES,
            "steps": steps,
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "table_bytes": table.nbytes,
            "table_bytes_of_each": [shard.data.nbytes for shard in table.addressable_shards],
            "bytes_of_each": held(),
            "environment": environment(""),
        }
    write_record(RECORDS / "share.json", record)


def table() -> str:
    """Tables of devices.md."""
    found = read_records("devices", "same.*")
    names = ("recall@10", "ndcg@10", "mrr@10")
    rows = []
    for one in found:
        apart = max(abs(one[name] - found[0][name]) for name in names)
        cells = [f"{one[name]:.6f}" for name in names]
        rows.append([one["way"], *cells, f"{apart:.1e}", f"{one['train_seconds']:,.0f} s"])
    head = ["", *(name.upper().replace("RECALL", "R") for name in names), "apart", "training"]
    parts = [markdown(head, ["---", *["--:"] * 5], rows)] if rows else []
    for one in read_records("devices", "share"):
        each = max(one["table_bytes_of_each"])
        parts.append(
            f"A table of {one['items']:,} x {one['width']} is {one['table_bytes'] / 1e6:,.1f} MB; "
            f"each of {one['devices']} devices has {each / 1e6:,.1f} MB of it, and with both "
            f"moments of Adam and all else {max(one['bytes_of_each']) / 1e6:,.1f} MB. In "
            f"{one['steps']} steps the loss went from {one['first_loss']:.2f} to "
            f"{one['last_loss']:.2f} ({devices_of(one['environment'])})."
        )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("same", "share"))
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data/ml-1m"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/devices"))
    parser.add_argument("--steps", type=int, default=20, help="of `share`")
    flags = parser.parse_args()
    if flags.what == "same":
        same(flags.data.resolve(), flags.runs)
    else:
        share(flags.steps)


if __name__ == "__main__":
    main()
