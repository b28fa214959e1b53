"""masked_*: the Cloze objective of BERT4Rec (Sun et al., 2019)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from clickflax.batch import CLS, MASK, RESERVED, Batch
from clickflax.tasks.kinds import ITEM
from clickflax.tasks.task import (
    MAY_MASK,
    TASKS,
    LabelSettings,
    Masking,
    Task,
    TaskBatch,
    mask_where,
    reveal_mask,
    target_weights,
)

# Below the first number an event becomes MASK, below the second another item; else it stays.
REPLACE = {"mask": (1.0, 1.0), "80/10/10": (0.8, 0.9)}


@TASKS.register("masked_*")
def masked_task(name: str, settings: LabelSettings) -> Task:
    """Predicts a variable of masked events from both sides."""
    variable = name.removeprefix("masked_")
    prepare = functools.partial(cloze, variable)
    return Task(name, ITEM, variable, False, MASK, prepare, masks=True)


def masked_count(length: Any, ratio: float) -> Any:
    """Number of events to mask in sequences of these lengths, arrays of numpy or of jax.

    It is the share to the nearest, at least one, in integers so that host and device agree.
    """
    return ((length * round(ratio * 1000) + 500) // 1000).clip(1)


def max_masked(lengths: np.ndarray, offsets: np.ndarray, ratio: float) -> int:
    """The most events that any row masks; row r holds sequences of `lengths[offsets[r]:]`."""
    return int(np.add.reduceat(masked_count(lengths, ratio), offsets[:-1]).max())


def choose_masked(
    key: Key[Array, ""],
    segment: Int[Array, "B L"],
    ratio: float,
    last: float,
    may: Bool[Array, "B L"] | None = None,
) -> Bool[Array, "B L"]:
    """Events to mask: in each sequence a fixed number at random, or (p = `last`) its last one.

    Only events that `may` be masked are chosen; None: all may.
    """
    random_key, last_key = jax.random.split(key)
    chance = jax.random.uniform(random_key, segment.shape)
    there = segment > 0 if may is None else (segment > 0) & may
    same = segment[:, :, None] == segment[:, None, :]
    if may is not None:
        same = same & may[:, None, :]
    before = same & (chance[:, :, None] > chance[:, None, :])
    masked = before.sum(-1) < masked_count(same.sum(-1), ratio)
    if last:
        coin = jax.random.uniform(last_key, segment.shape) < last
        coin = jnp.take_along_axis(coin, jnp.maximum(segment - 1, 0), axis=1)
        length = segment.shape[1]
        following = jnp.where(there, jnp.arange(length), length)  # the next one that may be masked
        following = jax.lax.cummin(following, axis=1, reverse=True)[:, 1:]
        following = jnp.pad(following, ((0, 0), (0, 1)), constant_values=length)
        its_segment = jnp.take_along_axis(jnp.pad(segment, ((0, 0), (0, 1))), following, axis=1)
        masked = jnp.where(coin, segment != its_segment, masked)
    return masked & there


def cloze(variable: str, key: Key[Array, ""], batch: Batch, masking: Masking) -> TaskBatch:
    """Targets are a variable of the masked events; all variables of such an event are masked."""
    choose_key, replace_key, item_key = jax.random.split(key, 3)
    may = None
    if MAY_MASK in batch.labels:
        may = (batch.labels[MAY_MASK] > 0) & (batch.variables["item"] != CLS)
    masked = choose_masked(choose_key, batch.segment, masking.ratio, masking.last, may)
    count = jnp.cumsum(masked, axis=1)
    number = jnp.arange(1, masking.positions + 1)
    # The column of the k-th masked event: as many columns have fewer than k up to them.
    positions = (count[:, None, :] < number[None, :, None]).sum(-1)
    positions = jnp.minimum(positions, masked.shape[1] - 1)
    targets = jnp.take_along_axis(batch.variables[variable], positions, axis=1) - RESERVED
    wanted = (number[None, :] <= count[:, -1:]) & (targets >= 0)

    mask_below, random_below = REPLACE[masking.replace]
    chance = jax.random.uniform(replace_key, masked.shape)
    hidden = masked & (chance < mask_below)
    inputs = mask_where(batch.variables, hidden)
    if random_below > mask_below:
        items = random_items(item_key, masked.shape, masking)
        replaced = masked & ~hidden & (chance < random_below)
        inputs = mask_where(inputs, replaced)
        inputs["item"] = jnp.where(replaced, items, inputs["item"])
    for name in masking.conditions:
        revealed = reveal_mask(choose_key, name, masked.shape)
        inputs[name] = jnp.where(revealed, batch.variables[name], inputs[name])
    weights = target_weights(wanted, batch, positions)
    return TaskBatch(inputs, positions, jnp.maximum(targets, 0), weights)


def random_items(
    key: Key[Array, ""], shape: tuple[int, ...], masking: Masking
) -> Int[Array, "B L"]:
    """Ids of random items."""
    if masking.replacements is None:
        return jax.random.randint(key, shape, RESERVED, RESERVED + masking.items)
    chosen = jax.random.randint(key, shape, 0, len(masking.replacements))
    return jnp.asarray(masking.replacements)[chosen]
