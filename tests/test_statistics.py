"""Statistics over seeds and users, compared with scipy and with numbers computed by hand."""

import numpy as np
import pytest
import scipy.stats

from clickflax.study.statistics import (
    bootstrap_label_metric,
    difference,
    difference_from_draws,
    holm,
    spread,
)
from clickflax.tasks.label_metrics import weighted_metric


def test_the_interval_of_seeds_is_that_of_scipy():
    values = [0.31, 0.33, 0.30, 0.32]
    found = spread(values)
    expected = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    assert found.mean - found.half == pytest.approx(expected[0], abs=1e-12)
    assert found.mean + found.half == pytest.approx(expected[1], abs=1e-12)
    assert found.deviation == pytest.approx(np.std(values, ddof=1))


def test_a_single_seed_has_no_interval():
    found = spread([0.5])
    assert found.mean == 0.5 and np.isnan(found.deviation) and np.isnan(found.half)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def users(count=400):
    """A metric of the same users under two models, the first a little better."""
    chance = np.random.default_rng(1)
    theirs = 1 / np.log2(chance.integers(0, 12, count) + 2)
    ours = np.where(
        chance.random(count) < 0.8, theirs, 1 / np.log2(chance.integers(0, 10, count) + 2)
    )
    return ours, theirs


def test_the_paired_t_test_is_that_of_scipy():
    ours, theirs = users()
    assert difference(ours, theirs).p_t == scipy.stats.ttest_rel(ours, theirs).pvalue


def test_the_bootstrap_has_the_interval_of_scipy():
    ours, theirs = users()
    found = difference(ours, theirs)
    drawn = scipy.stats.bootstrap(
        (ours - theirs,), np.mean, n_resamples=10_000, method="percentile", rng=2
    )
    width = found.high - found.low
    assert found.mean == pytest.approx((ours - theirs).mean())
    assert found.low == pytest.approx(drawn.confidence_interval.low, abs=0.03 * width)
    assert found.high == pytest.approx(drawn.confidence_interval.high, abs=0.03 * width)
    below = (drawn.bootstrap_distribution <= 0).mean()
    assert found.p_bootstrap == pytest.approx(2 * min(below, 1 - below), abs=0.02)


def test_95_percent_of_bootstrap_intervals_contain_the_true_difference():
    chance = np.random.default_rng(0)
    contained = 0
    for seed in range(200):
        ours = (chance.random(300) < 0.35).astype(float)
        theirs = (chance.random(300) < 0.30).astype(float)
        found = difference(ours, theirs, seed)
        contained += found.low <= 0.05 <= found.high
    assert 0.91 <= contained / 200 <= 0.98


def test_a_difference_has_a_sign_and_depends_on_the_seed_only():
    ours, theirs = users()
    forward, backward = difference(ours, theirs), difference(theirs, ours)
    assert forward.mean == -backward.mean and forward.p_t == backward.p_t
    assert difference(ours, theirs) == forward != difference(ours, theirs, seed=1)


def test_equal_models_have_no_difference():
    ours, _ = users()
    assert difference(ours, ours) == (0.0, 0.0, 0.0, 1.0, 1.0)
    same = difference(np.array([0.5, 0.75, 1.0]), np.array([0.0, 0.25, 0.5]))
    assert same.low == same.high == 0.5 and same.p_t == 0.0 and same.p_bootstrap < 1e-3


def test_users_that_cannot_be_paired_or_are_too_few_are_refused():
    with pytest.raises(ValueError, match="One model has 3 users, and the other 2"):
        difference(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="needs two users or more, and there are 1"):
        difference(np.zeros(1), np.zeros(1))


def test_the_correction_of_holm_by_hand():
    # Sorted: .005 x 4, .01 x 3, .03 x 2, .04 x 1; none is less than the one before it.
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def label_difference(sequence, name, predictions, label):
    """The difference of two models in a metric of labels, with its bootstrap."""
    metrics = [weighted_metric(name, prediction, label) for prediction in predictions]
    ours, theirs = (bootstrap_label_metric(sequence, metric) for metric in metrics)
    value = [float(metric(np.ones((1, len(label))))[0]) for metric in metrics]
    return difference_from_draws(value[0] - value[1], ours - theirs)


def test_the_bootstrap_of_a_mean_over_labels_is_that_of_users():
    predictions = [(one > 0.4).astype(float) for one in users()]
    label, own = np.ones(len(predictions[0])), np.arange(len(predictions[0]))
    found = label_difference(own, "accuracy", predictions, label)
    expected = difference(*predictions)
    width = expected.high - expected.low
    assert found.mean == pytest.approx(expected.mean) and np.isnan(found.p_t)
    assert found.low == pytest.approx(expected.low, abs=0.1 * width)
    assert found.high == pytest.approx(expected.high, abs=0.1 * width)
    # Ten equal labels of a sequence are drawn together, and leave the interval as it is.
    ten = [np.repeat(one, 10) for one in predictions]
    found = label_difference(np.repeat(own, 10), "accuracy", ten, np.repeat(label, 10))
    assert found.low == pytest.approx(expected.low, abs=0.1 * width)
    same = label_difference(own, "accuracy", [predictions[0], predictions[0]], label)
    assert same[:4] == (0, 0, 0, 1)


def test_the_intervals_of_two_areas_are_those_of_delong():
    # DeLong et al., 1988: the variance of the difference of two areas, from the share of correctly
    # ordered pairs of each yes, and of each no, under both models.
    chance = np.random.default_rng(3)
    label = (chance.random(300) < 0.3).astype(float)
    predictions = [label * up + chance.normal(size=300) for up in (1.5, 1.0)]
    pairs = [values[label == 1][:, None] > values[label == 0] for values in predictions]
    of_yes, of_no = (pairs[0].mean(i) - pairs[1].mean(i) for i in (1, 0))
    variance = of_yes.var(ddof=1) / len(of_yes) + of_no.var(ddof=1) / len(of_no)
    found = label_difference(np.arange(300), "auc", predictions, label)
    assert found.mean == pytest.approx(pairs[0].mean() - pairs[1].mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * variance**0.5, rel=0.08)
