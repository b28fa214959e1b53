"""Ranking metrics over the whole catalog, from ranks that are counted and never sorted.

`ranks` runs on the device, inside jit, and answers where each relevant item stands. `ranking` runs
on the host, in numpy, and turns those places into metrics of each user; `mean` averages the users.

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

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

METRICS = ("recall", "hit_rate", "precision", "ndcg", "mrr", "map")


def ranks(
    scores: Float[Array, "B V"], targets: Int[Array, "B T"], seen: Int[Array, "B H"]
) -> Float[Array, "B T"]:
    """Place (0 is first) of each target among all V items, by counting the items that beat it.

    `targets` and `seen` are columns of `scores`; any number outside 0 ... V-1, such as -1, is
    padding. Items of `seen` are not counted (they must be distinct within a row), except those that
    are targets of the row: a target is never filtered. Items of equal score share their mean place.
    A padded target and one whose score is NaN are at inf, a miss; another item whose score is NaN
    outranks nobody.
    """
    items = scores.shape[1]
    # One copy of the scores for both sides of the comparison: fused into what computed them, XLA
    # may keep more digits on one side than on the other, and an item would not equal itself.
    scores = jax.lax.optimization_barrier(scores)
    filtered = (seen >= 0) & (seen < items)
    filtered &= ~jnp.any(seen[:, :, None] == targets[:, None, :], axis=2)
    columns = jnp.clip(seen, 0, items - 1)
    # NaN is neither greater nor equal: what is not filtered takes nothing away.
    seen_scores = jnp.where(filtered, jnp.take_along_axis(scores, columns, axis=1), jnp.nan)

    def place(target: Int[Array, " B"]) -> Float[Array, " B"]:
        column = jnp.clip(target, 0, items - 1)[:, None]
        own = jnp.take_along_axis(scores, column, axis=1)
        greater = jnp.sum(scores > own, axis=1) - jnp.sum(seen_scores > own, axis=1)
        equal = jnp.sum(scores == own, axis=1) - jnp.sum(seen_scores == own, axis=1) - 1
        valid = (target >= 0) & (target < items) & ~jnp.isnan(own[:, 0])
        place = greater.astype(jnp.float32) + 0.5 * equal.astype(jnp.float32)
        return jnp.where(valid, place, jnp.inf)

    # One target at a time, so that nothing of the shape [B, T, V] is ever built.
    return jax.lax.map(place, targets.T).T


def ranking(
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


def mean(per_user: dict[str, Float[np.ndarray, " U"]]) -> dict[str, float]:
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
