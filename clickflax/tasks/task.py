"""What is asked of the model: records of pure functions."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from clickflax.batch import CLS, MASK, NEXT_EVENT, RESERVED, SEP, UNK, Batch, set_reserved


class TaskBatch(NamedTuple):
    """What the model sees, and what it should have said.

    `places` are the columns at which it is asked (None: all), `targets` the items there, counted
    from 0, or the labels. `weights` are 0 where nothing is asked, elsewhere 1, or what the event of
    the target weighs.
    """

    inputs: dict[str, Shaped[Array, "B L ..."]]
    places: Int[Array, "B K"] | None
    targets: Shaped[Array, "B K"]
    weights: Float[Array, "B K"]


class Masking(NamedTuple):
    """How the Cloze objective hides events; see `config.mask`."""

    ratio: float
    replace: str
    last: float
    places: int  # of a row, at most: `max_masked` of the packing
    items: int
    given: tuple[str, ...]  # variables of which half of the hidden events are told
    others: Int[np.ndarray, " W"] | None = None  # ids of what may be another item; None: any


REPLACE = {"mask": (1.0, 1.0), "80/10/10": (0.8, 0.9)}  # up to here MASK, up to here another item


def masked_count(length: Any, ratio: float) -> Any:
    """Events to hide in sequences of these lengths, arrays of numpy or of jax: the share to the
    nearest, at least one. In whole numbers, so that host and device agree.
    """
    return ((length * round(ratio * 1000) + 500) // 1000).clip(1)


def max_masked(lengths: np.ndarray, offsets: np.ndarray, ratio: float) -> int:
    """The most events that a row ever hides, for rows that hold `lengths[offsets[r]:]`."""
    return int(np.add.reduceat(masked_count(lengths, ratio), offsets[:-1]).max())


def choose_masked(
    key: Key[Array, ""],
    segment: Int[Array, "B L"],
    ratio: float,
    last: float,
    may: Bool[Array, "B L"] | None = None,
) -> Bool[Array, "B L"]:
    """The events to hide: in each sequence a fixed number at random, or only its last one, of those
    that `may` be hidden, or of all.
    """
    which_key, last_key = jax.random.split(key)
    chance = jax.random.uniform(which_key, segment.shape)
    there = segment > 0 if may is None else (segment > 0) & may
    same = segment[:, :, None] == segment[:, None, :]
    if may is not None:
        same = same & may[:, None, :]
    before = same & (chance[:, :, None] > chance[:, None, :])
    hidden = before.sum(-1) < masked_count(same.sum(-1), ratio)
    if last:
        coin = jax.random.uniform(last_key, segment.shape) < last
        coin = jnp.take_along_axis(coin, jnp.maximum(segment - 1, 0), axis=1)
        beyond = segment.shape[1]
        following = jnp.where(there, jnp.arange(beyond), beyond)  # those that may be hidden
        following = jax.lax.cummin(following, axis=1, reverse=True)[:, 1:]
        following = jnp.pad(following, ((0, 0), (0, 1)), constant_values=beyond)
        theirs = jnp.take_along_axis(jnp.pad(segment, ((0, 0), (0, 1))), following, axis=1)
        hidden = jnp.where(coin, segment != theirs, hidden)
    return hidden & there


def mask_where(
    variables: Mapping[str, Shaped[Array, "B L ..."]], where: Bool[Array, "B L"]
) -> dict[str, Shaped[Array, "B L ..."]]:
    """The variables, all hidden at these events."""
    return {name: set_reserved(MASK, where, values, jnp) for name, values in variables.items()}


def cloze(variable: str, key: Key[Array, ""], batch: Batch, hiding: Masking) -> TaskBatch:
    """The Cloze objective of BERT4Rec (Sun et al., 2019): fill in a variable of the hidden events.

    All the variables of a hidden event are hidden with it, as one could be told from another.
    """
    choose_key, replace_key, item_key = jax.random.split(key, 3)
    may = None
    if MAY_MASK in batch.labels:
        may = (batch.labels[MAY_MASK] > 0) & (batch.variables["item"] != CLS)
    hidden = choose_masked(choose_key, batch.segment, hiding.ratio, hiding.last, may)
    upto = jnp.cumsum(hidden, axis=1)
    wanted = jnp.arange(1, hiding.places + 1)
    places = (upto[:, None, :] < wanted[None, :, None]).sum(-1)  # where the k-th hidden one is
    places = jnp.minimum(places, hidden.shape[1] - 1)
    targets = jnp.take_along_axis(batch.variables[variable], places, axis=1) - RESERVED
    weights = (wanted[None, :] <= upto[:, -1:]) & (targets >= 0)

    mask_below, other_below = REPLACE[hiding.replace]
    chance = jax.random.uniform(replace_key, hidden.shape)
    masked = hidden & (chance < mask_below)
    inputs = mask_where(batch.variables, masked)
    if other_below > mask_below:
        other = random_items(item_key, hidden.shape, hiding)
        swapped = hidden & ~masked & (chance < other_below)
        inputs = mask_where(inputs, swapped)
        inputs["item"] = jnp.where(swapped, other, inputs["item"])
    for name in hiding.given:
        told = reveal_mask(choose_key, name, hidden.shape)
        inputs[name] = jnp.where(told, batch.variables[name], inputs[name])
    return TaskBatch(
        inputs, places, jnp.maximum(targets, 0), target_weights(weights, batch, places)
    )


def random_items(key: Key[Array, ""], shape: tuple[int, ...], hiding: Masking) -> Int[Array, "B L"]:
    """Ids of items at random."""
    if hiding.others is None:
        return jax.random.randint(key, shape, RESERVED, RESERVED + hiding.items)
    return jnp.asarray(hiding.others)[jax.random.randint(key, shape, 0, len(hiding.others))]


def target_weights(
    asked: Bool[Array, "B K"], batch: Batch, places: Int[Array, "B K"] | None = None
) -> Float[Array, "B K"]:
    """What the targets weigh that are asked for, at these places or at all: 1, or what the batch
    says; the others weigh nothing.
    """
    if WEIGHT not in batch.labels:
        return asked.astype(jnp.float32)
    weight = batch.labels[WEIGHT]
    if places is not None:
        weight = jnp.take_along_axis(weight, places, axis=1)
    return jnp.where(asked, weight, 0.0)  # it is NaN where there is no event


def next_events(variable: str, key: Key[Array, ""], batch: Batch, hiding: Masking) -> TaskBatch:
    """The causal objective of SASRec (Kang and McAuley, 2018): what comes after each event."""
    inputs = dict(batch.variables)
    for name in hiding.given:
        hidden = ~reveal_mask(key, name, batch.segment.shape)
        inputs |= mask_where({NEXT_EVENT + name: inputs[NEXT_EVENT + name]}, hidden)
    targets = batch.labels[NEXT + variable] - RESERVED
    weights = (batch.segment > 0) & (targets >= 0) & (batch.variables["item"] != CLS)
    return TaskBatch(inputs, None, jnp.maximum(targets, 0), target_weights(weights, batch))


def reveal_mask(key: Key[Array, ""], name: str, shape: tuple[int, ...]) -> Bool[Array, "B L"]:
    """Where a variable is told of what is asked for: at half of the events."""
    return jax.random.bernoulli(jax.random.fold_in(key, zlib.crc32(name.encode())), shape=shape)


def unk_dropout(
    key: Key[Array, ""], inputs: Mapping[str, Shaped[Array, "B L"]], share: float
) -> dict[str, Shaped[Array, "B L"]]:
    """The inputs, with UNK in the place of some items: a model that cannot rely on knowing an item
    does not learn the few sequences by heart in which it stands, and knows what to do without.
    """
    item = inputs["item"]
    lost = (item >= RESERVED) & jax.random.bernoulli(key, share, item.shape)
    return {**inputs, "item": jnp.where(lost, UNK, item)}


def next_basket(key: Key[Array, ""], batch: Batch, hiding: Masking) -> TaskBatch:
    """All the items of a part are asked for at the SEP that opens it (the next basket, Rendle et
    al., 2010): each is a target of its own, of which nothing but the parts before is known.
    """
    targets = batch.labels[BASKET] - RESERVED
    column = jnp.arange(batch.segment.shape[1])
    begins = jnp.diff(batch.segment, axis=1, prepend=-1) != 0
    first = jax.lax.cummax(jnp.where(begins, column, 0), axis=1)
    opened = jax.lax.cummax(jnp.where(batch.variables["item"] == SEP, column, -1), axis=1)
    weights = (batch.segment > 0) & (targets >= 0) & (opened >= first)
    places = jnp.maximum(opened, 0)
    return TaskBatch(
        batch.variables, places, jnp.maximum(targets, 0), target_weights(weights, batch)
    )


def label_targets(
    task: str, at_cls: bool, key: Key[Array, ""], batch: Batch, hiding: Masking
) -> TaskBatch:
    """The label of each event that has one, at the event, or at the CLS of its sequence."""
    labels = batch.labels[task]
    here = (batch.variables["item"] == CLS) == at_cls
    weights = (batch.segment > 0) & ~jnp.isnan(labels) & here
    targets = jnp.where(weights, labels, 0.0)
    return TaskBatch(batch.variables, None, targets, target_weights(weights, batch))


@dataclasses.dataclass(frozen=True)
class Task:
    """What is hidden, what may be looked at, where it is asked and which head answers.

    The head is that of a variable, or of a label. To be asked, a MASK (the Cloze) or a SEP (the
    next basket) is appended to a history; CLS opens it already; None: the last event will do.
    """

    causal: bool
    head: str
    ask: int | None
    prepare: Callable[[Key[Array, ""], Batch, Masking], TaskBatch]


MASKED, NEXT, BASKET = "masked_", "next_", "basket"
LABELS = ("purchase", "returns", "label")
LABELS_AT = ("event", "cls")
WEIGHT = "weight"  # the label that says what a target weighs, where not all weigh the same
MAY_MASK = "asked"  # the label that says of which events the Cloze may ask, where not of all


def find_task(name: str, labels_causal: bool, labels_at: str) -> Task:
    """The task of a name: masked_VARIABLE, next_VARIABLE, basket or one of LABELS."""
    if name in LABELS:
        at_cls = labels_at == "cls"
        prepare = functools.partial(label_targets, name, at_cls)
        return Task(labels_causal, name, CLS if at_cls else None, prepare)
    if name == BASKET:
        return Task(True, "item", SEP, next_basket)
    variable = name.removeprefix(MASKED)
    if variable and variable != name:
        return Task(False, variable, MASK, functools.partial(cloze, variable))
    variable = name.removeprefix(NEXT)
    if variable and variable != name:
        return Task(True, variable, None, functools.partial(next_events, variable))
    raise ValueError(
        f"tasks names {name!r}; tasks are masked_item, next_item (or another variable in the place "
        f"of item), {BASKET}, {', '.join(LABELS)}."
    )


def find_tasks(names: tuple[str, ...], labels_causal: bool, labels_at: str) -> dict[str, Task]:
    """The tasks of `config.tasks`; for those with labels see `config.label`."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"tasks={tuple(names)!r}: name one or several, each once.")
    return {name: find_task(name, labels_causal, labels_at) for name in names}
