"""Users and items as vectors whose products rank: matrix factorisation by BPR."""

from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from clickflax.batch import RESERVED

WIDTH = 64
RATE = 0.05  # of AdaGrad (Duchi et al., 2011)
DECAY = 0.01  # of the vectors, for each pair that they are in
BATCH = 4096  # pairs of a user and an item
MOST_ITEMS = 200_000  # all are scored for some users at once: 400 MB


class Factors(NamedTuple):
    """A vector for each user and each item, whose last number is the bias of the item and a one of
    the user; and the sums of the squares of their gradients.
    """

    users: Float[np.ndarray, "U D"]
    items: Float[np.ndarray, "I D"]
    user_squares: Float[np.ndarray, "U D"]
    item_squares: Float[np.ndarray, "I D"]
    epochs: int


def fresh(users: int, items: int) -> Factors:
    """Small random vectors."""
    chance = np.random.default_rng(0)
    sides = [chance.normal(0, 0.1, (count, WIDTH + 1)) for count in (users, items)]
    sides[0][:, -1], sides[1][:, -1] = 1, 0
    squares = [np.full(side.shape, 1e-6) for side in sides]
    return Factors(*sides, *squares, epochs=0)


def epoch(factors: Factors, user: Int[np.ndarray, " P"], item: Int[np.ndarray, " P"]) -> Factors:
    """The vectors after another epoch over pairs of a user and an item that he had: it should score
    above one at random, which he may have had or not (BPR: Rendle et al., 2009).
    """
    users, items, user_squares, item_squares = (side.copy() for side in factors[:4])
    chance = np.random.default_rng((1, factors.epochs))
    order = chance.permutation(len(user))
    for begin in range(0, len(order), BATCH):
        pick = order[begin : begin + BATCH]
        other = chance.integers(RESERVED, len(items), len(pick))
        u, i, j = users[user[pick]], items[item[pick]], items[other]
        wrong = 1 / (1 + np.exp((u * (i - j)).sum(1, keepdims=True)))
        move(users, user_squares, user[pick], wrong * (i - j) - DECAY * u)
        both = np.concatenate([wrong * u - DECAY * i, -wrong * u - DECAY * j])
        move(items, item_squares, np.concatenate([item[pick], other]), both)
        users[:, -1] = 1
    return Factors(users, items, user_squares, item_squares, factors.epochs + 1)


def move(
    vectors: Float[np.ndarray, "N D"],
    squares: Float[np.ndarray, "N D"],
    row: Int[np.ndarray, " B"],
    gradient: Float[np.ndarray, "B D"],
) -> None:
    """A step, in place, of the vectors of some rows, which may be named several times."""
    rows, place = np.unique(row, return_inverse=True)
    shape = (len(rows), len(row))
    total = scipy.sparse.csr_matrix((np.ones(len(row)), (place, np.arange(len(row)))), shape)
    total = total @ gradient
    squares[rows] += total**2
    vectors[rows] += RATE * total / np.sqrt(squares[rows])
