"""What numbers of several seeds, and of the same users under two models, say of a difference."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, Int

DRAWS = 10_000  # of a bootstrap: the ends of its interval then move by a hundredth of its width
LABEL_DRAWS = 2_000  # of one for labels, whose metrics are made anew for each draw
LEVEL = 0.95


class Spread(NamedTuple):
    """Mean and deviation of a metric over seeds, and the half-width of the interval of its mean by
    Student's t; both are NaN for a single seed.
    """

    mean: float
    deviation: float
    half: float


class Difference(NamedTuple):
    """How much higher a metric is than the baseline's, for the same users: the mean of the
    differences, its interval by the bootstrap, and how likely one so far from 0 is where there is
    none: by the bootstrap, and by the paired t-test, if there is one.
    """

    mean: float
    low: float
    high: float
    p_bootstrap: float
    p_t: float


def spread(values: Sequence[float]) -> Spread:
    """The mean of some seeds, and how sure it is."""
    if not len(values):
        raise ValueError("There are no values to average.")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Spread(mean, float("nan"), float("nan"))
    deviation = float(np.std(values, ddof=1))
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * deviation / len(values) ** 0.5
    return Spread(mean, deviation, float(half))


def difference(
    ours: Float[np.ndarray, " U"], theirs: Float[np.ndarray, " W"], seed: int = 0
) -> Difference:
    """How two models differ over the same users, who are what is drawn from a larger crowd.

    A percentile bootstrap (Efron, 1979): how often each difference is drawn has a multinomial
    distribution, and users with the same difference are drawn together: a draw costs as much as
    there are different differences.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} users of one model, and {len(theirs)} of the other.")
    if len(ours) < 2:
        raise ValueError(f"{len(ours)} users are too few for a test: there must be two or more.")
    apart = np.asarray(ours, np.float64) - theirs
    if not apart.any():
        return Difference(0.0, 0.0, 0.0, 1.0, 1.0)
    values, counts = np.unique(apart, return_counts=True)
    chance = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    for some in np.array_split(np.arange(DRAWS), max(1, DRAWS * len(values) // 10_000_000)):
        drawn = chance.multinomial(len(apart), counts / len(apart), size=len(some))
        means[some] = drawn @ values / len(apart)
    if len(values) == 1:  # the same difference for all
        return of_draws(float(values[0]), means, 0.0)
    return of_draws(float(apart.mean()), means, float(scipy.stats.ttest_rel(ours, theirs).pvalue))


def of_draws(mean: float, drawn: Float[np.ndarray, " B"], p_t: float = float("nan")) -> Difference:
    """A difference, with the interval and the p of what was drawn of it."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # The draw that was seen is one more, so that no p is 0.
    beyond = 1 + min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Difference(
        mean, float(low), float(high), float(min(1.0, 2 * beyond / (len(drawn) + 1))), p_t
    )


def draw_labels(
    sequence: Int[np.ndarray, " N"],
    metric: Callable[[Float[np.ndarray, "draws N"]], Float[np.ndarray, " draws"]],
    seed: int = 0,
) -> Float[np.ndarray, " B"]:
    """A metric of labels, which count with such weights, for crowds that are drawn: of sequences,
    each with all of its labels. Of the same sequences, always the same crowds.
    """
    sequences, place = np.unique(sequence, return_inverse=True)
    count, chance = len(sequences), np.random.default_rng(seed)
    chunks = min(LABEL_DRAWS, -(-LABEL_DRAWS * len(place) // 4_000_000))
    found = []
    for some in np.array_split(np.arange(LABEL_DRAWS), chunks):
        drawn = chance.multinomial(count, np.full(count, 1 / count), len(some))
        found.append(metric(drawn[:, place].astype(np.float64)))
    return np.concatenate(found)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """The p of several tests, such that one of them is below a level by chance no more often than
    that level (Holm, 1979).
    """
    adjusted, least = {}, 0.0
    for i, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, (len(p) - i) * p[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p}
