"""What is asked of the model: records of pure functions."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from clickflax.events import RESERVED, Batch, hidden_value


class Question(NamedTuple):
    """What the model sees, and what it should have said.

    `places` are the columns at which it is asked (None: all), `targets` the items there, counted
    from 0, or the labels.
    """

    inputs: dict[str, Shaped[Array, "B L"]]
    places: Int[Array, "B K"] | None
    targets: Shaped[Array, "B K"]
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


def hide(
    variables: Mapping[str, Shaped[Array, "B L"]], where: Bool[Array, "B L"]
) -> dict[str, Shaped[Array, "B L"]]:
    """The variables, all hidden at these events."""
    return {
        name: jnp.where(where, jnp.asarray(hidden_value(values.dtype), values.dtype), values)
        for name, values in variables.items()
    }


def hide_events(variable: str, key: Key[Array, ""], batch: Batch, hiding: Hiding) -> Question:
    """The Cloze objective of BERT4Rec (Sun et al., 2019): fill in a variable of the hidden events.

    All the variables of a hidden event are hidden with it, as one could be told from another.
    """
    choose_key, replace_key, item_key = jax.random.split(key, 3)
    hidden = choose(choose_key, batch.segment, hiding.ratio, hiding.last)
    upto = jnp.cumsum(hidden, axis=1)
    wanted = jnp.arange(1, hiding.places + 1)
    places = (upto[:, None, :] < wanted[None, :, None]).sum(-1)  # where the k-th hidden one is
    places = jnp.minimum(places, hidden.shape[1] - 1)
    targets = jnp.take_along_axis(batch.variables[variable], places, axis=1) - RESERVED
    weights = (wanted[None, :] <= upto[:, -1:]) & (targets >= 0)

    mask_below, other_below = REPLACE[hiding.replace]
    chance = jax.random.uniform(replace_key, hidden.shape)
    masked = hidden & (chance < mask_below)
    inputs = hide(batch.variables, masked)
    if other_below > mask_below:
        other = jax.random.randint(item_key, hidden.shape, RESERVED, RESERVED + hiding.items)
        swapped = hidden & ~masked & (chance < other_below)
        inputs = hide(inputs, swapped)
        inputs["item"] = jnp.where(swapped, other, inputs["item"])
    return Question(inputs, places, jnp.maximum(targets, 0), weights.astype(jnp.float32))


def look_ahead(variable: str, key: Key[Array, ""], batch: Batch, hiding: Hiding) -> Question:
    """The causal objective of SASRec (Kang and McAuley, 2018): what comes after each event."""
    targets = batch.labels[NEXT + variable] - RESERVED
    weights = (batch.segment > 0) & (targets >= 0)
    return Question(batch.variables, None, jnp.maximum(targets, 0), weights.astype(jnp.float32))


def read_label(task: str, key: Key[Array, ""], batch: Batch, hiding: Hiding) -> Question:
    """The label of each event that has one."""
    labels = batch.labels[task]
    weights = (batch.segment > 0) & ~jnp.isnan(labels)
    targets = jnp.where(weights, labels, 0.0)
    return Question(batch.variables, None, targets, weights.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class Task:
    """What is hidden, what may be looked at, and which head answers.

    A causal task is trained on what comes after each event, and asked after the last one; another
    one is asked at a MASK that is appended. The head is that of a variable, or of a label.
    """

    causal: bool
    head: str
    prepare: Callable[[Key[Array, ""], Batch, Hiding], Question]


MASKED, NEXT = "masked_", "next_"
LABELS = ("purchase", "returns", "label")


def find_task(name: str, labels_causal: bool) -> Task:
    """The task of a name: masked_VARIABLE, next_VARIABLE or one of LABELS."""
    if name in LABELS:
        return Task(labels_causal, name, functools.partial(read_label, name))
    for prefix, causal, prepare in ((MASKED, False, hide_events), (NEXT, True, look_ahead)):
        variable = name.removeprefix(prefix)
        if variable and variable != name:
            return Task(causal, variable, functools.partial(prepare, variable))
    raise ValueError(
        f"tasks names {name!r}; tasks are masked_item, next_item (or another variable in the place "
        f"of item), {', '.join(LABELS)}."
    )


def find_tasks(names: tuple[str, ...], labels_causal: bool) -> dict[str, Task]:
    """The tasks of `config.tasks`."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"tasks={tuple(names)!r}: name one or several, each once.")
    return {name: find_task(name, labels_causal) for name in names}
