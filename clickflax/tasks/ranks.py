"""Ranks of targets and top-k items over the whole catalog, a chunk of items at a time.

From one chunk to the next only counts or short lists are kept, so that memory does not grow with
the catalog.

`seen` are pairs (answer, item) that are filtered out. A pair may be repeated, and pairs with items
outside 0 ... V-1, such as (-1, -1), are padding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from clickflax.model.heads import Answers

# The highest scores of each row and their columns; of equal scores the first.
TopK = Callable[[Float[Array, "A C"], int], tuple[Float[Array, "A K"], Int[Array, "A K"]]]


class Chunk(NamedTuple):
    """Scores of a chunk of items, NaN for filtered ones; column i is the item `start + i`."""

    scores: Float[Array, "A C"]
    start: Int[Array, ""]
    begin: Int[Array, ""]  # items before this one belong to the previous chunk, and are NaN here

    def columns(self, items: Int[Array, "..."]) -> Int[Array, "..."]:
        """The columns of items; C or more for items of other chunks."""
        return jnp.where(items < self.begin, self.scores.shape[1], items - self.start)


def rank_targets(
    answers: Answers, seen: Int[Array, "N 2"], chunk: int, targets: Int[Array, "A T"]
) -> Float[Array, "A T"]:
    """Rank of each target among all V items; 0 is best.

    Targets outside 0 ... V-1, such as -1, are padding. Items in `seen` are filtered out, except
    targets of the same answer. Items with equal scores share their mean rank. Padding, and targets
    with a NaN score, have rank inf, a miss; other items with a NaN score count as the lowest. The
    scores of `chunk` items are in memory at once.
    """

    def pick(own: Float[Array, "A T"], part: Chunk) -> Float[Array, "A T"]:
        column = part.columns(targets)
        scores = jnp.take_along_axis(part.scores, column, axis=1, mode="fill")
        return jnp.where(column < part.scores.shape[1], scores, own)

    # A first pass over the same products. Computed in another way, the score of a target might
    # differ in the last digit from that of an identical item.
    own = scan_catalog(pick, jnp.full(targets.shape, jnp.nan), answers, seen[:0], chunk)
    rows = jnp.arange(targets.shape[0])[:, None]

    def count(twice: Int[Array, "A T"], part: Chunk) -> Int[Array, "A T"]:
        scores = part.scores.at[rows, part.columns(targets)].set(own, mode="drop")

        def beaten_by(own: Float[Array, " A"]) -> Int[Array, " A"]:
            own = own[:, None]
            return ((scores > own).astype(int) + (scores >= own).astype(int)).sum(1)

        # One target at a time, so that no array has the shape [A, T, C].
        return twice + jax.lax.map(beaten_by, own.T).T

    twice = scan_catalog(count, jnp.zeros(targets.shape, int), answers, seen, chunk)
    # The target itself is counted among the items of equal score.
    return jnp.where(jnp.isnan(own), jnp.inf, 0.5 * (twice - 1).astype(jnp.float32))


def rank_among_candidates(
    answers: Answers,
    seen: Int[Array, "N 2"],
    chunk: int,
    targets: Int[Array, "A T"],
    negatives: Int[Array, "A M"],
) -> Float[Array, "A T"]:
    """Rank of each target among the targets and negatives of its answer, as in `rank_targets`.

    -1 is padding. `seen` and `chunk` have no effect.
    """
    both = jnp.concatenate([targets, negatives], axis=1)
    scores = jnp.where(both >= 0, answers.of(jnp.maximum(both, 0)), jnp.nan)

    def rank(own: Float[Array, " A"]) -> Float[Array, " A"]:
        own = own[:, None]
        twice = ((scores > own).astype(int) + (scores >= own).astype(int)).sum(1)
        return jnp.where(jnp.isnan(own[:, 0]), jnp.inf, 0.5 * (twice - 1).astype(jnp.float32))

    return jax.lax.map(rank, scores[:, : targets.shape[1]].T).T


def top_k_items(
    answers: Answers, seen: Int[Array, "N 2"], chunk: int, k: int, top_k: TopK = jax.lax.top_k
) -> tuple[Float[Array, "A K"], Int[Array, "A K"]]:
    """The `k` highest scores and their items, without those in `seen`; of equal scores the first.

    If fewer than `k` items are left, the scores end with -inf. The scores of `chunk` items are in
    memory at once.
    """

    def merge(best: tuple[Array, Array], part: Chunk) -> tuple[Array, Array]:
        scores = jnp.where(jnp.isnan(part.scores), -jnp.inf, part.scores)
        score, column = top_k(scores, min(k, scores.shape[1]))
        score = jnp.concatenate([best[0], score], axis=1)
        item = jnp.concatenate([best[1], column + part.start], axis=1)
        score, index = jax.lax.top_k(score, k)
        return score, jnp.take_along_axis(item, index, axis=1)

    shape = (answers.features.shape[0], k)
    return scan_catalog(
        merge, (jnp.full(shape, -jnp.inf), jnp.full(shape, -1)), answers, seen, chunk
    )


def top_k_with_targets(
    answers: Answers,
    seen: Int[Array, "N 2"],
    chunk: int,
    targets: Int[Array, "A T"],
    k: int,
    top_k: TopK,
) -> tuple[Float[Array, "A K"], Int[Array, "A K"]]:
    """As `top_k_items`, but targets are not left out even if they are in `seen`."""
    wanted = (targets[seen[:, 0]] == seen[:, 1:]).any(1)
    return top_k_items(answers, jnp.where(wanted[:, None], -1, seen), chunk, k, top_k)


def scan_catalog(
    update: Callable[[Any, Chunk], Any],
    carry: Any,
    answers: Answers,
    seen: Int[Array, "N 2"],
    chunk: int,
) -> Any:
    """Returns the carry after `carry = update(carry, part)` for every chunk of the catalog."""
    size = min(chunk, answers.items)

    def one(carry: Any, begin: Int[Array, ""]) -> tuple[Any, None]:
        scores, _, start = answers.chunk(begin, size, jnp.nan)
        # If XLA fused the scores into later operations, it might round them differently each time.
        scores = jax.lax.optimization_barrier(scores)
        columns = Chunk(scores, start, begin).columns(seen[:, 1])
        scores = scores.at[seen[:, 0], columns].set(jnp.nan, mode="drop")
        return update(carry, Chunk(scores, start, begin)), None

    return jax.lax.scan(one, carry, jnp.arange(0, answers.items, size))[0]
