"""The items that a target is told from, where it is not told from the whole catalog."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from clickflax.batch import RESERVED, Batch
from clickflax.model.bits import random_bits
from clickflax.model.rows import take_columns
from clickflax.tasks.task import TaskBatch

DRAWN = ("uniform", "popularity", "in_batch")
AVOID = ("nothing", "target", "history")


class Sampling(NamedTuple):
    """How negatives are drawn, with replacement; see `config.loss`."""

    count: int
    drawn: str
    shared: bool
    avoid: str
    items: int
    drawable: Int[np.ndarray, " W"] | None  # if uniform, counted from 0; None: all
    upto: Int[np.ndarray, " V"] | None  # else: training events of this item and all before


class Pool(NamedTuple):
    """The targets of a whole step, of which negatives are drawn in the batch."""

    targets: Int[Array, " M"]
    upto: Int[Array, " M"]  # how many of them are asked for, this one included


class Drawn(NamedTuple):
    """Items counted from 0, and the logarithm of the chance of each in one draw."""

    items: Int[Array, "... N"]
    log_chance: Float[Array, "... N"]


class Negatives(NamedTuple):
    """What stands against the K targets of each of B rows; the same items for all, without axes."""

    drawn: Drawn
    keep: Bool[Array, "B K N"]  # False: it does not count


def make_pool(targets: Int[Array, "..."], weights: Float[Array, "..."]) -> Pool:
    """All the targets that are asked for."""
    return Pool(targets.ravel(), jnp.cumsum((weights.ravel() > 0).astype(jnp.int32)))


def draw_negatives(
    sampling: Sampling, key: Key[Array, ""], shape: tuple[int, ...], pool: Pool | None
) -> Drawn:
    """Negatives of this shape."""
    random = random_bits(key, shape)

    def below(count: Int[Array, ""] | int) -> Int[Array, "..."]:
        # Some are more likely than others by one part in 2^32 / count.
        return (random % jnp.maximum(count, 1).astype(jnp.uint32)).astype(jnp.int32)

    if sampling.drawn == "uniform":
        drawable = sampling.drawable
        count = sampling.items if drawable is None else len(drawable)
        place = below(count)
        items = place if drawable is None else jnp.asarray(drawable)[place]
        return Drawn(items, jnp.full(shape, -np.log(count), jnp.float32))
    assert sampling.upto is not None
    if sampling.drawn == "popularity":
        upto = jnp.asarray(sampling.upto)
        items = jnp.searchsorted(upto, below(upto[-1]), side="right")
    else:
        assert pool is not None
        place = jnp.searchsorted(pool.upto, below(pool.upto[-1]), side="right")
        items = pool.targets[jnp.minimum(place, len(pool.targets) - 1)]
    # Of the batch, too, it is how often an item comes in the whole training (Yi et al., 2019). An
    # item that never does is drawn where nothing is asked: what weighs nothing must not be NaN.
    share = np.diff(sampling.upto, prepend=0) / max(sampling.upto[-1], 1)
    share = np.maximum(share, 1e-30)
    return Drawn(items, jnp.log(jnp.asarray(share, jnp.float32))[items])


def mask_negatives(
    sampling: Sampling,
    rows: Batch,
    question: TaskBatch,
    head: str,
    drawn: Drawn,
) -> Negatives:
    """Which of the negatives that were drawn count: not the target itself, nor, to avoid the
    history, any item of the same sequence that is in the row, before or after.
    """
    targets = question.targets
    items = jnp.broadcast_to(drawn.items, (*targets.shape, sampling.count))
    if sampling.avoid == "nothing":
        return Negatives(drawn, jnp.ones(items.shape, bool))
    keep = items != targets[..., None]
    if sampling.avoid == "history":
        segment = take_columns(rows.segment, question.positions)
        same = segment[:, :, None] == rows.segment[:, None, :]
        had = items[..., None] == (rows.variables[head] - RESERVED)[:, None, None, :]
        keep = keep & ~(had & same[:, :, None, :]).any(-1)
    return Negatives(drawn, keep)
