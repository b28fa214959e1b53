"""EASE: a linear model of each item from all others, in closed form (Steck, 2019)."""

from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float

from clickflax.baselines.rankers import (
    FittedRanker,
    NotApplicable,
    Ranker,
    RankingLog,
    choose_on_validation,
    rank_by_scores,
)

RIDGE = (500.0, 100.0, 2000.0)  # L2 penalties; the validation chooses one
MOST_EASE_ITEMS = 15_000  # the matrix of all pairs of items takes 1.8 GB, twice


def fit_ease(log: RankingLog) -> FittedRanker:
    """Ranks by the scores of EASE."""
    if log.size > MOST_EASE_ITEMS:
        raise NotApplicable(f"a matrix of {log.size:,} x {log.size:,} items is too large to invert")
    users = log.history_matrix(log.train)

    def ranker(ridge: float) -> Ranker:
        weights = ease_weights(users, ridge)
        return rank_by_scores(log, lambda examples: log.history_matrix(examples.history) @ weights)

    ridge, best = choose_on_validation(log, ((ridge, ranker(ridge)) for ridge in RIDGE))
    return FittedRanker(best, {"ridge": ridge})


def ease_weights(users: Any, ridge: float) -> Float[np.ndarray, "I I"]:
    """Returns the weights of the items of a history, in column j those for the score of item j.

    They minimise the squared error on the histories themselves, a sparse matrix `users` [U, I],
    with L2 penalty `ridge` and a zero diagonal.
    """
    square = (users.T @ users).toarray().astype(np.float64)
    square[np.diag_indices_from(square)] += ridge
    inverse = scipy.linalg.inv(square, overwrite_a=True)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights.astype(np.float32)
