"""Metrics of labels against scikit-learn, and by hand."""

import numpy as np
import pytest
import sklearn.metrics

from clickflax.tasks.label_metrics import (
    best_threshold,
    binary_metrics,
    calibration_error,
    class_metrics,
    number_metrics,
    read_bins,
    reliability,
    weighted_metric,
)


def predictions(seed, count=200, steps=20):
    """Probabilities with many ties, and labels that follow them."""
    chance = np.random.default_rng(seed)
    p = chance.integers(0, steps, count) / steps
    return p, (chance.random(count) < p).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_they_are_those_of_scikit_learn(seed):
    p, label = predictions(seed)
    found = binary_metrics(p, label, 0.3)
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(label, p), abs=1e-12)
    expected = sklearn.metrics.average_precision_score(label, p)
    assert found["average_precision"] == pytest.approx(expected, abs=1e-12)
    expected = sklearn.metrics.log_loss(label, np.clip(p, 1e-7, 1 - 1e-7))
    assert found["log_loss"] == pytest.approx(expected, abs=1e-9)
    assert found["f1"] == pytest.approx(sklearn.metrics.f1_score(label, p >= 0.3), abs=1e-12)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(label, p)
    for r in (0.5, 0.8):
        assert found[f"precision@recall={r}"] == pytest.approx(precision[recall >= r].max())


def test_a_label_that_weighs_twice_is_there_twice():
    p, label = predictions(0)
    chance = np.random.default_rng(1)
    weight = chance.multinomial(len(p), np.full(len(p), 1 / len(p)), 3).astype(float)
    scores = sklearn.metrics
    for name in ("auc", "average_precision", "log_loss"):
        for one, found in zip(weight, weighted_metric(name, p, label)(weight), strict=True):
            times = one.astype(int)
            again = binary_metrics(np.repeat(p, times), np.repeat(label, times), 0.5)
            assert found == pytest.approx(again[name], abs=1e-12), name
    expected = scores.roc_auc_score(label, p, sample_weight=weight[0])
    assert weighted_metric("auc", p, label)(weight)[0] == pytest.approx(expected, abs=1e-12)
    value = chance.normal(size=len(p))
    for name, score in (
        ("mae", scores.mean_absolute_error),
        ("rmse", scores.root_mean_squared_error),
    ):
        expected = score(label, value, sample_weight=weight[0])
        assert weighted_metric(name, value, label)(weight)[0] == pytest.approx(expected, abs=1e-12)
    expected = scores.accuracy_score(label, p > 0.5, sample_weight=weight[0])
    assert weighted_metric("accuracy", (p > 0.5) * 1, label)(weight)[0] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["auc", "average_precision"])
def test_a_draw_without_a_yes_or_without_a_no_is_nan(name):
    p, label = predictions(0)
    weight = np.stack([label == 1, label == 0, label >= 0]) * 1.0
    assert np.isnan(weighted_metric(name, p, label)(weight)).tolist() == [True, True, False]


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_f1(seed):
    p, label = predictions(seed)
    best = binary_metrics(p, label, best_threshold(p, label))["f1"]
    assert all(best >= binary_metrics(p, label, t)["f1"] - 1e-12 for t in np.unique(p))


def test_what_needs_both_a_yes_and_a_no_is_nan_without_one():
    for label in (np.zeros(3), np.ones(3)):
        found = binary_metrics(np.array([0.1, 0.5, 0.9]), label, 0.5)
        assert np.isnan(found["auc"])
        assert np.isfinite(found["log_loss"])
    assert best_threshold(np.array([0.1]), np.zeros(1)) == 0.5


def test_a_certain_error_costs_a_finite_loss():
    found = binary_metrics(np.array([0.0, 1.0]), np.array([1.0, 0.0]), 0.5)
    assert found["log_loss"] == pytest.approx(np.log(1e7), rel=1e-6)


def test_calibration_by_hand():
    p, label = np.repeat([0.2, 0.7], 50), np.zeros(100)
    label[:50:5] = 1  # 0.2, as predicted
    label[50:] = np.arange(50) % 5 > 0  # 0.8, not 0.7
    assert calibration_error(p, label) == pytest.approx(0.05)
    low, high = reliability(p, label)
    assert low == pytest.approx((50, 0.2, 0.2, 0.2, 0.2))
    assert high == pytest.approx((50, 0.7, 0.8, 0.7, 0.7))
    assert calibration_error(np.full(10, 0.5), np.repeat([0.0, 1.0], 5)) == 0
    bins = reliability(np.arange(100) / 100, np.ones(100))
    assert [one.labels for one in bins] == [10] * 10
    assert [one.prediction for one in bins] == pytest.approx(np.arange(10) / 10 + 0.045)
    assert (bins[3].least, bins[3].most) == (0.3, 0.39)


def test_bins_of_earlier_versions_have_their_predictions_under_an_old_name():
    bins = [{"labels": 5, "told": 0.2, "yes": 0.4}]
    assert read_bins(bins) == [{"labels": 5, "prediction": 0.2, "yes": 0.4}]
    assert read_bins(read_bins(bins)) == read_bins(bins)


def test_classes_and_numbers_by_hand():
    found = class_metrics(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0.0, 0.0]))
    assert found == pytest.approx({"accuracy": 0.5, "log_loss": (np.log(2) + np.log(4)) / 2})
    assert number_metrics(np.array([1.0, 4.0]), np.array([2.0, 2.0])) == pytest.approx(
        {"mae": 1.5, "rmse": 2.5**0.5}
    )
