"""Matrices that a history is multiplied with: item-kNN and EASE."""

from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Float, Int

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.packing import ramp

NEIGHBOURS = 100  # of each item
RIDGE = (500.0, 100.0, 2000.0)  # the weight of the squares of EASE, chosen on the validation
MOST_ITEMS = 15_000  # for EASE, which inverts a matrix of all pairs of items: 1.8 GB, twice
AT_ONCE = 1024  # items


def histories(item: Int[np.ndarray, " E"], ranges: Windows, size: int) -> Any:
    """A sparse matrix [ranges, I]: 1 for every item that is in the range."""
    count = ranges.stop - ranges.start
    row = np.repeat(np.arange(len(count)), count)
    column = item[np.repeat(ranges.start, count) + ramp(count)]
    known = column >= RESERVED
    ones = np.ones(known.sum())
    found = scipy.sparse.csr_matrix((ones, (row[known], column[known])), (len(count), size))
    found.sum_duplicates()
    found.data[:] = 1
    return found


def neighbours(users: Any, most: int = NEIGHBOURS) -> Any:
    """The cosines between the users of two items, a sparse matrix [I, I]: in row i those of the
    `most` items that are nearest to item i, without itself (Deshpande and Karypis, 2004): a history
    says something for the neighbours of its items.
    """
    length = np.sqrt(np.asarray(users.sum(0)).ravel())  # of ones
    unit = (users @ scipy.sparse.diags(1 / np.maximum(length, 1))).tocsc()
    rows, parts = unit.T.tocsr(), []
    for begin in range(0, unit.shape[1], AT_ONCE):
        part = (rows @ unit[:, begin : begin + AT_ONCE]).tocsc()
        for j in range(part.shape[1]):
            column = slice(part.indptr[j], part.indptr[j + 1])
            part.data[column][part.indices[column] == begin + j] = 0
            if column.stop - column.start > most:
                least = np.argpartition(part.data[column], -most)[:-most]
                part.data[column][least] = 0
        part.eliminate_zeros()
        parts.append(part)
    return scipy.sparse.hstack(parts).T.tocsr()


def ease(users: Any, ridge: float) -> Float[np.ndarray, "I I"]:
    """The linear model of every item from all others that errs least on the histories themselves,
    with a `ridge` (EASE: Steck, 2019): in column j what each item says for item j.
    """
    square = (users.T @ users).toarray().astype(np.float64)
    square[np.diag_indices_from(square)] += ridge
    inverse = scipy.linalg.inv(square, overwrite_a=True)
    found = -inverse / np.diag(inverse)
    np.fill_diagonal(found, 0)
    return found.astype(np.float32)
