"""Statistics over seeds, and paired tests of two models on the same users."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, Int

DRAWS = 10_000  # of a bootstrap: the ends of its interval move by about 1 % of its width
LABEL_DRAWS = 2_000  # for metrics of labels, which are computed again for each draw
CONFIDENCE = 0.95  # of intervals


class Spread(NamedTuple):
    """Mean and standard deviation of a metric over seeds, and half of its confidence interval.

    The interval is by Student's t. For a single seed, deviation and half-width are NaN.
    """

    mean: float
    deviation: float
    half: float


class Difference(NamedTuple):
    """How much higher a metric is than the baseline's, for the same users.

    It has the mean, the confidence interval by the bootstrap, and p-values of no difference by the
    bootstrap and by the paired t-test (NaN if there is no t-test).
    """

    mean: float
    low: float
    high: float
    p_bootstrap: float
    p_t: float


def spread(values: Sequence[float]) -> Spread:
    """The statistics of a metric over seeds; raises ValueError without values."""
    if not len(values):
        raise ValueError("There are no values to average.")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Spread(mean, float("nan"), float("nan"))
    deviation = float(np.std(values, ddof=1))
    half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * deviation / len(values) ** 0.5
    return Spread(mean, deviation, float(half))


def difference(
    ours: Float[np.ndarray, " U"], theirs: Float[np.ndarray, " W"], seed: int = 0
) -> Difference:
    """The difference of two models on the same users, a sample of a larger population.

    A percentile bootstrap (Efron, 1979). Users with the same difference are drawn together, from a
    multinomial distribution, so that the cost of a draw is the number of distinct differences.
    Raises ValueError for different numbers of users, and for fewer than two.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"One model has {len(ours)} users, and the other {len(theirs)}.")
    if len(ours) < 2:
        raise ValueError(f"A test needs two users or more, and there are {len(ours)}.")
    differences = np.asarray(ours, np.float64) - theirs
    if not differences.any():
        return Difference(0.0, 0.0, 0.0, 1.0, 1.0)
    values, counts = np.unique(differences, return_counts=True)
    chance = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    for chunk in np.array_split(np.arange(DRAWS), max(1, DRAWS * len(values) // 10_000_000)):
        drawn = chance.multinomial(len(differences), counts / len(differences), size=len(chunk))
        means[chunk] = drawn @ values / len(differences)
    if len(values) == 1:  # all users have the same difference, and the t-test has no variance
        return difference_from_draws(float(values[0]), means, 0.0)
    p_t = float(scipy.stats.ttest_rel(ours, theirs).pvalue)
    return difference_from_draws(float(differences.mean()), means, p_t)


def difference_from_draws(
    mean: float, drawn: Float[np.ndarray, " B"], p_t: float = float("nan")
) -> Difference:
    """A difference with the interval and the p-value of its bootstrap draws."""
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    # The sample itself counts as a draw, so that no p-value is 0.
    beyond = 1 + min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(1.0, 2 * beyond / (len(drawn) + 1))
    return Difference(mean, float(low), float(high), float(p), p_t)


def bootstrap_label_metric(
    sequence: Int[np.ndarray, " N"],
    metric: Callable[[Float[np.ndarray, "draws N"]], Float[np.ndarray, " draws"]],
    seed: int = 0,
) -> Float[np.ndarray, " B"]:
    """Values of a metric of labels for bootstrap samples of sequences, each with all its labels.

    `metric` takes weights of the labels. The same sequences lead to the same samples.
    """
    sequences, index = np.unique(sequence, return_inverse=True)
    count = len(sequences)
    chance = np.random.default_rng(seed)
    chunks = min(LABEL_DRAWS, -(-LABEL_DRAWS * len(index) // 4_000_000))
    values = []
    for chunk in np.array_split(np.arange(LABEL_DRAWS), chunks):
        drawn = chance.multinomial(count, np.full(count, 1 / count), len(chunk))
        values.append(metric(drawn[:, index].astype(np.float64)))
    return np.concatenate(values)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """The p-values of several tests with Holm's correction (Holm, 1979).

    If no test has an effect, the probability that any corrected p-value is below a level is at most
    that level.
    """
    adjusted, least = {}, 0.0
    for i, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, (len(p) - i) * p[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p}
