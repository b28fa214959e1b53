"""Scores of the whole catalog, a chunk of items at a time: places of targets, and best lists.

Nobody holds the scores of all items at once: what is kept from chunk to chunk is a count or a
short list, so memory does not grow with the catalog.

`seen` names what is left out, as pairs (answer, item): a pair may stand there twice, and one whose
item is outside 0 ... V-1, such as (-1, -1), is padding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from clickflax.model.heads import Answers

# The highest numbers of each line and their columns, of equals the first.
TopK = Callable[[Float[Array, "A C"], int], tuple[Float[Array, "A K"], Int[Array, "A K"]]]


class Chunk(NamedTuple):
    """Scores of some items, NaN for what is left out; column i is the item `start + i`."""

    scores: Float[Array, "A C"]
    start: Int[Array, ""]
    begin: Int[Array, ""]  # items before this one were in the chunk before, and are NaN here

    def columns(self, items: Int[Array, "..."]) -> Int[Array, "..."]:
        """Where these items stand; for one that is not here, some number from C on."""
        return jnp.where(items < self.begin, self.scores.shape[1], items - self.start)


def rank_targets(
    answers: Answers, seen: Int[Array, "N 2"], chunk: int, targets: Int[Array, "A T"]
) -> Float[Array, "A T"]:
    """Place (0 is first) of each target among all V items, by counting the items that beat it.

    Any target outside 0 ... V-1, such as -1, is padding. Items of `seen` are not counted, except
    those that are targets of the answer: a target is never filtered. Items of equal score share
    their mean place. A padded target and one whose score is NaN are at inf, a miss; another item
    whose score is NaN outranks nobody. `chunk` items at a time.
    """

    def pick(own: Float[Array, "A T"], part: Chunk) -> Float[Array, "A T"]:
        column = part.columns(targets)
        found = jnp.take_along_axis(part.scores, column, axis=1, mode="fill")
        return jnp.where(column < part.scores.shape[1], found, own)

    # A pass of its own over the same products: computed in another way, the score of a target
    # might differ in the last digit from that of an item that is just like it.
    own = scan_catalog(pick, jnp.full(targets.shape, jnp.nan), answers, seen[:0], chunk)
    rows = jnp.arange(targets.shape[0])[:, None]

    def count(twice: Int[Array, "A T"], part: Chunk) -> Int[Array, "A T"]:
        scores = part.scores.at[rows, part.columns(targets)].set(own, mode="drop")

        def beaten_by(own: Float[Array, " A"]) -> Int[Array, " A"]:
            own = own[:, None]
            return ((scores > own).astype(int) + (scores >= own).astype(int)).sum(1)

        # One target at a time, so that nothing of the shape [A, T, C] is ever built.
        return twice + jax.lax.map(beaten_by, own.T).T

    twice = scan_catalog(count, jnp.zeros(targets.shape, int), answers, seen, chunk)
    # The target itself is among its equals.
    return jnp.where(jnp.isnan(own), jnp.inf, 0.5 * (twice - 1).astype(jnp.float32))


def rank_among_candidates(
    answers: Answers,
    seen: Int[Array, "N 2"],
    chunk: int,
    targets: Int[Array, "A T"],
    negatives: Int[Array, "A M"],
) -> Float[Array, "A T"]:
    """Place (0 is first) of each target among the targets and the negatives of its answer, as
    `rank_targets` has it among all items; -1 is padding. Nothing else is scored, whatever `seen`
    has.
    """
    both = jnp.concatenate([targets, negatives], axis=1)
    scores = jnp.where(both >= 0, answers.of(jnp.maximum(both, 0)), jnp.nan)

    def place(own: Float[Array, " A"]) -> Float[Array, " A"]:
        own = own[:, None]
        twice = ((scores > own).astype(int) + (scores >= own).astype(int)).sum(1)
        return jnp.where(jnp.isnan(own[:, 0]), jnp.inf, 0.5 * (twice - 1).astype(jnp.float32))

    return jax.lax.map(place, scores[:, : targets.shape[1]].T).T


def top_k_items(
    answers: Answers, seen: Int[Array, "N 2"], chunk: int, k: int, top_k: TopK = jax.lax.top_k
) -> tuple[Float[Array, "A K"], Int[Array, "A K"]]:
    """The `k` highest scores and their items, without those in `seen`; of equals the first item.

    Where fewer than `k` are left the scores end with -inf. `chunk` items at a time.
    """

    def merge(found: tuple[Array, Array], part: Chunk) -> tuple[Array, Array]:
        scores = jnp.where(jnp.isnan(part.scores), -jnp.inf, part.scores)
        score, column = top_k(scores, min(k, scores.shape[1]))
        score = jnp.concatenate([found[0], score], axis=1)
        item = jnp.concatenate([found[1], column + part.start], axis=1)
        score, place = jax.lax.top_k(score, k)
        return score, jnp.take_along_axis(item, place, axis=1)

    shape = (answers.features.shape[0], k)
    return scan_catalog(
        merge, (jnp.full(shape, -jnp.inf), jnp.full(shape, -1)), answers, seen, chunk
    )


def scan_catalog(
    look: Callable[[Any, Chunk], Any],
    carry: Any,
    answers: Answers,
    seen: Int[Array, "N 2"],
    chunk: int,
) -> Any:
    """`carry = look(carry, part)` for every part of the catalog of `chunk` items."""
    size = min(chunk, answers.items)

    def one(carry: Any, begin: Int[Array, ""]) -> tuple[Any, None]:
        scores, _, start = answers.chunk(begin, size, jnp.nan)
        # Fused into what follows, XLA might keep more digits in one place than in another.
        scores = jax.lax.optimization_barrier(scores)
        columns = Chunk(scores, start, begin).columns(seen[:, 1])
        scores = scores.at[seen[:, 0], columns].set(jnp.nan, mode="drop")
        return look(carry, Chunk(scores, start, begin)), None

    return jax.lax.scan(one, carry, jnp.arange(0, answers.items, size))[0]
