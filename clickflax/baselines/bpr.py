"""BPR: matrix factorisation with a pairwise ranking loss (Rendle et al., 2009)."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from clickflax.baselines.rankers import (
    FittedRanker,
    NotApplicable,
    Ranker,
    RankingLog,
    choose_on_validation,
    rank_by_scores,
)
from clickflax.batch import RESERVED

WIDTH = 64
RATE = 0.05  # of AdaGrad (Duchi et al., 2011)
DECAY = 0.01  # L2 penalty of a vector, for each pair that contains it
BATCH = 4096  # pairs of a user and an item
EPOCHS = (10, 20, 40)  # the validation chooses one
MOST_BPR_ITEMS = 200_000  # a chunk of users has scores for all items: 400 MB


class Factors(NamedTuple):
    """Vectors of users and items, and their sums of squared gradients.

    The last number of an item's vector is its bias; that of a user's vector is 1.
    """

    users: Float[np.ndarray, "U D"]
    items: Float[np.ndarray, "I D"]
    user_squares: Float[np.ndarray, "U D"]
    item_squares: Float[np.ndarray, "I D"]
    epochs: int


def fit_bpr(log: RankingLog) -> FittedRanker:
    """Ranks by matrix factorisation; users without training events get the item biases alone."""
    if log.size > MOST_BPR_ITEMS:
        raise NotApplicable(f"{log.size:,} items are too many to score all of them for every user")
    owner = np.searchsorted(log.offsets, log.train.start, side="right") - 1
    pairs = log.history_matrix(log.train).tocoo()
    user, item = owner[pairs.row], pairs.col
    unknown = ~np.isin(np.arange(len(log.offsets) - 1), user)

    def rankers() -> Iterable[tuple[int, Ranker]]:
        factors = init_factors(len(unknown), log.size)
        factors.users[unknown, :-1] = 0
        for epochs in EPOCHS:
            while factors.epochs < epochs:
                factors = train_epoch(factors, user, item)
            users, items = factors.users, factors.items
            yield epochs, rank_by_scores(log, lambda some, u=users, i=items: u[some.sequence] @ i.T)

    epochs, best = choose_on_validation(log, rankers())
    return FittedRanker(best, {"epochs": epochs})


def init_factors(users: int, items: int) -> Factors:
    """Returns small random vectors."""
    chance = np.random.default_rng(0)
    sides = [chance.normal(0, 0.1, (count, WIDTH + 1)) for count in (users, items)]
    sides[0][:, -1] = 1
    sides[1][:, -1] = 0
    squares = [np.full(side.shape, 1e-6) for side in sides]
    return Factors(*sides, *squares, epochs=0)


def train_epoch(
    factors: Factors, user: Int[np.ndarray, " P"], item: Int[np.ndarray, " P"]
) -> Factors:
    """Returns the factors after another epoch over pairs of a user and an item of the history.

    The item should score above a negative that is drawn uniformly from the catalog.
    """
    users, items, user_squares, item_squares = (side.copy() for side in factors[:4])
    chance = np.random.default_rng((1, factors.epochs))
    order = chance.permutation(len(user))
    for begin in range(0, len(order), BATCH):
        pick = order[begin : begin + BATCH]
        negative = chance.integers(RESERVED, len(items), len(pick))
        u, i, j = users[user[pick]], items[item[pick]], items[negative]
        wrong = 1 / (1 + np.exp((u * (i - j)).sum(1, keepdims=True)))
        adagrad_step(users, user_squares, user[pick], wrong * (i - j) - DECAY * u)
        both = np.concatenate([wrong * u - DECAY * i, -wrong * u - DECAY * j])
        adagrad_step(items, item_squares, np.concatenate([item[pick], negative]), both)
        users[:, -1] = 1
    return Factors(users, items, user_squares, item_squares, factors.epochs + 1)


def adagrad_step(
    vectors: Float[np.ndarray, "N D"],
    squares: Float[np.ndarray, "N D"],
    row: Int[np.ndarray, " B"],
    gradient: Float[np.ndarray, "B D"],
) -> None:
    """Takes an ascent step, in place, for the vectors of some rows, which may repeat."""
    rows, index = np.unique(row, return_inverse=True)
    shape = (len(rows), len(row))
    total = scipy.sparse.csr_matrix((np.ones(len(row)), (index, np.arange(len(row)))), shape)
    total = total @ gradient
    squares[rows] += total**2
    vectors[rows] += RATE * total / np.sqrt(squares[rows])
