"""scikit-learn on hand-made features: boosted trees and a linear model, chosen on the validation.

Trees stop when the validation gets no better, and have LEAVES leaves; the linear model sees the
logarithm of every quantity, standardised, and is regularised by one of STRENGTHS.
"""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from clickflax.baselines.tables import Table
from clickflax.tasks.label_metrics import (
    best_threshold,
    binary_metrics,
    class_metrics,
    number_metrics,
)

LEAVES = (8, 31)
STRENGTHS = (0.0001, 0.01, 1.0)  # C of the logistic regression, 1 / alpha of the linear one
ROUNDS = 500  # trees, at most; without a validation a fifth of it
CATEGORIES = 50  # of a code that the linear model tells apart

Predict = Callable[[Float[np.ndarray, "N F"]], Float[np.ndarray, "..."]]


class Choice(NamedTuple):
    """A model, what was chosen for it, and the threshold of its yes."""

    predict: Predict
    chosen: dict[str, float]
    threshold: float


def fit(name: str, kind: str, count: int, train: Table, validation: Table) -> Choice:
    """The model `name` that is best on the validation, the first one without any.

    Labels are of a `kind` of `config.label`; there are `count` classes.
    """
    check_installed()
    tried = []
    for model, chosen in LEARNERS[name](kind, train, validation):
        predict = predictor(model, kind, count)
        if not len(validation.label):
            return Choice(predict, chosen, 0.5)
        told = predict(validation.matrix())
        threshold = best_threshold(told, validation.label) if kind == "binary" else 0.5
        found = judge(kind, told, validation.label, threshold)
        loss = found["rmse"] if kind == "number" else found["log_loss"]
        tried.append((loss, Choice(predict, chosen, threshold)))
    return min(tried, key=lambda one: one[0])[1]


def judge(
    kind: str, told: Float[np.ndarray, "..."], label: Float[np.ndarray, " N"], threshold: float
) -> dict[str, float]:
    """The metrics of what was told."""
    if kind == "binary":
        return binary_metrics(told, label, threshold)
    return class_metrics(told, label) if kind == "classes" else number_metrics(told, label)


def check_installed() -> None:
    """Refuses to go on without scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError(
            "the baselines of labels need scikit-learn, which is not installed: "
            "pip install 'clickflax[baselines]'."
        )


def predictor(model: Any, kind: str, count: int) -> Predict:
    """What a fitted model tells: the probability of a yes, those of all classes, or a number."""
    if kind == "number":
        return model.predict
    if kind == "binary":
        return lambda x: model.predict_proba(x)[:, 1]

    def probabilities(x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N C"]:
        found = np.zeros((len(x), count))  # a class that was not trained on has none
        found[:, model.classes_.astype(int)] = model.predict_proba(x)
        return found

    return probabilities


def constant(kind: str, train: Table, validation: Table) -> Iterator[tuple[Any, dict[str, float]]]:
    """The same for all: the share of each class in the training, or its mean."""
    from sklearn.dummy import DummyClassifier, DummyRegressor

    model = DummyRegressor() if kind == "number" else DummyClassifier(strategy="prior")
    yield model.fit(train.matrix(), train.label), {}


def trees(kind: str, train: Table, validation: Table) -> Iterator[tuple[Any, dict[str, float]]]:
    """Boosted trees (histograms of 255 bins), for each number of leaves."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    make = HistGradientBoostingRegressor if kind == "number" else HistGradientBoostingClassifier
    held = np.isin(validation.label, train.label) if kind == "classes" else slice(None)
    x, label = validation.matrix()[held], validation.label[held]
    stop = {"X_val": x, "y_val": label} if len(label) else {}
    for leaves in LEAVES:
        options: dict[str, Any] = dict(
            learning_rate=0.1,
            max_iter=ROUNDS if stop else ROUNDS // 5,
            max_leaf_nodes=leaves,
            min_samples_leaf=50,
            n_iter_no_change=20,
            early_stopping=bool(stop),
            categorical_features=train.is_code(),
            random_state=0,
        )
        model = make(**options)
        model.fit(train.matrix(), train.label, **stop)
        yield model, {"leaves": leaves, "trees": model.n_iter_}


def linear(kind: str, train: Table, validation: Table) -> Iterator[tuple[Any, dict[str, float]]]:
    """A logistic regression, or a linear one of a number, for each strength."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    ready = prepared(train.is_code())
    x = ready.fit_transform(train.matrix())
    for strength in STRENGTHS:
        if kind == "number":
            model = Ridge(alpha=1 / strength)
        else:
            # Newton's method takes a few steps where there are many labels and few features.
            solver = "newton-cholesky" if kind == "binary" else "lbfgs"
            model = LogisticRegression(C=strength, max_iter=300, solver=solver)
        yield make_pipeline(ready, model.fit(x, train.label)), {"C": strength}


def logarithm(x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N F"]:
    """log(1 + x), and the same to the other side of 0."""
    return np.sign(x) * np.log1p(np.abs(x))


def prepared(is_code: Bool[np.ndarray, " F"]) -> Any:
    """What makes standardised logarithms of quantities, and zeros and ones of codes."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    codes = OneHotEncoder(
        max_categories=CATEGORIES, handle_unknown="infrequent_if_exist", sparse_output=False
    )
    quantities = make_pipeline(
        FunctionTransformer(logarithm),
        SimpleImputer(keep_empty_features=True, add_indicator=True),
        StandardScaler(),
    )
    where = {"codes": np.flatnonzero(is_code), "quantities": np.flatnonzero(~is_code)}
    return ColumnTransformer(
        [("codes", codes, where["codes"]), ("quantities", quantities, where["quantities"])]
    )


LEARNERS: dict[str, Callable[..., Iterator[tuple[Any, dict[str, float]]]]] = {
    "constant": constant,
    "linear": linear,
    "trees": trees,
}
