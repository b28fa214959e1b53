"""Item rankings by counts of the training events: popularity, and transitions between items.

Items with equal scores are ranked by popularity; items that are equal in both share their mean
rank. Memory grows with the items that have a score of their own, not with examples x items.
"""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.eval_batches import distinct_items
from clickflax.data.packing import ramp
from clickflax.data.splits.common import Examples, events_inside

COUNTS_CHUNK = 512  # examples that are ranked at once
EVERY = sys.maxsize  # items of a history


class CountRanking(NamedTuple):
    """The score of an item: transitions to it from the last items of a history.

    The last `last` items count, the newest with weight 1 and each earlier one with `decay` times
    the weight of the next. If `own` is set, these items score themselves instead of their
    successors. Without any score, popularity alone ranks.
    """

    last: int
    decay: float = 1.0
    own: bool = False


class TrainingCounts(NamedTuple):
    """Counts of the training events by item id: events, and shares of the items that followed."""

    popularity: Int[np.ndarray, " I"]
    transitions: Any  # a sparse matrix [I, I]


class ScoredItems(NamedTuple):
    """Pairs of an example and an item whose score is not 0; the score of excluded items is -1."""

    example: Int[np.ndarray, " N"]
    item: Int[np.ndarray, " N"]
    score: Float[np.ndarray, " N"]


def count_training(
    item: Int[np.ndarray, " E"], train: Windows, size: int, where: Bool[np.ndarray, " E"]
) -> TrainingCounts:
    """Counts the events `where` of the training ranges, and the transitions to them."""
    popularity = np.bincount(item[events_inside(train, len(item)) & where], minlength=size)
    popularity[:RESERVED] = 0
    first = events_inside(Windows(train.start, np.maximum(train.stop - 1, train.start)), len(item))
    here = np.flatnonzero(first)
    here = here[(item[here] >= RESERVED) & (item[here + 1] >= RESERVED) & where[here + 1]]
    ones = np.ones(len(here))
    pairs = scipy.sparse.csr_matrix((ones, (item[here], item[here + 1])), shape=(size, size))
    total = np.asarray(pairs.sum(axis=1)).ravel()
    pairs.data /= np.repeat(total, np.diff(pairs.indptr))
    return TrainingCounts(popularity, pairs)


def count_ranks(
    counts: TrainingCounts,
    ranking: CountRanking,
    item: Int[np.ndarray, " E"],
    examples: Examples,
    filter_seen: bool,
) -> Float[np.ndarray, " T"]:
    """Returns the rank of each target among all items; 0 is first, ties share their mean rank.

    `filter_seen` excludes the items of the history, except the targets.
    """
    ranks = [
        ranks_of_targets(scored, targets, owner, counts.popularity)
        for scored, targets, owner in scored_chunks(counts, ranking, item, examples, filter_seen)
    ]
    return np.concatenate(ranks)


