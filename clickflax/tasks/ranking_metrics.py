"""Ranking metrics over the whole catalog, from ranks that are counted and never sorted.

`ranks.rank_targets` gives the rank of each relevant item, on the device. `ranking_metrics` turns
ranks into metrics of each user, on the host; `mean_metrics` averages the users.

With n relevant items of a user at the ranks p_0 < p_1 < ... (0 is best) and the cut-off k, a hit is
a relevant item among the first k ranks, and

    recall@k     hits / n
    hit_rate@k   1 if there is a hit, else 0
    precision@k  hits / k
    ndcg@k       sum of 1 / log2(p_j + 2) over hits / the same sum over ranks 0 ... min(n, k) - 1
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

    `owner[i]` is the user, 0 ... users-1, whose relevant item has the rank `ranks[i]`; leave padded
    targets out. inf and NaN are misses. Ties have fractional ranks: a mean rank is a hit if it is
    at most k - 1, the last rank of the list (9.5 is not a hit at 10). Relevant items of one user
    that tie with each other are put one behind the other, so that no metric exceeds 1.
    """
    _check(ranks, owner, users, cutoffs)
    order = np.lexsort((ranks, owner))
    owner = owner[order]
    relevant = np.bincount(owner, minlength=users)
    nth = np.arange(len(owner)) - (np.cumsum(relevant) - relevant)[owner]
    rank = np.maximum(np.nan_to_num(ranks[order].astype(np.float64), nan=np.inf), nth)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(relevant.max(initial=0)) + 2))])

    def total(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " U"]:
        return np.bincount(owner, weights=values, minlength=users)

    results = {}
    for k in cutoffs:
        hit = (rank <= k - 1).astype(np.float64)
        hits = total(hit)
        reachable = np.minimum(relevant, k)
        results[f"recall@{k}"] = hits / np.maximum(relevant, 1)
        results[f"hit_rate@{k}"] = (hits > 0).astype(np.float64)
        results[f"precision@{k}"] = hits / k
        gain = total(hit / np.log2(rank + 2))
        results[f"ndcg@{k}"] = gain / np.maximum(ideal[reachable], 1.0)
        results[f"mrr@{k}"] = total((nth == 0) * hit / (rank + 1))
        results[f"map@{k}"] = total(hit * (nth + 1) / (rank + 1)) / np.maximum(reachable, 1)
    return results


def metrics_by_sequence(
    rows: Mapping[str, Shaped[np.ndarray, " T"]], cutoffs: Sequence[int]
) -> dict[str, Shaped[np.ndarray, " S"]]:
    """A row for each sequence: its number of examples, and the mean of every metric over these.

    `rows` has a row for each target, as `target_rows` makes them.
    """
    example = rows["example"]
    examples = int(example.max()) + 1
    sequence_of = np.zeros(examples, np.int64)
    sequence_of[example] = rows["sequence"]
    metrics = ranking_metrics(rows["rank"], example, examples, cutoffs)
    sequence, index, count = np.unique(sequence_of, return_inverse=True, return_counts=True)
    means = {name: np.bincount(index, values) / count for name, values in metrics.items()}
    return {"sequence": sequence, "examples": count, **means}


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
    """Raises ValueError for input that would give a wrong number silently."""
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
            f"ranks hold {ranks.min()}; a rank is 0 or more. "
            "Were the seen items distinct within a row?"
        )
