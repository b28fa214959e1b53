"""Metrics of labels, from what was told and what was so.

Of a yes or no with probability p, over the labels that are asked, with P yeses among N:

    auc                   the share of pairs of a yes and a no in which the yes has the higher p,
                          ties count half (area under the ROC curve)
    average_precision     the mean over the yeses of the precision among all with at least their p
    log_loss              the mean of -log of the probability of what was so, in nats
    calibration_error     the mean over ten bins of like size of |share of yeses - mean p|
    f1                    2 true yeses / (told yeses + P), where p is at least the threshold
    precision@recall=r    the best precision at any threshold that finds the share r of the yeses

Metrics that need both a yes and a no are NaN where one of them is missing.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

LABEL_METRICS = {
    "binary": ("auc", "average_precision", "log_loss", "calibration_error", "f1"),
    "classes": ("accuracy", "log_loss"),
    "number": ("mae", "rmse"),
}
LOWER_IS_BETTER = (
    "log_loss",
    "calibration_error",
    "mae",
    "rmse",
)  # of which the lowest is the best

# Those that `weighted` has: f1 has a threshold of its own for each run, and calibration_error bins.
RANK_METRICS = ("auc", "average_precision")
WEIGHTED_METRICS = (*RANK_METRICS, "log_loss", "accuracy", "mae", "rmse")

MIN_PROBABILITY = 1e-7  # a probability is no nearer to 0 or 1: float32 tells no more apart
CALIBRATION_BINS = 10
RECALLS = (0.5, 0.8)
# What the record of an evaluation has beside those that may be monitored.
EXTRA_NAMES = {
    "binary": ("threshold", "yes", *(f"precision@recall={r}" for r in RECALLS)),
    "classes": (),
    "number": (),
}


def binary_metrics(
    p: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"], threshold: float
) -> dict[str, float]:
    """The metrics of probabilities, defined at the top of this file."""
    yes = label == 1
    positives, count = int(yes.sum()), len(yes)
    told = p >= threshold
    found = {
        "auc": float("nan"),
        "average_precision": float("nan"),
        "log_loss": float(errors("log_loss", p, label).mean()),
        "calibration_error": calibration_error(p, label),
        "f1": float(2 * (told & yes).sum() / max(int(told.sum()) + positives, 1)),
        "threshold": threshold,
        "yes": positives / count,
        **{f"precision@recall={r}": float("nan") for r in RECALLS},
    }
    if not 0 < positives < count:
        return found
    hits, seen = cumulated(p, yes)
    precision, recall = hits / seen, hits / positives
    found["auc"] = float(auc(hits, seen))
    found["average_precision"] = float(average_precision(hits, seen))
    for r in RECALLS:
        found[f"precision@recall={r}"] = float(precision[recall >= r - 1e-12].max())
    return found


def cumulated(
    p: Float[np.ndarray, " N"], yes: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """Yeses, and all, with at least each of the different probabilities, the highest first."""
    order, last = from_the_highest(p)
    return np.cumsum(yes[order])[last].astype(float), np.flatnonzero(last) + 1.0


def from_the_highest(
    p: Float[np.ndarray, " N"],
) -> tuple[Int[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """The order of probabilities, and which of them, in that order, is the last of its value."""
    order = np.argsort(-p, kind="stable")
    return order, np.append(np.diff(p[order]) != 0, True)


def auc(
    hits: Float[np.ndarray, "*draws D"], seen: Float[np.ndarray, "*draws D"]
) -> Float[np.ndarray, "*draws"] | float:
    """The area under the ROC curve, of what is `cumulated`."""
    misses = seen - hits
    steps = np.diff(hits, prepend=0, axis=-1)
    below = misses[..., -1:] - misses  # noes with a lower probability
    half = np.diff(misses, prepend=0, axis=-1) / 2  # noes with the same
    return (steps * (below + half)).sum(-1) / hits[..., -1] / misses[..., -1]


def average_precision(
    hits: Float[np.ndarray, "*draws D"], seen: Float[np.ndarray, "*draws D"]
) -> Float[np.ndarray, "*draws"] | float:
    """The mean precision over the yeses, of what is `cumulated`."""
    steps = np.diff(hits, prepend=0, axis=-1)
    precision = hits / np.maximum(seen, 1)  # nothing may have been drawn so far
    return (steps * precision).sum(-1) / hits[..., -1]


def errors(
    name: str, told: Shaped[np.ndarray, " N"], label: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """What each label adds to the mean that a metric is, or is the root of."""
    if name == "log_loss":
        clipped = np.clip(told, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return -np.log(np.where(label == 1, clipped, 1 - clipped))
    if name == "accuracy":
        return (told == label).astype(np.float64)
    return np.abs(told - label) if name == "mae" else np.square(told - label)


def weighted(
    name: str, told: Shaped[np.ndarray, " N"], label: Float[np.ndarray, " N"]
) -> Callable[[Float[np.ndarray, "draws N"]], Float[np.ndarray, " draws"]]:
    """One of the metrics WEIGHTED, as a function of how often each label counts: of a yes or no
    from its probability, of classes from the one that was told. NaN without a yes or without a no.
    """
    if name not in RANK_METRICS:
        added = errors(name, told, label)

        def mean(weight: Float[np.ndarray, "draws N"]) -> Float[np.ndarray, " draws"]:
            found = weight @ added / weight.sum(-1)
            return np.sqrt(found) if name == "rmse" else found

        return mean
    order, last = from_the_highest(told)
    yes, metric = label[order] == 1, auc if name == "auc" else average_precision

    def ranked(weight: Float[np.ndarray, "draws N"]) -> Float[np.ndarray, " draws"]:
        counted = weight[:, order]
        hits, seen = (np.cumsum(one, -1)[:, last] for one in (counted * yes, counted))
        both = (hits[:, -1] > 0) & (hits[:, -1] < seen[:, -1])
        found = np.full(len(weight), np.nan)
        found[both] = metric(hits[both], seen[both])
        return found

    return ranked


def best_threshold(p: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]) -> float:
    """The threshold with the highest F1, the highest of several; 0.5 where there is no yes."""
    yes = label == 1
    if not yes.any():
        return 0.5
    hits, seen = cumulated(p, yes)
    values = np.sort(np.unique(p))[::-1]
    return float(values[np.argmax(2 * hits / (seen + yes.sum()))])


class Bin(NamedTuple):
    """Labels that were told about the same: their number, and of what was told the mean, the least
    and the most.
    """

    labels: int
    told: float
    yes: float  # the share of them
    least: float
    most: float


def reliability(p: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]) -> list[Bin]:
    """Bins of about equal size, from the lowest probability to the highest."""
    edges = np.unique(np.quantile(p, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS))
    place = np.searchsorted(edges, p, side="right")  # what is told alike is in one bin
    found = []
    for some in (place == i for i in range(len(edges) + 1)):
        if some.any():
            told = p[some]
            number_metrics = (told.mean(), label[some].mean(), told.min(), told.max())
            found.append(Bin(len(told), *map(float, number_metrics)))
    return found


def calibration_error(p: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]) -> float:
    """The mean distance of `reliability` from what it should be, each label counting once."""
    return sum(b.labels * abs(b.told - b.yes) for b in reliability(p, label)) / len(p)


def precision_recall_curve(
    p: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]
) -> dict[str, list[dict[str, float]]]:
    """What a record keeps of `reliability`."""
    return {"reliability": [one._asdict() for one in reliability(p, label)]}


def class_metrics(p: Float[np.ndarray, "N C"], label: Float[np.ndarray, " N"]) -> dict[str, float]:
    """Accuracy, and the mean of -log of the probability of what was so, in nats."""
    own = p[np.arange(len(p)), label.astype(int)]
    return {
        "accuracy": float(errors("accuracy", p.argmax(1), label).mean()),
        "log_loss": float(-np.log(np.clip(own, MIN_PROBABILITY, 1)).mean()),
    }


def number_metrics(
    told: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]
) -> dict[str, float]:
    """Mean absolute error, and root of the mean squared one."""
    mae, square = errors("mae", told, label), errors("rmse", told, label)
    return {"mae": float(mae.mean()), "rmse": float(np.sqrt(square.mean()))}
