"""Ranking metrics over the whole catalog, from ranks that are counted and never sorted.

`ranks.rank_targets` gives the rank of each relevant item, on the device. `ranking_metrics` turns
ranks into metrics of each user, on the host; `mean_metrics` averages the users.

With n relevant items of a user at the places p_0 < p_1 < ... (0 is first) and the cut-off k, a hit
is a relevant item among the first k places, and

    recall@k     hits / n
    hit_rate@k   1 if there is a hit, else 0
    precision@k  hits / k
    ndcg@k       sum of 1 / log2(p_j + 2) over hits / the same sum over places 0 ... min(n, k) - 1
    mrr@k        1 / (p_0 + 1) if that is a hit, else 0
    map@k        sum of (j + 1) / (p_j + 1) over hits / min(n, k)

A user without relevant items has 0 everywhere, and so has one whose relevant items all missed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

RANKING_METRICS = ("recall", "hit_rate", "precision", "ndcg", "mrr", "map")


def ranking_metrics(
    ranks: Float[np.ndarray, " N"],
    owner: Int[np.ndarray, " N"],
    users: int,
    cutoffs: Sequence[int],
) -> dict[str, Float[np.ndarray, " U"]]:
    """Metrics of each user at each cut-off, "recall@10" and so on, defined at the top of this file.

    `owner[i]` is the user, 0 ... users-1, whose relevant item stands at `ranks[i]` of that user's
    list; leave padded targets out. inf and NaN are misses. Ties have fractional places: a mean
    place is a hit when it is at most k - 1, the last place of the list (9.5 is no hit at 10); and
    relevant items of one user that tie with each other are put one behind the other, so that no
    metric exceeds 1.
    """
    _check(ranks, owner, users, cutoffs)
    order = np.lexsort((ranks, owner))
    owner = owner[order]
    relevant = np.bincount(owner, minlength=users)
    nth = np.arange(len(owner)) - (np.cumsum(relevant) - relevant)[owner]
    place = np.maximum(np.nan_to_num(ranks[order].astype(np.float64), nan=np.inf), nth)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(relevant.max(initial=0)) + 2))])

    def total(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " U"]:
        return np.bincount(owner, weights=values, minlength=users)

    results = {}
    for k in cutoffs:
        hit = (place <= k - 1).astype(np.float64)
        hits = total(hit)
        reachable = np.minimum(relevant, k)
        results[f"recall@{k}"] = hits / np.maximum(relevant, 1)
        results[f"hit_rate@{k}"] = (hits > 0).astype(np.float64)
        results[f"precision@{k}"] = hits / k
        gain = total(hit / np.log2(place + 2))
        results[f"ndcg@{k}"] = gain / np.maximum(ideal[reachable], 1.0)
        results[f"mrr@{k}"] = total((nth == 0) * hit / (place + 1))
        results[f"map@{k}"] = total(hit * (nth + 1) / (place + 1)) / np.maximum(reachable, 1)
    return results


def metrics_by_sequence(
    rows: Mapping[str, Shaped[np.ndarray, " T"]], cutoffs: Sequence[int]
) -> dict[str, Shaped[np.ndarray, " S"]]:
    """Of the rows of an evaluation, a line for each target, one for each sequence that was asked:
    how many questions, and the mean of every metric over these.
    """
    question = rows["question"]
    count = int(question.max()) + 1
    asked = np.zeros(count, np.int64)
    asked[question] = rows["sequence"]
    found = ranking_metrics(rows["place"], question, count, cutoffs)
    sequence, which, questions = np.unique(asked, return_inverse=True, return_counts=True)
    means = {name: np.bincount(which, values) / questions for name, values in found.items()}
    return {"sequence": sequence, "questions": questions, **means}


def mean_metrics(per_user: dict[str, Float[np.ndarray, " U"]]) -> dict[str, float]:
    """Average of each metric over all users, those without a hit included."""
    empty = sorted(name for name, values in per_user.items() if not len(values))
    if empty:
        raise ValueError(f"There are no users to average over in {empty}.")
    return {name: float(np.mean(values)) for name, values in per_user.items()}


def _check(
    ranks: Float[np.ndarray, " N"],
    owner: Int[np.ndarray, " N"],
    users: int,
    cutoffs: Sequence[int],
) -> None:
    """Refuse what would give a wrong number silently."""
    wrong = [k for k in cutoffs if k < 1]
    if wrong:
        raise ValueError(f"cutoffs={list(cutoffs)}: {wrong} must be 1 or more.")
    if len(owner) and (owner.min() < 0 or owner.max() >= users):
        raise ValueError(
            f"owner goes from {owner.min()} to {owner.max()}, outside 0 ... {users - 1}; "
            "leave padded targets out, and count all users."
        )
    if np.any(ranks < 0):
        raise ValueError(
            f"ranks hold {ranks.min()}; a place is 0 or more. "
            "Were the seen items distinct within a row?"
        )
