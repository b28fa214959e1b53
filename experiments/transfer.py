"""What pre-training is worth: few labels to all, from scratch, tuned, and on a frozen backbone.

    clickflax simulate --out data/shop --sequences 100000
    python experiments/transfer.py measure --runs runs/transfer    # an hour or so on two cores
    python experiments/transfer.py plot                            # draws experiments/transfer.svg

Every seed is pre-trained once with the Cloze objective, on items and actions of the training
sequences; then purchases are learned from the labels of 1, 10 and 100 % of these sequences, drawn
by the seed. Each run is chosen on the same validation, and asked the same test.
"""

import argparse
import json
import pathlib

import numpy as np
from table import HERE, MACHINE
from verbs import clickflax, interval

CONFIG = HERE.parent / "configs" / "purchase_simulated.py"
RECORD, PLOT = HERE / "transfer.json", HERE / "transfer.svg"
SHARES, SEEDS = (0.01, 0.1, 1.0), (0, 1, 2)
PRETRAIN = ["tasks=masked_item,masked_action", "train.monitor=masked_item/ndcg@10"]
PRETRAIN += ["train.steps=4000", "train.eval_every=500", "data.validation_users=2000"]
FROZEN = "init.freeze=embedder/*,encoder/*"
LINES = {
    "from scratch": [],
    "pre-trained, then tuned": ["init.run={pretrained}", "init.skip=head_*"],
    "pre-trained, then frozen": ["init.run={pretrained}", "init.skip=head_*", FROZEN],
}


def train(folder: pathlib.Path, seed: int, data: str, knobs: list[str]) -> None:
    """Trains, or goes on with, a run."""
    given = [f"--config.{knob}" for knob in [f"seed={seed}", f"data.path={data}", *knobs]]
    clickflax("train", f"--config={CONFIG}", f"--workdir={folder}", *given)


def measure(runs: pathlib.Path, data: str) -> None:
    """Every point of the plot that is not recorded yet."""
    points = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else []
    done = {(point["line"], point["share"], point["seed"]) for point in points}
    for seed in SEEDS:
        pretrained = runs / f"pretrained.{seed}"
        for share in SHARES:
            for number, (line, knobs) in enumerate(LINES.items()):
                if (line, share, seed) in done:
                    continue
                if knobs:
                    train(pretrained, seed, data, PRETRAIN)
                folder = runs / f"{number}.{share}.{seed}"
                knobs = [knob.format(pretrained=pretrained) for knob in knobs]
                train(folder, seed, data, [*knobs, f"label.share={share}"])
                clickflax("evaluate", "--run", str(folder))
                record = json.loads((folder / "test.json").read_text(encoding="utf-8"))
                kept = ("auc", "average_precision", "log_loss", "labels", "train_seconds")
                point = {"line": line, "share": share, "seed": seed}
                point |= {name: record[name] for name in kept}
                point["environment"] = {name: record["environment"][name] for name in MACHINE}
                points.append(point)
                RECORD.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
                print(line, share, seed, f"{point['auc']:.4f}", flush=True)


def plot() -> None:
    """Means and intervals over the share of labels, a line for each way to begin."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    points = json.loads(RECORD.read_text(encoding="utf-8"))
    plt.rcParams.update({"font.size": 10, "svg.hashsalt": "clickflax", "svg.fonttype": "none"})
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    colours = ("#777777", "#0b6e99", "#d9730d")
    for shift, colour, line in zip((-1, 0, 1), colours, LINES, strict=True):
        found = {
            share: [p["auc"] for p in points if p["line"] == line and p["share"] == share]
            for share in SHARES
        }
        mean, half = zip(*(interval(values) for values in found.values()), strict=True)
        place = np.arange(len(SHARES)) + 0.05 * shift  # beside each other, so that none is hidden
        axes.errorbar(place, mean, half, label=line, color=colour, marker="o", capsize=3)
    axes.set_xticks(range(len(SHARES)), [f"{share:.0%}" for share in SHARES])
    axes.set_xlabel("sequences whose labels are trained on")
    axes.set_ylabel("AUC of the test, mean and 95 % interval of three seeds")
    axes.set_title("Will this session end in a purchase?", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("measure", "plot"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/transfer"))
    parser.add_argument("--data", default="data/shop", help="the simulated shop")
    flags = parser.parse_args()
    if flags.what == "measure":
        measure(flags.runs, flags.data)
    plot()


if __name__ == "__main__":
    main()
