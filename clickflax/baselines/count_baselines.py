"""Popularity and Markov chains: item baselines by counts of the training events."""

from collections.abc import Callable

import numpy as np

from clickflax.baselines.counts import EVERY, CountRanking
from clickflax.baselines.rankers import FittedRanker, NotApplicable, RankingLog, rank_by_counts
from clickflax.data.splits.common import events_inside

POPULARITY = CountRanking(last=0)
MARKOV = CountRanking(last=1)
MARKOV_RECENT = CountRanking(last=5, decay=0.6)
# The items that a user had most often: a strong baseline for baskets (Hu et al., 2020).
OWN_COUNTS = CountRanking(last=EVERY, own=True)
RECENT = 0.1  # share of the training events, the last ones, that `fit_recent_popularity` counts


def count_baseline(ranking: CountRanking) -> Callable[[RankingLog], FittedRanker]:
    """Returns the baseline that ranks by counts of all training events."""
    return lambda log: FittedRanker(rank_by_counts(log, ranking))


def fit_recent_popularity(log: RankingLog) -> FittedRanker:
    """Ranks by popularity in the last tenth of the training events."""
    if log.time is None:
        raise NotApplicable("the data set has no times")
    trained = events_inside(log.train, len(log.item)) & log.where
    since = np.quantile(log.time[trained], 1 - RECENT, method="higher")
    recent = log._replace(where=log.where & (log.time >= since))
    return FittedRanker(rank_by_counts(recent, POPULARITY))
