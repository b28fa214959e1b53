"""Item-kNN: items are scored by their similarity to the items of the history."""

from typing import Any

import numpy as np
import scipy.sparse

from clickflax.baselines.counts import EVERY, CountRanking
from clickflax.baselines.rankers import FittedRanker, RankingLog, rank_by_counts

NEIGHBOURS = 100  # of each item
NEIGHBOURS_CHUNK = 1024  # items whose neighbours are found at once


def fit_item_knn(log: RankingLog) -> FittedRanker:
    """Ranks by the summed similarity of an item to those of the history."""
    similarity = cosine_neighbours(log.history_matrix(log.train))
    return FittedRanker(rank_by_counts(log, CountRanking(last=EVERY), similarity))


def cosine_neighbours(users: Any, most: int = NEIGHBOURS) -> Any:
    """Returns cosines between the users of two items, a sparse matrix [I, I].

    Row i holds those of the `most` items nearest to item i, without itself (Deshpande and Karypis,
    2004), so that a history scores the neighbours of its items. `users` is a sparse matrix [U, I].
    """
    length = np.sqrt(np.asarray(users.sum(0)).ravel())  # of vectors of zeros and ones
    unit = (users @ scipy.sparse.diags(1 / np.maximum(length, 1))).tocsc()
    rows = unit.T.tocsr()
    chunks = []
    for begin in range(0, unit.shape[1], NEIGHBOURS_CHUNK):
        chunk = (rows @ unit[:, begin : begin + NEIGHBOURS_CHUNK]).tocsc()
        for j in range(chunk.shape[1]):
            column = slice(chunk.indptr[j], chunk.indptr[j + 1])
            chunk.data[column][chunk.indices[column] == begin + j] = 0
            if column.stop - column.start > most:
                least = np.argpartition(chunk.data[column], -most)[:-most]
                chunk.data[column][least] = 0
        chunk.eliminate_zeros()
        chunks.append(chunk)
    return scipy.sparse.hstack(chunks).T.tocsr()
