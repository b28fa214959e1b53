"""What is asked of the model: records of pure functions."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from clickflax.events import MASK, RESERVED, Batch
from clickflax.tasks.losses import softmax_loss


class Question(NamedTuple):
    """What the model sees, and what it should have said.

    `places` are the columns at which it is asked (None: all), `targets` the items there, counted
    from 0.
    """

    inputs: dict[str, Int[Array, "B L"]]
    places: Int[Array, "B K"] | None
    targets: Int[Array, "B K"]
    weights: Float[Array, "B K"]


class Hiding(NamedTuple):
    """How the Cloze objective hides events; see `config.mask`."""

    ratio: float
    replace: str
    last: float
    places: int  # of a row, at most: `most_hidden` of the packing
    items: int


REPLACE = {"mask": (1.0, 1.0), "80/10/10": (0.8, 0.9)}  # up to here MASK, up to here another item


def hidden_events(length: Any, ratio: float) -> Any:
    """Events to hide in sequences of these lengths, arrays of numpy or of jax: the share to the
    nearest, at least one. In whole numbers, so that host and device agree.
    """
    return ((length * round(ratio * 1000) + 500) // 1000).clip(1)


def most_hidden(lengths: np.ndarray, offsets: np.ndarray, ratio: float) -> int:
    """The most events that a row ever hides, for rows that hold `lengths[offsets[r]:]`."""
    return int(np.add.reduceat(hidden_events(lengths, ratio), offsets[:-1]).max())


def choose(
    key: Key[Array, ""], segment: Int[Array, "B L"], ratio: float, last: float
) -> Bool[Array, "B L"]:
    """The events to hide: in each sequence a fixed number at random, or only its last one."""
    which_key, last_key = jax.random.split(key)
    chance = jax.random.uniform(which_key, segment.shape)
    same = segment[:, :, None] == segment[:, None, :]
    before = same & (chance[:, :, None] > chance[:, None, :])
    hidden = before.sum(-1) < hidden_events(same.sum(-1), ratio)
    if last:
        coin = jax.random.uniform(last_key, segment.shape) < last
        coin = jnp.take_along_axis(coin, jnp.maximum(segment - 1, 0), axis=1)
        following = jnp.pad(segment[:, 1:], ((0, 0), (0, 1)))
        hidden = jnp.where(coin, segment != following, hidden)
    return hidden & (segment > 0)


def hide_items(key: Key[Array, ""], batch: Batch, hiding: Hiding) -> Question:
    """The Cloze objective of BERT4Rec (Sun et al., 2019): fill in the hidden items.

    All the variables of a hidden event are hidden with its item, which could be told from them.
    """
    choose_key, replace_key, item_key = jax.random.split(key, 3)
    hidden = choose(choose_key, batch.segment, hiding.ratio, hiding.last)
    upto = jnp.cumsum(hidden, axis=1)
    wanted = jnp.arange(1, hiding.places + 1)
    places = (upto[:, None, :] < wanted[None, :, None]).sum(-1)  # where the k-th hidden one is
    places = jnp.minimum(places, hidden.shape[1] - 1)
    items = jnp.take_along_axis(batch.variables["item"], places, axis=1) - RESERVED
    weights = (wanted[None, :] <= upto[:, -1:]) & (items >= 0)

    mask_below, other_below = REPLACE[hiding.replace]
    chance = jax.random.uniform(replace_key, hidden.shape)
    masked = hidden & (chance < mask_below)
    inputs = {name: jnp.where(masked, MASK, ids) for name, ids in batch.variables.items()}
    if other_below > mask_below:
        other = jax.random.randint(item_key, hidden.shape, RESERVED, RESERVED + hiding.items)
        swapped = hidden & ~masked & (chance < other_below)
        inputs = {name: jnp.where(swapped, MASK, ids) for name, ids in inputs.items()}
        inputs["item"] = jnp.where(swapped, other, inputs["item"])
    return Question(inputs, places, jnp.maximum(items, 0), weights.astype(jnp.float32))


def shift_items(key: Key[Array, ""], batch: Batch, hiding: Hiding) -> Question:
    """The causal objective of SASRec (Kang and McAuley, 2018): the item after each event."""
    items = batch.labels["next_item"] - RESERVED
    weights = (batch.segment > 0) & (items >= 0)
    return Question(batch.variables, None, jnp.maximum(items, 0), weights.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class Task:
    """What is hidden, what may be looked at, and how wrong an answer is.

    A causal task is trained on the event after each, and asked after the last one; another one is
    asked at a MASK that is appended.
    """

    causal: bool
    prepare: Callable[[Key[Array, ""], Batch, Hiding], Question]
    loss: Callable[..., tuple[Float[Array, ""], Float[Array, ""]]]


TASKS = {
    "masked_item": Task(causal=False, prepare=hide_items, loss=softmax_loss),
    "next_item": Task(causal=True, prepare=shift_items, loss=softmax_loss),
}


def find_task(names: tuple[str, ...]) -> Task:
    """The task of `config.tasks`, which names one."""
    if len(names) != 1 or names[0] not in TASKS:
        raise ValueError(f"tasks={tuple(names)!r}: name one of {sorted(TASKS)}, as a tuple of one.")
    return TASKS[names[0]]
