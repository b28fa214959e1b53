"""The items that a target is told from, where it is not told from the whole catalog."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from clickflax.events import RESERVED, Batch
from clickflax.model.bits import bits
from clickflax.model.rows import at
from clickflax.tasks.tasks import Question

DRAWN = ("uniform", "popularity", "in_batch")
AVOID = ("nothing", "target", "history")


class Sampling(NamedTuple):
    """How negatives are drawn, with replacement; see `config.loss`."""

    count: int
    drawn: str
    shared: bool
    avoid: str
    items: int
    others: Int[np.ndarray, " W"] | None  # of uniform: what may be drawn, counted from 0; None: all
    upto: (
        Int[np.ndarray, " V"] | None
    )  # of popularity: training events of this item and those before


class Pool(NamedTuple):
    """The targets of a whole step, of which negatives are drawn in the batch."""

    targets: Int[Array, " M"]
    upto: Int[Array, " M"]  # how many of them are asked for, this one included
    count: Int[Array, " V"]  # of each item


class Drawn(NamedTuple):
    """Items counted from 0, and the logarithm of the chance of each in one draw."""

    items: Int[Array, "... N"]
    log_chance: Float[Array, "... N"]


class Negatives(NamedTuple):
    """What stands against the K targets of each of B rows; the same items for all, without axes."""

    drawn: Drawn
    keep: Bool[Array, "B K N"]  # False: it does not count


def make_pool(sampling: Sampling, targets: Int[Array, "..."], weights: Float[Array, "..."]) -> Pool:
    """All the targets that are asked for."""
    targets, asked = targets.ravel(), (weights.ravel() > 0).astype(jnp.int32)
    count = jnp.zeros(sampling.items, jnp.int32).at[targets].add(asked)
    return Pool(targets, jnp.cumsum(asked), count)


def draw(
    sampling: Sampling, key: Key[Array, ""], shape: tuple[int, ...], pool: Pool | None
) -> Drawn:
    """Negatives of this shape."""
    random = bits(key, shape)

    def below(count: Int[Array, ""] | int) -> Int[Array, "..."]:
        # Of 2^32 numbers the remainders are as good as equally likely.
        return (random % jnp.maximum(count, 1).astype(jnp.uint32)).astype(jnp.int32)

    if sampling.drawn == "uniform":
        others = sampling.others
        count = sampling.items if others is None else len(others)
        place = below(count)
        items = place if others is None else jnp.asarray(others)[place]
        return Drawn(items, jnp.full(shape, -np.log(count), jnp.float32))
    if sampling.drawn == "popularity":
        assert sampling.upto is not None
        upto = jnp.asarray(sampling.upto)
        items = jnp.searchsorted(upto, below(upto[-1]), side="right")
        share = np.diff(sampling.upto, prepend=0) / max(sampling.upto[-1], 1)
        return Drawn(items, jnp.log(jnp.asarray(share, jnp.float32))[items])
    assert pool is not None
    place = jnp.searchsorted(pool.upto, below(pool.upto[-1]), side="right")
    items = pool.targets[jnp.minimum(place, len(pool.targets) - 1)]
    total = jnp.maximum(pool.upto[-1], 1)
    return Drawn(items, jnp.log(jnp.maximum(pool.count[items], 1) / total))


def against(
    sampling: Sampling,
    rows: Batch,
    question: Question,
    head: str,
    drawn: Drawn,
) -> Negatives:
    """Which of the negatives that were drawn count: not the target itself, nor, to avoid the
    history, what is anywhere in its sequence.
    """
    targets = question.targets
    items = jnp.broadcast_to(drawn.items, (*targets.shape, sampling.count))
    if sampling.avoid == "nothing":
        return Negatives(drawn, jnp.ones(items.shape, bool))
    keep = items != targets[..., None]
    if sampling.avoid == "history":
        same = at(rows.segment, question.places)[:, :, None] == rows.segment[:, None, :]
        had = items[..., None] == (rows.variables[head] - RESERVED)[:, None, None, :]
        keep = keep & ~(had & same[:, :, None, :]).any(-1)
    return Negatives(drawn, keep)
