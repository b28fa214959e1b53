"""Popularity and Markov chains: item baselines by counts of the training events."""

import functools

import numpy as np

from clickflax.baselines.counts import EVERY, CountRanking
from clickflax.baselines.rankers import (
    ITEM_BASELINES,
    FittedRanker,
    NotApplicable,
    RankingLog,
    rank_by_counts,
)
from clickflax.data.splits.common import events_inside

POPULARITY = CountRanking(last=0)
COUNT_RANKINGS = {
    "popularity": POPULARITY,
    "markov": CountRanking(last=1),
    "markov_recent": CountRanking(last=5, decay=0.6),
    # The items that a user had most often: a strong baseline for baskets (Hu et al., 2020).
    "own_counts": CountRanking(last=EVERY, own=True),
}
RECENT = 0.1  # share of the training events, the last ones, that `popularity_recent` counts


def fit_counts(log: RankingLog, ranking: CountRanking) -> FittedRanker:
    """Ranks by counts of all training events."""
    return FittedRanker(rank_by_counts(log, ranking))


for _name, _ranking in COUNT_RANKINGS.items():
    ITEM_BASELINES.register(_name)(functools.partial(fit_counts, ranking=_ranking))


@ITEM_BASELINES.register("popularity_recent")
def fit_recent_popularity(log: RankingLog) -> FittedRanker:
    """Ranks by popularity in the last tenth of the training events."""
    if log.time is None:
        raise NotApplicable("the data set has no times")
    trained = events_inside(log.train, len(log.item)) & log.where
    since = np.quantile(log.time[trained], 1 - RECENT, method="higher")
    recent = log._replace(where=log.where & (log.time >= since))
    return FittedRanker(rank_by_counts(recent, POPULARITY))
