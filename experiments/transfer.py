"""Transfer learning with few labels: from scratch, fine-tuned, and with a frozen backbone.

    clickflax simulate --out data/shop --sequences 100000
    python experiments/transfer.py measure --runs runs/transfer    # an hour or so on two cores
    python experiments/transfer.py plot                            # draws experiments/transfer.svg
    python experiments/table.py                              # experiments/transfer.md

Each seed is pre-trained once with the Cloze objective, on items and actions of the training
sequences. The task `purchase` is then learned from the labels of 1, 10 and 100 % of these
sequences, drawn by the seed. Each run stops after four evaluations without a better validation
metric, and its best checkpoint is evaluated on the same test.
"""

import argparse
import json
import pathlib

import numpy as np

from clickflax.study import statistics
from experiments.study import HERE, MACHINE, markdown, mean_and_interval, run_command

CONFIG = HERE.parent / "configs" / "purchase_simulated.py"
RECORD, PLOT = HERE / "transfer.json", HERE / "transfer.svg"
SHARES = (0.01, 0.1, 1.0)
PRETRAIN = ["tasks=masked_item,masked_action", "train.monitor=masked_item/ndcg@10"]
PRETRAIN += ["train.steps=4000", "train.eval_every=500", "data.validation_users=2000"]
TUNE = ["train.patience=4"]
METRICS = ("auc", "average_precision", "log_loss", "labels", "train_seconds")
FROZEN = "init.freeze=embedder/*,encoder/*"
LINES = {
    "from scratch": [],
    "pre-trained, then tuned": ["init.run={pretrained}", "init.skip=head_*"],
    "pre-trained, then frozen": ["init.run={pretrained}", "init.skip=head_*", FROZEN],
}


def train(folder: pathlib.Path, seed: int, data: str, knobs: list[str]) -> None:
    """Trains or resumes a run."""
    flags = [f"--config.{knob}" for knob in [f"seed={seed}", f"data.path={data}", *knobs]]
    run_command("train", f"--config={CONFIG}", f"--workdir={folder}", *flags)


def kept(record: pathlib.Path) -> list[dict]:
    """Points in the record."""
    return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else []


def measure(runs: pathlib.Path, data: str, seeds: list[int], record: pathlib.Path) -> None:
    """Measures all points of the plot that are not in the record."""
    done = {(point["line"], point["share"], point["seed"]) for point in kept(record)}
    for seed in seeds:
        pretrained = runs / f"pretrained.{seed}"
        for share in SHARES:
            for number, (line, knobs) in enumerate(LINES.items()):
                if (line, share, seed) in done:
                    continue
                if knobs:
                    train(pretrained, seed, data, PRETRAIN)
                folder = runs / f"{number}.{share}.{seed}"
                knobs = [knob.format(pretrained=pretrained) for knob in knobs]
                train(folder, seed, data, [*TUNE, *knobs, f"label.share={share}"])
                run_command("evaluate", "--run", str(folder))
                full = json.loads((folder / "test.json").read_text(encoding="utf-8"))
                point = {"line": line, "share": share, "seed": seed}
                point |= {name: full[name] for name in METRICS}
                point["environment"] = {name: full["environment"][name] for name in MACHINE}
                points = [*kept(record), point]  # another process may have added points
                record.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
                print(line, share, seed, f"{point['auc']:.4f}", flush=True)


def aucs(points: list[dict], line: str, share: float) -> list[float]:
    """AUC of each seed of a point."""
    found = [p for p in points if p["line"] == line and p["share"] == share]
    return [p["auc"] for p in sorted(found, key=lambda p: p["seed"])]


def table() -> str:
    """Table of transfer.md: AUC, and the gain over training from scratch with the same labels."""
    points = kept(RECORD)
    rows = []
    for share in SHARES:
        scratch = aucs(points, "from scratch", share)
        for line in LINES:
            values = aucs(points, line, share)
            more = [a - b for a, b in zip(values, scratch, strict=True)]
            gain = mean_and_interval(more, "+") if line != "from scratch" else ""
            rows.append(
                [f"{share:.0%}", line, f"{mean_and_interval(values)} ({len(values)})", gain]
            )
    head = ["labels", "", "AUC, mean ± 95 % (seeds)", "gain over from scratch"]
    return markdown(head, ["--:", "---", "--:", "--:"], rows)


def plot() -> None:
    """Draws means and intervals over the share of labels, a line for each way to start."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    points = kept(RECORD)
    plt.rcParams.update({"font.size": 10, "svg.hashsalt": "clickflax", "svg.fonttype": "none"})
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    colours = ("#777777", "#0b6e99", "#d9730d")
    for shift, colour, line in zip((-1, 0, 1), colours, LINES, strict=True):
        found = [statistics.spread(aucs(points, line, share)) for share in SHARES]
        mean, half = [one.mean for one in found], [one.half for one in found]
        x = np.arange(len(SHARES)) + 0.05 * shift  # shifted, so that error bars do not overlap
        axes.errorbar(x, mean, half, label=line, color=colour, marker="o", capsize=3)
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--record", type=pathlib.Path, default=RECORD)
    flags = parser.parse_args()
    if flags.what == "measure":
        measure(flags.runs, flags.data, flags.seeds, flags.record)
    else:
        plot()


if __name__ == "__main__":
    main()
