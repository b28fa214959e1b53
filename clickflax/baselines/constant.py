"""The constant baseline: the shares of the classes, or the mean, of the training labels."""

from clickflax.baselines.feature_table import FeatureTable
from clickflax.baselines.label_models import FittedModels


def fit_constant(kind: str, train: FeatureTable, validation: FeatureTable) -> FittedModels:
    """Yields a model with the same prediction for every label."""
    from sklearn.dummy import DummyClassifier, DummyRegressor

    model = DummyRegressor() if kind == "number" else DummyClassifier(strategy="prior")
    yield model.fit(train.matrix(), train.label), {}
