"""An item baseline in one file: items that open sequences rank first.

clickflax baselines --extension my_baseline.py --config=FILE
"""

import numpy as np

from clickflax.baselines.rankers import FittedRanker, RankingLog, rank_by_scores
from clickflax.baselines.registry import BASELINES, ItemBaseline
from clickflax.data.packing import ramp
from clickflax.data.splits.common import Examples


@BASELINES.register("openers")
@ItemBaseline
def fit_openers(log: RankingLog) -> FittedRanker:
    """Ranks items by their mean position in the training sequences, the lowest first."""
    length = log.train.stop - log.train.start
    position = ramp(length)
    item = log.item[np.repeat(log.train.start, length) + position]
    events = np.bincount(item, minlength=log.size)
    mean_position = np.bincount(item, position, log.size) / np.maximum(events, 1)
    scores = np.where(events > 0, -mean_position, -np.inf)

    def score(examples: Examples) -> np.ndarray:
        return np.tile(scores, (len(examples), 1))

    return FittedRanker(rank_by_scores(log, score))
