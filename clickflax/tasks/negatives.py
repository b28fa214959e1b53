"""Negative sampling for sampled losses."""

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
    drawable: Int[np.ndarray, " W"] | None  # items for uniform draws, from 0; None: all
    cumulative: Int[np.ndarray, " V"] | None  # training events of items up to this one, else None


class Pool(NamedTuple):
    """The targets of a whole step, from which in-batch negatives are drawn."""

    targets: Int[Array, " M"]
    cumulative: Int[Array, " M"]  # number of targets with a weight, up to this one


class DrawnItems(NamedTuple):
    """Sampled items, counted from 0, and the log-probability of each in one draw."""

    items: Int[Array, "... N"]
    log_chance: Float[Array, "... N"]


class Negatives(NamedTuple):
    """The negatives of the K targets in each of B rows.

    Items that are shared by all targets have the shape [N].
    """

    drawn: DrawnItems
    keep: Bool[Array, "B K N"]  # False: the negative is masked out of the loss


def make_pool(targets: Int[Array, "..."], weights: Float[Array, "..."]) -> Pool:
    """The pool of all targets with a positive weight."""
    return Pool(targets.ravel(), jnp.cumsum((weights.ravel() > 0).astype(jnp.int32)))


def draw_negatives(
    sampling: Sampling, key: Key[Array, ""], shape: tuple[int, ...], pool: Pool | None
) -> DrawnItems:
    """Negatives of this shape."""
    random = random_bits(key, shape)

    def below(count: Int[Array, ""] | int) -> Int[Array, "..."]:
        # The probabilities differ by a factor of up to 1 + count / 2^32.
        return (random % jnp.maximum(count, 1).astype(jnp.uint32)).astype(jnp.int32)

    if sampling.drawn == "uniform":
        drawable = sampling.drawable
        count = sampling.items if drawable is None else len(drawable)
        index = below(count)
        items = index if drawable is None else jnp.asarray(drawable)[index]
        return DrawnItems(items, jnp.full(shape, -np.log(count), jnp.float32))
    assert sampling.cumulative is not None
    if sampling.drawn == "popularity":
        cumulative = jnp.asarray(sampling.cumulative)
        items = jnp.searchsorted(cumulative, below(cumulative[-1]), side="right")
    else:
        assert pool is not None
        index = jnp.searchsorted(pool.cumulative, below(pool.cumulative[-1]), side="right")
        items = pool.targets[jnp.minimum(index, len(pool.targets) - 1)]
    # In-batch negatives, too, have the probability of their share of the training events (Yi et
    # al., 2019). In a step without targets, items without events are drawn: their probability must
    # not be 0, because a weight of 0 does not cancel NaN.
    share = np.diff(sampling.cumulative, prepend=0) / max(sampling.cumulative[-1], 1)
    share = np.maximum(share, 1e-30)
    return DrawnItems(items, jnp.log(jnp.asarray(share, jnp.float32))[items])


def mask_negatives(
    sampling: Sampling,
    rows: Batch,
    examples: TaskBatch,
    head: str,
    drawn: DrawnItems,
) -> Negatives:
    """The drawn negatives with a mask, as `sampling.avoid` names it.

    It masks the target itself and, for "history", all items of the same sequence that are in the
    row, before the target or after it.
    """
    targets = examples.targets
    items = jnp.broadcast_to(drawn.items, (*targets.shape, sampling.count))
    if sampling.avoid == "nothing":
        return Negatives(drawn, jnp.ones(items.shape, bool))
    keep = items != targets[..., None]
    if sampling.avoid == "history":
        segment = take_columns(rows.segment, examples.positions)
        same = segment[:, :, None] == rows.segment[:, None, :]
        seen = items[..., None] == (rows.variables[head] - RESERVED)[:, None, None, :]
        keep = keep & ~(seen & same[:, :, None, :]).any(-1)
    return Negatives(drawn, keep)
