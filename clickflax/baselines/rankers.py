"""Item baselines: the events that they learn from, and ranks of targets."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from clickflax.baselines.counts import (
    CountRanking,
    count_above,
    count_ranks,
    count_training,
    history_scores,
    seen_pairs,
)
from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.candidates import Candidates
from clickflax.data.packing import ramp
from clickflax.data.splits.common import Examples
from clickflax.tasks.ranking_metrics import mean_metrics, ranking_metrics

SCORES_CHUNK = 256  # examples that are scored at once


class RankingLog(NamedTuple):
    """The events that a baseline learns from, and the settings of the evaluation."""

    item: Int[np.ndarray, " E"]
    time: Int[np.ndarray, " E"] | None
    offsets: Int[np.ndarray, " bounds"]  # of the sequences
    train: Windows
    size: int  # item ids, the reserved ones included
    where: Bool[np.ndarray, " E"]  # events that may be targets
    validation: Examples
    filter_seen: bool
    candidates: Candidates | None = None  # of the validation; None: all items

    def history_matrix(self, ranges: Windows) -> Any:
        """Returns a sparse matrix [ranges, I] with 1 for every item of a range of events."""
        return history_matrix(self.item, ranges, self.size)


class NotApplicable(Exception):
    """Raised by a baseline that cannot run on a log; the message says why."""


# Ranks of the targets, 0 is first, among candidates or (None) all items.
Ranker = Callable[[Examples, Candidates | None], Float[np.ndarray, " T"]]
# Scores of all items for each example.
ItemScores = Callable[[Examples], Float[np.ndarray, "N I"]]


class FittedRanker(NamedTuple):
    """A ranker, and the hyperparameters that the validation has chosen for it."""

    rank: Ranker
    chosen: dict[str, Any] = {}


def history_matrix(item: Int[np.ndarray, " E"], ranges: Windows, size: int) -> Any:
    """Returns a sparse matrix [ranges, I] with 1 for every item of a range of events."""
    count = ranges.stop - ranges.start
    row = np.repeat(np.arange(len(count)), count)
    column = item[np.repeat(ranges.start, count) + ramp(count)]
    known = column >= RESERVED
    ones = np.ones(known.sum())
    matrix = scipy.sparse.csr_matrix((ones, (row[known], column[known])), (len(count), size))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def rank_by_scores(log: RankingLog, score: ItemScores) -> Ranker:
    """Returns a ranker by scores of all items; ties share their mean rank.

    `log.filter_seen` excludes the items of the history, except the targets.
    """

    def rank_chunk(examples: Examples) -> Float[np.ndarray, " T"]:
        scores = np.asarray(score(examples), np.float64)
        own = scores[examples.owner, examples.targets]
        scores[:, :RESERVED] = np.nan
        if log.filter_seen:
            scores[seen_pairs(log.item, examples.history)] = np.nan
            scores[examples.owner, examples.targets] = own
        rows = zip(scores[examples.owner], own, strict=True)
        return np.array([(s > o).sum() + ((s == o).sum() - 1) / 2 for s, o in rows])

    def rank(examples: Examples, candidates: Candidates | None) -> Float[np.ndarray, " T"]:
        if candidates is not None:
            return rank_among(
                examples, candidates, lambda chunk, row, item: score(chunk)[row, item][:, None]
            )
        starts = range(0, len(examples), SCORES_CHUNK)
        return np.concatenate([rank_chunk(slice_examples(examples, start)) for start in starts])

    return rank


def rank_among(
    examples: Examples,
    candidates: Candidates,
    keys: Callable[[Examples, Int[np.ndarray, " P"], Int[np.ndarray, " P"]], Any],
) -> Float[np.ndarray, " T"]:
    """Returns the ranks of targets among candidates.

    `keys` returns [P, K] for P pairs of an example and an item, which are compared by the first
    key, then by the next.
    """
    ranks = []
    for start in range(0, len(examples), SCORES_CHUNK):
        chunk = slice_examples(examples, start)
        stop = min(start + SCORES_CHUNK, len(examples))
        bounds = candidates.offsets[start : stop + 1]
        row = np.repeat(np.arange(stop - start), np.diff(bounds))
        row = np.concatenate([chunk.owner, row])
        item = np.concatenate([chunk.targets, candidates.items[bounds[0] : bounds[-1]]])
        _, value = np.unique(np.asarray(keys(chunk, row, item)), axis=0, return_inverse=True)
        value = value.ravel()
        own = value[: len(chunk.targets)]
        more, equal = count_above(row, value, chunk.owner, own, int(value.max(initial=0)) + 1)
        ranks.append(more + (equal - 1) / 2)
    return np.concatenate(ranks)


def slice_examples(examples: Examples, start: int) -> Examples:
    """Returns SCORES_CHUNK examples, the first of which is number `start`."""
    chunk = slice(start, start + SCORES_CHUNK)
    of_chunk = slice(*np.searchsorted(examples.owner, [start, start + SCORES_CHUNK]))
    history = Windows(examples.history.start[chunk], examples.history.stop[chunk])
    owner = examples.owner[of_chunk] - start
    return Examples(examples.sequence[chunk], history, examples.targets[of_chunk], owner)


def rank_by_counts(log: RankingLog, ranking: CountRanking, transitions: Any = None) -> Ranker:
    """Returns a ranker by counts of the training events.

    A sparse matrix `transitions` [I, I] replaces the counted shares of transitions.
    """
    counts = count_training(log.item, log.train, log.size, log.where)
    if transitions is not None:
        counts = counts._replace(transitions=transitions)

    def rank(examples: Examples, candidates: Candidates | None) -> Float[np.ndarray, " T"]:
        if candidates is None:
            return count_ranks(counts, ranking, log.item, examples, log.filter_seen)

        def keys(
            chunk: Examples, row: Int[np.ndarray, " P"], item: Int[np.ndarray, " P"]
        ) -> Float[np.ndarray, "P 2"]:
            scores = history_scores(counts, ranking, log.item, chunk.history)
            first = np.asarray(scores[row, item]).ravel()
            return np.stack([first, counts.popularity[item]], axis=1)

        return rank_among(examples, candidates, keys)

    return rank


def choose_on_validation(
    log: RankingLog, tried: Iterable[tuple[Any, Ranker]]
) -> tuple[Any, Ranker]:
    """Returns the hyperparameter with the best NDCG@10 on the validation, and its ranker.

    Without validation examples it returns the first.
    """
    best_value, best = -1.0, None
    for hyperparameter, rank in tried:
        if not len(log.validation):
            return hyperparameter, rank
        ranks = rank(log.validation, log.candidates)
        metrics = ranking_metrics(ranks, log.validation.owner, len(log.validation), (10,))
        value = mean_metrics(metrics)["ndcg@10"]
        if value > best_value:
            best_value, best = value, (hyperparameter, rank)
    assert best is not None
    return best
