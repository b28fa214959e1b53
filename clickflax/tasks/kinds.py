"""Kinds of targets: items, and labels that are binary, one of several classes, or numbers.

A kind says how a label is learned, predicted and measured. Items are learned with the losses of
`config.loss` and ranked, which `losses.py` and `ranking_metrics.py` define.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float, Shaped

from clickflax.batch import Registry
from clickflax.tasks.label_metrics import (
    EXTRA_NAMES,
    LABEL_METRICS,
    best_threshold,
    binary_metrics,
    class_metrics,
    number_metrics,
    reliability_entry,
)
from clickflax.tasks.losses import binary_loss, class_loss, number_loss
from clickflax.tasks.ranking_metrics import RANKING_METRICS

LabelArray = Float[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of targets.

    Of labels, `loss(logits, targets, weights)` gives the weighted sum and the sum of the weights,
    `predict` turns logits [N, C] into predictions (probabilities, or numbers), `measure(prediction,
    label, threshold)` gives the metrics, and `reported` turns predictions into what is kept for
    each label. `details` of a record are not metrics, such as a curve.
    """

    name: str
    metrics: tuple[str, ...]  # that a validation has, and that may be monitored
    extra_metrics: tuple[str, ...] = ()  # that a record has besides
    loss: Callable[..., Any] | None = None
    predict: Callable[[Float[np.ndarray, "N C"]], Shaped[np.ndarray, "N ..."]] | None = None
    measure: Callable[[Any, LabelArray, float], dict[str, float]] | None = None
    details: Callable[[Any, LabelArray], dict[str, Any]] = lambda prediction, label: {}
    reported: Callable[[Any], Shaped[np.ndarray, " N"]] = lambda prediction: prediction
    has_threshold: bool = False

    def threshold(self, prediction: Any, label: LabelArray) -> float:
        """The threshold with the best F1, of yes or no; 0.5 for other kinds."""
        return best_threshold(prediction, label) if self.has_threshold else 0.5


ITEM = Kind("item", tuple(RANKING_METRICS))

# By `config.label.kind`.
LABEL_KINDS: Registry[Kind] = Registry(
    "kind of label",
    {
        "binary": Kind(
            "binary",
            LABEL_METRICS["binary"],
            EXTRA_NAMES["binary"],
            loss=binary_loss,
            predict=lambda logits: scipy.special.expit(logits[:, 0]),
            measure=binary_metrics,
            details=reliability_entry,
            has_threshold=True,
        ),
        "classes": Kind(
            "classes",
            LABEL_METRICS["classes"],
            loss=class_loss,
            predict=lambda logits: scipy.special.softmax(logits, 1),
            measure=lambda prediction, label, threshold: class_metrics(prediction, label),
            reported=lambda prediction: prediction.argmax(1),
        ),
        "number": Kind(
            "number",
            LABEL_METRICS["number"],
            loss=number_loss,
            predict=lambda logits: logits[:, 0],
            measure=lambda prediction, label, threshold: number_metrics(prediction, label),
        ),
    },
)
