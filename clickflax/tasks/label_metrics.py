"""Metrics of labels from predictions.

For binary labels with predicted probabilities p, of N labels P are yes:

    auc                   area under the ROC curve: the share of pairs of a yes and a no in which
                          the yes has the higher p; ties count half
    average_precision     mean over all yes labels of the precision among labels with at least
                          their p
    log_loss              mean of -log of the probability of the true label, in nats
    calibration_error     mean over ten bins of about equal size of |share of yes - mean p|
    f1                    2 true positives / (predicted positives + P); positive from a threshold on
    precision@recall=r    highest precision at any threshold with recall r or more

Metrics that need both a yes and a no are NaN if one of them is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

LABEL_METRICS = {
    "binary": ("auc", "average_precision", "log_loss", "calibration_error", "f1"),
    "classes": ("accuracy", "log_loss"),
    "number": ("mae", "rmse"),
}
LOWER_IS_BETTER = ("log_loss", "calibration_error", "mae", "rmse")

ORDER_METRICS = ("auc", "average_precision")  # depend on the order of predictions only
# Metrics that `weighted_metric` computes. f1 has another threshold for each run, and
# calibration_error other bins.
WEIGHTED_METRICS = (*ORDER_METRICS, "log_loss", "accuracy", "mae", "rmse")

MIN_PROBABILITY = 1e-7  # probabilities are clipped to [this, 1 - this], the precision of float32
CALIBRATION_BINS = 10
RECALLS = (0.5, 0.8)
# Metrics in the record of an evaluation that cannot be monitored.
EXTRA_NAMES = {
    "binary": ("threshold", "yes", *(f"precision@recall={r}" for r in RECALLS)),
    "classes": (),
    "number": (),
}


def binary_metrics(
    p: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"], threshold: float
) -> dict[str, float]:
    """The metrics of binary labels, as defined at the top of this file."""
    yes = label == 1
    positives, count = int(yes.sum()), len(yes)
    predicted = p >= threshold
    metrics = {
        "auc": float("nan"),
        "average_precision": float("nan"),
        "log_loss": float(label_errors("log_loss", p, label).mean()),
        "calibration_error": calibration_error(p, label),
        "f1": float(2 * (predicted & yes).sum() / max(int(predicted.sum()) + positives, 1)),
        "threshold": threshold,
        "yes": positives / count,
        **{f"precision@recall={r}": float("nan") for r in RECALLS},
    }
    if not 0 < positives < count:
        return metrics
    hits, seen = cumulative_counts(p, yes)
    precision, recall = hits / seen, hits / positives
    metrics["auc"] = float(auc(hits, seen))
    metrics["average_precision"] = float(average_precision(hits, seen))
    for r in RECALLS:
        metrics[f"precision@recall={r}"] = float(precision[recall >= r - 1e-12].max())
    return metrics


def cumulative_counts(
    p: Float[np.ndarray, " N"], yes: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """The numbers of yes labels, and of all labels, with at least each of D distinct probabilities.

    The highest probability is first.
    """
    order, last = descending_order(p)
    return np.cumsum(yes[order])[last].astype(float), np.flatnonzero(last) + 1.0


def descending_order(
    p: Float[np.ndarray, " N"],
) -> tuple[Int[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """The descending order of probabilities, and a mask of the last of equal ones in that order."""
    order = np.argsort(-p, kind="stable")
    return order, np.append(np.diff(p[order]) != 0, True)


def auc(
    hits: Float[np.ndarray, "*draws D"], seen: Float[np.ndarray, "*draws D"]
) -> Float[np.ndarray, "*draws"] | float:
    """The area under the ROC curve, from `cumulative_counts`."""
    misses = seen - hits
    steps = np.diff(hits, prepend=0, axis=-1)
    below = misses[..., -1:] - misses  # no labels with a lower probability
    half = np.diff(misses, prepend=0, axis=-1) / 2  # no labels with an equal one
    return (steps * (below + half)).sum(-1) / hits[..., -1] / misses[..., -1]


def average_precision(
    hits: Float[np.ndarray, "*draws D"], seen: Float[np.ndarray, "*draws D"]
) -> Float[np.ndarray, "*draws"] | float:
    """The mean precision over all yes labels, from `cumulative_counts`."""
    steps = np.diff(hits, prepend=0, axis=-1)
    precision = hits / np.maximum(seen, 1)  # the first labels may have weight 0
    return (steps * precision).sum(-1) / hits[..., -1]


def label_errors(
    name: str, prediction: Shaped[np.ndarray, " N"], label: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """The term of each label in a metric that is a mean, or for rmse the root of a mean."""
    if name == "log_loss":
        clipped = np.clip(prediction, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return -np.log(np.where(label == 1, clipped, 1 - clipped))
    if name == "accuracy":
        return (prediction == label).astype(np.float64)
    return np.abs(prediction - label) if name == "mae" else np.square(prediction - label)


def weighted_metric(
    name: str, prediction: Shaped[np.ndarray, " N"], label: Float[np.ndarray, " N"]
) -> Callable[[Float[np.ndarray, "draws N"]], Float[np.ndarray, " draws"]]:
    """One of WEIGHTED_METRICS as a function of the weights of labels.

    Predictions are the probabilities of yes, predicted classes, or numbers. NaN for weights without
    a yes or without a no.
    """
    if name not in ORDER_METRICS:
        terms = label_errors(name, prediction, label)

        def mean(weight: Float[np.ndarray, "draws N"]) -> Float[np.ndarray, " draws"]:
            means = weight @ terms / weight.sum(-1)
            return np.sqrt(means) if name == "rmse" else means

        return mean
    order, last = descending_order(prediction)
    yes, metric = label[order] == 1, auc if name == "auc" else average_precision

    def of_order(weight: Float[np.ndarray, "draws N"]) -> Float[np.ndarray, " draws"]:
        ordered = weight[:, order]
        hits, seen = (np.cumsum(one, -1)[:, last] for one in (ordered * yes, ordered))
        both = (hits[:, -1] > 0) & (hits[:, -1] < seen[:, -1])
        values = np.full(len(weight), np.nan)
        values[both] = metric(hits[both], seen[both])
        return values

    return of_order


def best_threshold(p: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]) -> float:
    """The threshold with the highest F1, the highest of several; 0.5 if no label is yes."""
    yes = label == 1
    if not yes.any():
        return 0.5
    hits, seen = cumulative_counts(p, yes)
    values = np.sort(np.unique(p))[::-1]
    return float(values[np.argmax(2 * hits / (seen + yes.sum()))])


class Bin(NamedTuple):
    """Labels with similar predictions: their number, and statistics of labels and predictions."""

    labels: int
    prediction: float  # mean
    yes: float  # share of labels that are yes
    least: float  # prediction
    most: float  # prediction


def reliability(p: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]) -> list[Bin]:
    """Bins of about equal size, from the lowest probability to the highest."""
    edges = np.unique(np.quantile(p, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS))
    index = np.searchsorted(edges, p, side="right")  # equal predictions are in the same bin
    bins = []
    for inside in (index == i for i in range(len(edges) + 1)):
        if inside.any():
            of_bin = p[inside]
            statistics = (of_bin.mean(), label[inside].mean(), of_bin.min(), of_bin.max())
            bins.append(Bin(len(of_bin), *map(float, statistics)))
    return bins


def calibration_error(p: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]) -> float:
    """The mean over labels of |mean prediction - share of yes| of their bin of `reliability`."""
    return sum(b.labels * abs(b.prediction - b.yes) for b in reliability(p, label)) / len(p)


def reliability_entry(
    p: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]
) -> dict[str, list[dict[str, float]]]:
    """The entry `reliability` of a record, which `read_bins` reads."""
    return {"reliability": [one._asdict() for one in reliability(p, label)]}


def read_bins(bins: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bins in a record; those of earlier versions have `told` for `prediction`."""
    return [
        {"prediction" if key == "told" else key: value for key, value in one.items()}
        for one in bins
    ]


def class_metrics(p: Float[np.ndarray, "N C"], label: Float[np.ndarray, " N"]) -> dict[str, float]:
    """Accuracy, and the mean of -log of the probability of the true class, in nats."""
    own = p[np.arange(len(p)), label.astype(int)]
    return {
        "accuracy": float(label_errors("accuracy", p.argmax(1), label).mean()),
        "log_loss": float(-np.log(np.clip(own, MIN_PROBABILITY, 1)).mean()),
    }


def number_metrics(
    prediction: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]
) -> dict[str, float]:
    """Mean absolute error, and root of the mean squared error."""
    absolute = label_errors("mae", prediction, label)
    squared = label_errors("rmse", prediction, label)
    return {"mae": float(absolute.mean()), "rmse": float(np.sqrt(squared.mean()))}
