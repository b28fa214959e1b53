"""Label baselines: the choice of a model on the validation."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from clickflax.baselines.feature_table import FeatureTable
from clickflax.tasks.label_metrics import (
    best_threshold,
    binary_metrics,
    class_metrics,
    number_metrics,
)

FittedModels = Iterator[tuple[Any, dict[str, float]]]
FitLabels = Callable[[str, FeatureTable, FeatureTable], FittedModels]
Predict = Callable[[Float[np.ndarray, "N F"]], Float[np.ndarray, "..."]]


class ChosenModel(NamedTuple):
    """The predictions of a fitted model, its hyperparameters, and its threshold for a yes."""

    predict: Predict
    chosen: dict[str, float]
    threshold: float


def fit_label_baseline(
    fit: FitLabels, kind: str, classes: int, train: FeatureTable, validation: FeatureTable
) -> ChosenModel:
    """Returns the model of a baseline with the lowest validation loss; without one, the first.

    The loss is RMSE for numbers, and log loss for `binary` labels and `classes`.
    """
    check_scikit_learn()
    tried = []
    for model, chosen in fit(kind, train, validation):
        predict = make_predict(model, kind, classes)
        if not len(validation.label):
            return ChosenModel(predict, chosen, 0.5)
        predictions = predict(validation.matrix())
        binary = kind == "binary"
        threshold = best_threshold(predictions, validation.label) if binary else 0.5
        metrics = metrics_of_labels(kind, predictions, validation.label, threshold)
        loss = metrics["rmse"] if kind == "number" else metrics["log_loss"]
        tried.append((loss, ChosenModel(predict, chosen, threshold)))
    return min(tried, key=lambda pair: pair[0])[1]


def metrics_of_labels(
    kind: str,
    predictions: Float[np.ndarray, "..."],
    label: Float[np.ndarray, " N"],
    threshold: float,
) -> dict[str, float]:
    """Returns the metrics of predictions of labels of this kind."""
    if kind == "binary":
        return binary_metrics(predictions, label, threshold)
    if kind == "classes":
        return class_metrics(predictions, label)
    return number_metrics(predictions, label)


def check_scikit_learn() -> None:
    """Raises ValueError if scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError(
            "The baselines for labels need scikit-learn, which is not installed: "
            "pip install 'clickflax[baselines]'."
        )


def make_predict(model: Any, kind: str, classes: int) -> Predict:
    """Returns the predictions of a fitted model: P(yes), P of all classes, or a number."""
    if kind == "number":
        return model.predict
    if kind == "binary":
        return lambda x: model.predict_proba(x)[:, 1]

    def probabilities(x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N C"]:
        of_class = np.zeros((len(x), classes))  # 0 for a class without training labels
        of_class[:, model.classes_.astype(int)] = model.predict_proba(x)
        return of_class

    return probabilities
