"""Items ranked by counts of the training: how popular each is, and what followed the last ones.

Where no transition tells items apart, popularity does; equals share their mean place. Whatever the
catalog, only the items that stand out for an example are listed: no array is examples x items.
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

AT_ONCE = 512  # examples


class Ranking(NamedTuple):
    """Ranks by the sum of what followed the last `looks` items, or by these items themselves where
    they are its `own`, the newest first, each counting `decay` times the one after it; then by
    popularity. None at all: popularity alone.
    """

    looks: int
    decay: float
    own: bool = False


NOTHING = Ranking(0, 1.0)
EVERYTHING = Ranking(sys.maxsize, 1.0)
# What one had most often is the first thing to try for the next basket (Hu et al., 2020).
RANKINGS = {
    "popularity": NOTHING,
    "markov": Ranking(1, 1.0),
    "markov_recent": Ranking(5, 0.6),
    "own_counts": Ranking(sys.maxsize, 1.0, own=True),
}


class Counted(NamedTuple):
    """Counts of the training by id: events, and the shares of those that came next."""

    popularity: Int[np.ndarray, " I"]
    following: Any  # a sparse matrix [I, I]


class Special(NamedTuple):
    """The items that stand out for an example, one pair each: more than nothing speaks for them,
    or -1, they are left out.
    """

    example: Int[np.ndarray, " N"]
    item: Int[np.ndarray, " N"]
    score: Float[np.ndarray, " N"]


def count(
    item: Int[np.ndarray, " E"], train: Windows, size: int, asked: Bool[np.ndarray, " E"]
) -> Counted:
    """Counts of the events in the ranges of the training that are of the kind `asked` for, and of
    those that come next.
    """
    popularity = np.bincount(item[events_inside(train, len(item)) & asked], minlength=size)
    popularity[:RESERVED] = 0
    first = events_inside(Windows(train.start, np.maximum(train.stop - 1, train.start)), len(item))
    here = np.flatnonzero(first)
    here = here[(item[here] >= RESERVED) & (item[here + 1] >= RESERVED) & asked[here + 1]]
    ones = np.ones(len(here))
    pairs = scipy.sparse.csr_matrix((ones, (item[here], item[here + 1])), shape=(size, size))
    total = np.asarray(pairs.sum(axis=1)).ravel()
    pairs.data /= np.repeat(total, np.diff(pairs.indptr))
    return Counted(popularity, pairs)


def ranks(
    counted: Counted,
    how: Ranking,
    item: Int[np.ndarray, " E"],
    examples: Examples,
    filter_seen: bool,
) -> Float[np.ndarray, " T"]:
    """The place of every target, 0 is first, as `tasks.scores.ranks` counts them: what was seen is
    left out, but never a target; equals share their mean place.
    """
    found = [
        places(special, targets, owner, counted.popularity)
        for special, targets, owner in chunks(counted, how, item, examples, filter_seen)
    ]
    return np.concatenate(found)


def chunks(
    counted: Counted,
    how: Ranking,
    item: Int[np.ndarray, " E"],
    examples: Examples,
    filter_seen: bool,
) -> Iterator[tuple[Special, Int[np.ndarray, " T"], Int[np.ndarray, " T"]]]:
    """What stands out for AT_ONCE examples at a time, their targets, and whose they are."""
    size = len(counted.popularity)
    for start in range(0, len(examples), AT_ONCE):
        stop = min(start + AT_ONCE, len(examples))
        history = Windows(examples.history.start[start:stop], examples.history.stop[start:stop])
        found = scores(counted, how, item, history).tocoo()
        cell = found.row.astype(np.int64) * size + found.col
        mine = slice(*np.searchsorted(examples.owner, [start, stop]))
        targets, owner = examples.targets[mine], examples.owner[mine] - start
        left_out = np.zeros(0, np.int64)
        if filter_seen:
            row, column = seen_pairs(item, history)
            left_out = np.setdiff1d(row * size + column, owner * size + targets)
        kept = ~np.isin(cell, left_out)
        cell = np.concatenate([cell[kept], left_out])
        score = np.concatenate([found.data[kept], np.full(len(left_out), -1.0)])
        yield Special(cell // size, cell % size, score), targets, owner


def scores(counted: Counted, how: Ranking, item: Int[np.ndarray, " E"], history: Windows) -> Any:
    """A sparse matrix [examples, I]: what speaks for items after these histories."""
    looked = looked_at(item, history, how, len(counted.popularity))
    return looked if how.own else looked @ counted.following


def seen_pairs(
    item: Int[np.ndarray, " E"], history: Windows
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """The histories that have an item, and the item, each pair once."""
    items, bounds = distinct_items(item, history)
    row = np.repeat(np.arange(len(history.start)), np.diff(bounds))
    return row[items >= RESERVED], items[items >= RESERVED]


def looked_at(item: Int[np.ndarray, " E"], history: Windows, how: Ranking, size: int) -> Any:
    """A sparse matrix [examples, I]: how much each of the last items counts."""
    looks = np.minimum(history.stop - history.start, how.looks)
    row = np.repeat(np.arange(len(looks)), looks)
    back = ramp(looks)
    column = item[np.repeat(history.stop, looks) - 1 - back]
    known = column >= RESERVED
    weight = how.decay ** back[known]
    shape = (len(looks), size)
    return scipy.sparse.csr_matrix((weight, (row[known], column[known])), shape=shape)


def places(
    special: Special,
    targets: Int[np.ndarray, " T"],
    owner: Int[np.ndarray, " T"],
    popularity: Int[np.ndarray, " I"],
) -> Float[np.ndarray, " T"]:
    """The place of each target: behind what has a higher score, or the same and more events."""
    size = len(popularity)
    pairs = special.example * size + special.item
    order = np.argsort(pairs)
    at = np.minimum(np.searchsorted(pairs[order], owner * size + targets), max(len(pairs) - 1, 0))
    scored = np.zeros(len(targets))
    if len(pairs):
        same = pairs[order][at] == owner * size + targets
        scored[same] = special.score[order][at[same]]
    # Scores and popularity together as one whole number, so that one sort puts all in order.
    levels, level = np.unique(np.concatenate([special.score, scored]), return_inverse=True)
    counts, by_count = np.unique(popularity, return_inverse=True)
    value = level * len(counts) + by_count[np.concatenate([special.item, targets])]
    split, most = len(pairs), len(levels) * len(counts)
    shown = special.score > 0
    more, equal = above(special.example[shown], value[:split][shown], owner, value[split:], most)
    # Nothing speaks for all others: they stand by popularity, behind all that something speaks for.
    others = np.sort(by_count[RESERVED:])
    own = by_count[targets]
    hidden, hidden_equal = above(special.example, by_count[special.item], owner, own, len(counts))
    up_to = np.searchsorted(others, own, "right")
    rest = len(others) - up_to - hidden
    rest_equal = up_to - np.searchsorted(others, own, "left") - hidden_equal
    alone = scored == 0
    more, equal = more + alone * rest, equal + alone * rest_equal
    return (more + (equal - 1) / 2).astype(np.float64)


def above(
    example: Int[np.ndarray, " N"],
    value: Int[np.ndarray, " N"],
    owner: Int[np.ndarray, " T"],
    own: Int[np.ndarray, " T"],
    most: int,
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " T"]]:
    """How many values of its example are higher than each target's, and how many are the same.

    Values lie below `most`.
    """
    keys = np.sort(example * most + value)
    upto = np.searchsorted(keys, owner * most + own, "right")
    less = np.searchsorted(keys, owner * most + own, "left")
    return np.searchsorted(keys, (owner + 1) * most, "left") - upto, upto - less
