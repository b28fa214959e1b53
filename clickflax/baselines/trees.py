"""Gradient-boosted trees on histograms of the features."""

from typing import Any

import numpy as np

from clickflax.baselines.feature_table import FeatureTable
from clickflax.baselines.label_models import FittedModels

LEAVES = (8, 31)  # of each tree; the validation chooses
ROUNDS = 500  # trees, at most; a fifth of it without a validation


def fit_trees(kind: str, train: FeatureTable, validation: FeatureTable) -> FittedModels:
    """Yields boosted trees for each number of leaves, stopped early by the validation."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    make = HistGradientBoostingRegressor if kind == "number" else HistGradientBoostingClassifier
    known = np.isin(validation.label, train.label) if kind == "classes" else slice(None)
    x = validation.matrix()[known]
    label = validation.label[known]
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
