"""Every way to rank items that one would try first, on the examples of a task.

A way learns from a `Log` and gives a `Ranker`. Where it has a strength to be chosen, it is the one
with the best NDCG@10 of the validation; without a validation, the first.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from clickflax.baselines import counts, factors, similar
from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.candidates import Candidates
from clickflax.data.splits.common import Examples, events_inside
from clickflax.tasks.ranking_metrics import mean_metrics, ranking_metrics

AT_ONCE = 256  # examples
RECENT = 0.1  # share of the training events that are the last ones
EPOCHS = (10, 20, 40)  # of BPR


class Log(NamedTuple):
    """What all of them learn from, and how they are asked."""

    item: Int[np.ndarray, " E"]
    time: Int[np.ndarray, " E"] | None
    offsets: Int[np.ndarray, " bounds"]  # of the sequences
    train: Windows
    size: int  # of ids
    where: Bool[np.ndarray, " E"]  # the events that are asked about
    validation: Examples
    filter_seen: bool
    candidates: Candidates | None = None  # of the validation; None: all items


class Unable(Exception):
    """Why a way has no answer."""


# The place of every target, 0 is first, among candidates or (None) all items.
Ranker = Callable[[Examples, Candidates | None], Float[np.ndarray, " T"]]
Scores = Callable[[Examples], Float[np.ndarray, "N I"]]
Way = Callable[[Log], tuple[Ranker, dict[str, Any]]]


def by_scores(log: Log, score: Scores) -> Ranker:
    """Places by the scores of all items: what was seen is left out, but never a target; equals
    share their mean place.
    """

    def places(some: Examples) -> Float[np.ndarray, " T"]:
        scores = np.asarray(score(some), np.float64)
        own = scores[some.owner, some.targets]
        scores[:, :RESERVED] = np.nan
        if log.filter_seen:
            scores[counts.seen_pairs(log.item, some.history)] = np.nan
            scores[some.owner, some.targets] = own
        theirs = zip(scores[some.owner], own, strict=True)
        return np.array([(s > o).sum() + ((s == o).sum() - 1) / 2 for s, o in theirs])

    def rank(examples: Examples, candidates: Candidates | None) -> Float[np.ndarray, " T"]:
        if candidates is not None:
            return among(examples, candidates, lambda some, row, i: score(some)[row, i][:, None])
        starts = range(0, len(examples), AT_ONCE)
        return np.concatenate([places(part(examples, start)) for start in starts])

    return rank


def among(
    examples: Examples,
    candidates: Candidates,
    keys: Callable[[Examples, Int[np.ndarray, " P"], Int[np.ndarray, " P"]], Any],
) -> Float[np.ndarray, " T"]:
    """Places among candidates, by the `keys` [P, K] of pairs of an example and an item: the first
    key counts, then the next.
    """
    found = []
    for start in range(0, len(examples), AT_ONCE):
        some, stop = part(examples, start), min(start + AT_ONCE, len(examples))
        theirs = candidates.offsets[start : stop + 1]
        row = np.repeat(np.arange(stop - start), np.diff(theirs))
        row = np.concatenate([some.owner, row])
        item = np.concatenate([some.targets, candidates.items[theirs[0] : theirs[-1]]])
        _, value = np.unique(np.asarray(keys(some, row, item)), axis=0, return_inverse=True)
        value = value.ravel()
        own = value[: len(some.targets)]
        more, equal = counts.above(row, value, some.owner, own, int(value.max(initial=0)) + 1)
        found.append(more + (equal - 1) / 2)
    return np.concatenate(found)


def part(examples: Examples, start: int) -> Examples:
    """AT_ONCE examples from one on."""
    some = slice(start, start + AT_ONCE)
    mine = slice(*np.searchsorted(examples.owner, [start, start + AT_ONCE]))
    history = Windows(examples.history.start[some], examples.history.stop[some])
    owner = examples.owner[mine] - start
    return Examples(examples.sequence[some], history, examples.targets[mine], owner)


def by_counts(log: Log, how: counts.Ranking, following: Any = None) -> Ranker:
    """Places by counts, or by what a sparse matrix has for the items of the history."""
    counted = counts.count(log.item, log.train, log.size, log.where)
    if following is not None:
        counted = counted._replace(following=following)

    def rank(examples: Examples, candidates: Candidates | None) -> Float[np.ndarray, " T"]:
        if candidates is None:
            return counts.ranks(counted, how, log.item, examples, log.filter_seen)

        def keys(
            some: Examples, row: Int[np.ndarray, " P"], item: Int[np.ndarray, " P"]
        ) -> Float[np.ndarray, "P 2"]:
            score = counts.scores(counted, how, log.item, some.history)
            first = np.asarray(score[row, item]).ravel()
            return np.stack([first, counted.popularity[item]], axis=1)

        return among(examples, candidates, keys)

    return rank


def popularity_recent(log: Log) -> tuple[Ranker, dict[str, Any]]:
    """Popularity in the last tenth of the training events."""
    if log.time is None:
        raise Unable("there are no times")
    trained = events_inside(log.train, len(log.item)) & log.where
    since = np.quantile(log.time[trained], 1 - RECENT, method="higher")
    return by_counts(log._replace(where=log.where & (log.time >= since)), counts.NOTHING), {}


def item_knn(log: Log) -> tuple[Ranker, dict[str, Any]]:
    """What the users of the items of the history had besides."""
    near = similar.neighbours(similar.histories(log.item, log.train, log.size))
    return by_counts(log, counts.EVERYTHING, near), {}


def ease(log: Log) -> tuple[Ranker, dict[str, Any]]:
    """EASE."""
    if log.size > similar.MOST_ITEMS:
        raise Unable(f"a matrix of {log.size:,} x {log.size:,} items is too large to invert")
    users = similar.histories(log.item, log.train, log.size)

    def ranker(ridge: float) -> Ranker:
        matrix = similar.ease(users, ridge)
        return by_scores(
            log, lambda some: similar.histories(log.item, some.history, log.size) @ matrix
        )

    ridge, best = choose(log, ((ridge, ranker(ridge)) for ridge in similar.RIDGE))
    return best, {"ridge": ridge}


def bpr(log: Log) -> tuple[Ranker, dict[str, Any]]:
    """Matrix factorisation; a user without training has the item biases alone."""
    if log.size > factors.MOST_ITEMS:
        raise Unable(f"{log.size:,} items are too many to score all of them for every user")
    owner = np.searchsorted(log.offsets, log.train.start, side="right") - 1
    pairs = similar.histories(log.item, log.train, log.size).tocoo()
    user, item = owner[pairs.row], pairs.col
    unknown = ~np.isin(np.arange(len(log.offsets) - 1), user)

    def rankers() -> Iterable[tuple[int, Ranker]]:
        learned = factors.fresh(len(unknown), log.size)
        learned.users[unknown, :-1] = 0
        for epochs in EPOCHS:
            while learned.epochs < epochs:
                learned = factors.epoch(learned, user, item)
            users, items = learned.users, learned.items
            yield epochs, by_scores(log, lambda some, u=users, i=items: u[some.sequence] @ i.T)

    epochs, best = choose(log, rankers())
    return best, {"epochs": epochs}


def choose(log: Log, tried: Iterable[tuple[Any, Ranker]]) -> tuple[Any, Ranker]:
    """The strength that is best on the validation, and its ranker."""
    best, found = -1.0, None
    for one in tried:
        if not len(log.validation):
            return one
        places = one[1](log.validation, log.candidates)
        metrics = ranking_metrics(places, log.validation.owner, len(log.validation), (10,))
        value = mean_metrics(metrics)["ndcg@10"]
        if value > best:
            best, found = value, one
    assert found is not None
    return found


def counted(name: str) -> Way:
    """One of `counts.RANKINGS`."""
    return lambda log: (by_counts(log, counts.RANKINGS[name]), {})


WAYS: dict[str, Way] = {name: counted(name) for name in counts.RANKINGS}
WAYS |= {
    "popularity_recent": popularity_recent,
    "item_knn": item_knn,
    "ease": ease,
    "bpr": bpr,
}