def scored_chunks(
    counts: TrainingCounts,
    ranking: CountRanking,
    item: Int[np.ndarray, " E"],
    examples: Examples,
    filter_seen: bool,
) -> Iterator[tuple[ScoredItems, Int[np.ndarray, " T"], Int[np.ndarray, " T"]]]:
    """Yields the scored items of COUNTS_CHUNK examples, their targets, and the owners of these."""
    size = len(counts.popularity)
    for start in range(0, len(examples), COUNTS_CHUNK):
        stop = min(start + COUNTS_CHUNK, len(examples))
        history = Windows(examples.history.start[start:stop], examples.history.stop[start:stop])
        scores = history_scores(counts, ranking, item, history).tocoo()
        pair = scores.row.astype(np.int64) * size + scores.col
        of_chunk = slice(*np.searchsorted(examples.owner, [start, stop]))
        targets, owner = examples.targets[of_chunk], examples.owner[of_chunk] - start
        excluded = np.zeros(0, np.int64)
        if filter_seen:
            row, column = seen_pairs(item, history)
            excluded = np.setdiff1d(row * size + column, owner * size + targets)
        kept = ~np.isin(pair, excluded)
        pair = np.concatenate([pair[kept], excluded])
        score = np.concatenate([scores.data[kept], np.full(len(excluded), -1.0)])
        yield ScoredItems(pair // size, pair % size, score), targets, owner


def history_scores(
    counts: TrainingCounts, ranking: CountRanking, item: Int[np.ndarray, " E"], history: Windows
) -> Any:
    """Returns the scores of items after each history, a sparse matrix [examples, I]."""
    weights = history_weights(item, history, ranking, len(counts.popularity))
    return weights if ranking.own else weights @ counts.transitions


def seen_pairs(
    item: Int[np.ndarray, " E"], history: Windows
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Returns the distinct pairs of a history and an item in it, as two arrays."""
    items, bounds = distinct_items(item, history)
    row = np.repeat(np.arange(len(history.start)), np.diff(bounds))
    return row[items >= RESERVED], items[items >= RESERVED]


def history_weights(
    item: Int[np.ndarray, " E"], history: Windows, ranking: CountRanking, size: int
) -> Any:
    """Returns the summed weights of the last items of histories, a sparse matrix [examples, I]."""
    last = np.minimum(history.stop - history.start, ranking.last)
    row = np.repeat(np.arange(len(last)), last)
    back = ramp(last)
    column = item[np.repeat(history.stop, last) - 1 - back]
    known = column >= RESERVED
    weight = ranking.decay ** back[known]
    shape = (len(last), size)
    return scipy.sparse.csr_matrix((weight, (row[known], column[known])), shape=shape)


def ranks_of_targets(
    scored: ScoredItems,
    targets: Int[np.ndarray, " T"],
    owner: Int[np.ndarray, " T"],
    popularity: Int[np.ndarray, " I"],
) -> Float[np.ndarray, " T"]:
    """Returns the rank of each target, by score and then by popularity."""
    size = len(popularity)
    pairs = scored.example * size + scored.item
    order = np.argsort(pairs)
    at = np.minimum(np.searchsorted(pairs[order], owner * size + targets), max(len(pairs) - 1, 0))
    target_score = np.zeros(len(targets))
    if len(pairs):
        same = pairs[order][at] == owner * size + targets
        target_score[same] = scored.score[order][at[same]]
    # Score and popularity become one whole number, so that a single sort orders by both.
    scores = np.concatenate([scored.score, target_score])
    levels, level = np.unique(scores, return_inverse=True)
    counts, by_count = np.unique(popularity, return_inverse=True)
    value = level * len(counts) + by_count[np.concatenate([scored.item, targets])]
    split = len(pairs)
    bound = len(levels) * len(counts)
    shown = scored.score > 0
    more, equal = count_above(
        scored.example[shown], value[:split][shown], owner, value[split:], bound
    )
    # All other items have the score 0: popularity orders them, behind those with a score.
    by_popularity = np.sort(by_count[RESERVED:])
    own = by_count[targets]
    hidden, hidden_equal = count_above(
        scored.example, by_count[scored.item], owner, own, len(counts)
    )
    up_to = np.searchsorted(by_popularity, own, "right")
    rest = len(by_popularity) - up_to - hidden
    rest_equal = up_to - np.searchsorted(by_popularity, own, "left") - hidden_equal
    unscored = target_score == 0
    more = more + unscored * rest
    equal = equal + unscored * rest_equal
    return (more + (equal - 1) / 2).astype(np.float64)


def count_above(
    example: Int[np.ndarray, " N"],
    value: Int[np.ndarray, " N"],
    owner: Int[np.ndarray, " T"],
    own: Int[np.ndarray, " T"],
    bound: int,
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " T"]]:
    """Counts the values of an example above each target's `own` value, and those equal to it.

    All values are below `bound`.
    """
    keys = np.sort(example * bound + value)
    up_to = np.searchsorted(keys, owner * bound + own, "right")
    below = np.searchsorted(keys, owner * bound + own, "left")
    return np.searchsorted(keys, (owner + 1) * bound, "left") - up_to, up_to - below
