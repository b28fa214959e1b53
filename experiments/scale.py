"""Cost of a training step over the size of the catalog and over the length of sequences.

    python experiments/scale.py measure     # some minutes; writes experiments/scale.json
    python experiments/scale.py plot        # draws experiments/scale.svg from it

Causal training with the exact softmax, width 64, 2 layers, 2 heads, on random logs. Over the
catalog every batch has 4,096 targets, over the length 12,800. Each point runs in its own process,
so that its peak memory is its own.
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np

from clickflax.runtime import sharding
from clickflax.runtime.environment import environment
from experiments.speed import HERE, config_for, time_command, time_steps
from experiments.study import MACHINE, measured_on, run_module

RECORD, PLOT = HERE / "scale.json", HERE / "scale.svg"
ITEMS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
LENGTHS = (50, 100, 200, 400, 800)
POINTS = [(items, 64, 4_096) for items in ITEMS]
POINTS += [(ITEMS[0], length, 12_800) for length in LENGTHS]


def write_log(path: pathlib.Path, items: int, length: int, targets: int) -> None:
    """Writes random sequences of `length` targets each, in which every item occurs."""
    chance = np.random.default_rng(0)
    events = length + 2  # the first has no history, and the last is for the test
    sequences = max(-(-items // events), 20 * targets // length)
    item = chance.integers(items, size=sequences * events)
    item[chance.permutation(len(item))[:items]] = np.arange(items)
    user = np.repeat(np.arange(sequences), events)
    np.savetxt(path, np.stack([user, item], 1), fmt="%d")


def point(items: int, length: int, targets: int, steps: int) -> dict:
    """Times of a step with a catalog and a length, measured in this process."""
    sharding.use_devices(0)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_log(folder / "log.txt", items, length, targets)
        words = ("--raw", str(folder / "log.txt"), "--out", str(folder / "data"))
        time_command("prepare", "pairs", *words)
        flags = argparse.Namespace(
            model="sasrec",
            width=64,
            layers=2,
            heads=2,
            max_len=length,
            batch=targets // length,
            overrides=[],
        )
        figures = time_steps(config_for(flags, folder / "data"), folder / "run", steps)
    return {"items": items, "length": length, "targets": targets, **figures}


def measure(steps: int) -> None:
    """Measures all points, one process after the other."""
    lines = []
    for items, length, targets in POINTS:
        lines.append(run_module("scale", "point", *map(str, (items, length, targets, steps))))
        print(json.dumps(lines[-1]), flush=True)
    about = environment("")
    record = {"lines": lines, "environment": {key: about[key] for key in MACHINE}}
    text = json.dumps(record, indent=1)
    RECORD.write_text(text + "\n", encoding="utf-8")


def plot() -> None:
    """Draws milliseconds per sequence, and the time of the arithmetic alone, in two panels."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "clickflax"  # the same picture from the same figures
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    lines = record["lines"]
    panels = {
        "items": ("items in the catalog (length 64)", lines[: len(ITEMS)]),
        "length": ("events in a sequence (10,000 items)", lines[len(ITEMS) :]),
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, (name, (label, points)) in zip(axes, panels.items(), strict=True):
        x = [line[name] for line in points]
        cost = [1000 / line["train_sequences_per_s"] for line in points]
        bound = [c * line["share_of_peak"] for c, line in zip(cost, points, strict=True)]
        axis.loglog(x, cost, "o-", color="#1f5fa8", label="measured")
        axis.loglog(x, bound, "--", color="#999999", label="arithmetic at the measured peak")
        for x_value, value in zip(x, cost, strict=True):
            axis.annotate(
                f"{value:,.2g}" if value < 10 else f"{value:,.0f}",
                (x_value, value),
                textcoords="offset points",
                xytext=(0, 7),
                ha="center",
                fontsize=8,
            )
        axis.set_xticks(x, [f"{v:,}" for v in x], fontsize=8)
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.15)
    axes[0].set_ylabel("ms per sequence")
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(
        f"A training step, exact softmax ({measured_on(record['environment'])})", fontsize=9
    )
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("measure").add_argument("--steps", type=int, default=6)
    verbs.add_parser("plot")
    one = verbs.add_parser("point")
    for name in ("items", "length", "targets", "steps"):
        one.add_argument(name, type=int)
    flags = parser.parse_args()
    if flags.verb == "measure":
        measure(flags.steps)
    elif flags.verb == "plot":
        plot()
    else:
        print(json.dumps(point(flags.items, flags.length, flags.targets, flags.steps)))


if __name__ == "__main__":
    main()
