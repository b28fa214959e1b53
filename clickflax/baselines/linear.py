"""Linear and logistic regression on standardised features.

Quantities enter as log(1 + x), standardised; codes as indicators of their most frequent values.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from clickflax.baselines.feature_table import FeatureTable
from clickflax.baselines.label_models import FittedModels

STRENGTHS = (0.0001, 0.01, 1.0)  # C of logistic regression, 1 / alpha of ridge regression
MOST_CATEGORIES = 50  # indicators of a code; rarer values share one


def fit_linear(kind: str, train: FeatureTable, validation: FeatureTable) -> FittedModels:
    """Yields a logistic regression, or a ridge regression of numbers, for each strength."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    transform = make_transform(train.is_code())
    x = transform.fit_transform(train.matrix())
    for strength in STRENGTHS:
        if kind == "number":
            model = Ridge(alpha=1 / strength)
        else:
            # Newton's method takes few steps for many labels and few features.
            solver = "newton-cholesky" if kind == "binary" else "lbfgs"
            model = LogisticRegression(C=strength, max_iter=300, solver=solver)
        yield make_pipeline(transform, model.fit(x, train.label)), {"C": strength}


def signed_log(x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N F"]:
    """Returns sign(x) * log(1 + |x|)."""
    return np.sign(x) * np.log1p(np.abs(x))


def make_transform(is_code: Bool[np.ndarray, " F"]) -> Any:
    """Returns a transformer of codes to indicators and of quantities to standardised logarithms."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    codes = OneHotEncoder(
        max_categories=MOST_CATEGORIES, handle_unknown="infrequent_if_exist", sparse_output=False
    )
    quantities = make_pipeline(
        FunctionTransformer(signed_log),
        SimpleImputer(keep_empty_features=True, add_indicator=True),
        StandardScaler(),
    )
    where = {"codes": np.flatnonzero(is_code), "quantities": np.flatnonzero(~is_code)}
    return ColumnTransformer(
        [("codes", codes, where["codes"]), ("quantities", quantities, where["quantities"])]
    )
