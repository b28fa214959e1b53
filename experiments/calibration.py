"""Reliability diagrams of runs: predicted probabilities against observed frequencies.

    clickflax evaluate --run=runs/purchase
    python experiments/calibration.py runs/purchase runs/other --out calibration.svg

Each dot is a tenth of the labels, ordered by predicted probability; its bar is two standard errors
of the observed frequency on either side. Dots on the diagonal are calibrated; below it, the
predicted probabilities are too high. The strip is the distribution of the predictions.
"""

import argparse
import json
import math
import pathlib

import numpy as np

from clickflax.tasks.label_metrics import read_bins

COLOURS = ("#1f5fa8", "#d1662f", "#3a8f5c", "#8457a5", "#a08020")
COLUMNS = 40  # of the strip


def curves(run: pathlib.Path, part: str) -> dict[str, dict]:
    """Bins and calibration error of each task with binary labels, by the name of its curve.

    Raises FileNotFoundError if the run is not evaluated, and ValueError if it has no such task.
    """
    path = run / f"{part}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: `clickflax evaluate --run={run}` writes it.")
    record = json.loads(path.read_text(encoding="utf-8"))
    prefixes = [key.removesuffix("reliability") for key in record if key.endswith("reliability")]
    if not prefixes:
        raise ValueError(f"{path} has no reliability: no task of the run has binary labels.")
    return {
        " ".join([run.name, *filter(None, [prefix.removesuffix("/")])]): {
            "bins": read_bins(record[f"{prefix}reliability"]),
            "error": record[f"{prefix}calibration_error"],
        }
        for prefix in prefixes
    }


def spread(bins: list[dict], most: float) -> np.ndarray:
    """Share of the labels in each column of a histogram from 0 to `most`.

    The labels of a bin are spread evenly between its lowest and its highest probability. Labels
    above `most` are in no column.
    """
    edges = np.linspace(0, most, COLUMNS + 1)
    counts = np.zeros(COLUMNS)
    for one in bins:
        if one["least"] == one["most"]:
            column = min(int(one["least"] / most * COLUMNS), COLUMNS - 1)
            counts[column] += one["labels"]
        else:
            below = np.clip((edges - one["least"]) / (one["most"] - one["least"]), 0, 1)
            counts += one["labels"] * np.diff(below)
    return counts / sum(one["labels"] for one in bins)


def limit(found: dict[str, dict]) -> float:
    """Upper end of both axes: a round number above all values, at most 1."""
    values = [v for one in found.values() for b in one["bins"] for v in (b["prediction"], b["yes"])]
    top = 1.15 * max(values)
    step = 10 ** math.floor(math.log10(max(top, 1e-6)))
    return min(1.0, next(step * n for n in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * n >= top))


def plot(found: dict[str, dict], out: pathlib.Path) -> None:
    """Draws the reliability curves and, below them, the distributions of the predictions."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "clickflax"  # the same picture from the same figures
    top = limit(found)
    figure, (axis, strip) = pyplot.subplots(
        2, 1, figsize=(4.6, 5.9), sharex=True, height_ratios=(5, 1), layout="constrained"
    )
    axis.plot([0, top], [0, top], color="#999999", linewidth=1, linestyle="--", zorder=1)
    edges = np.linspace(0, top, COLUMNS + 1)
    for i, (name, one) in enumerate(found.items()):
        colour = COLOURS[i % len(COLOURS)]
        bins = one["bins"]
        prediction, yes, labels = (
            np.array([b[key] for b in bins]) for key in ("prediction", "yes", "labels")
        )
        error = 2 * np.sqrt(yes * (1 - yes) / labels)
        axis.errorbar(prediction, yes, error, fmt="none", ecolor=colour, elinewidth=1, alpha=0.45)
        label = f"{name}  (off by {100 * one['error']:.2g} points)"
        axis.plot(prediction, yes, "o-", color=colour, markersize=4, linewidth=1.4, label=label)
        share = spread(bins, top)
        strip.stairs(share, edges, color=colour, linewidth=1.2)
        strip.stairs(share, edges, color=colour, fill=True, alpha=0.18)
    axis.set(xlim=(0, top), ylim=(0, top), ylabel="observed frequency")
    figure.legend(frameon=False, fontsize=8, loc="outside upper left")
    strip.set(xlabel="predicted probability", ylabel="labels", ylim=(0, None))
    for one in (axis, strip):
        one.spines[["top", "right"]].set_visible(False)
        for side in (one.xaxis, one.yaxis):
            side.set_major_formatter(lambda value, position: f"{100 * value:g}%")
        one.tick_params(labelsize=8)
    strip.locator_params(axis="y", nbins=3)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of runs")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="an SVG file")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    flags = parser.parse_args()
    found: dict[str, dict] = {}
    for run in flags.runs:
        found |= curves(run, flags.split)
    plot(found, flags.out)


if __name__ == "__main__":
    main()
