"""Tasks: what is predicted, from what, by which head, and how it is trained and measured.

A `Task` is a frozen record with all that is special about a task. The tasks of clickflax are in
`cloze.py`, `next_event.py`, `next_basket.py` and `labels.py`; an extension registers its own:

    @TASKS.register("mine")
    def mine(name: str, settings: LabelSettings) -> Task: ...
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from clickflax.batch import MASK, RESERVED, UNK, Batch, Registry, set_reserved
from clickflax.data.splits.labels import LabelledEvents, LabelOptions
from clickflax.data.store import Dataset
from clickflax.tasks.kinds import ITEM, Kind

V = TypeVar("V")

WEIGHT = "weight"  # name of the label with the sample weights of targets, where they differ
MAY_MASK = "may_mask"  # name of the label that says which events the Cloze may mask, if not all
LABELS_AT = ("event", "cls")


class TaskBatch(NamedTuple):
    """Inputs and targets that a task makes of a batch.

    `positions` are the columns at which the model predicts (None: all of them). `targets` are item
    numbers, counted from 0, or labels. `weights` are sample weights, 0 where nothing is predicted.
    """

    inputs: dict[str, Shaped[Array, "B L ..."]]
    positions: Int[Array, "B K"] | None
    targets: Shaped[Array, "B K"]
    weights: Float[Array, "B K"]


class Masking(NamedTuple):
    """Settings of `Task.prepare`; see `config.mask` and `config.data.given`."""

    ratio: float
    replace: str
    last: float
    positions: int  # masked events of a row, at most: `max_masked` of the packing
    items: int
    conditions: tuple[str, ...]  # variables of the target event that are revealed at random
    replacements: Int[np.ndarray, " W"] | None = None  # ids of random items; None: any


class LabelSettings(NamedTuple):
    """The knobs of `config.label` on which a task's record depends."""

    causal: bool
    at: str
    kind: str
    classes: int


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    `head` names what is predicted: a variable whose values are ranked (`kind` is ITEM), or a label.
    `query` is the reserved id that is appended to a history to predict what follows: MASK (Cloze),
    SEP (next basket), CLS (at the start of the sequence); None: the last event answers.

    Of a task with labels, `labels` makes them from a data set, `label_knobs` are the knobs of
    `config.label` that it reads, and `may_look_ahead(after, sessions)` says if a model may read
    beyond the event that is labelled.
    """

    name: str
    kind: Kind
    head: str
    causal: bool
    query: int | None
    prepare: Callable[[Key[Array, ""], Batch, Masking], TaskBatch]
    masks: bool = False  # events are masked in training, as `config.mask` says
    follows: bool = False  # the target is the event after each event of the input
    baskets: bool = False  # the targets are all items of the next session
    outputs: int = 1  # of the head of a label
    labels: Callable[[Dataset, LabelOptions], LabelledEvents] | None = None
    label_knobs: tuple[str, ...] = ()
    may_look_ahead: Callable[[int, bool], bool] = lambda after, sessions: False

    @property
    def ranks(self) -> bool:
        """Whether values of a variable are ranked, rather than a label predicted."""
        return self.kind is ITEM

    @property
    def conditional(self) -> bool:
        """Whether variables of the target event can be given as conditions."""
        return self.masks or self.follows

    def metrics(self, cutoffs: tuple[int, ...]) -> list[str]:
        """Names of the metrics that a validation has, of rankings at these cut-offs."""
        if self.ranks:
            return [f"{metric}@{k}" for metric in self.kind.metrics for k in cutoffs]
        return list(self.kind.metrics)


# Builders of tasks by name; `masked_*` and `next_*` stand for any variable in the place of *.
TASKS: Registry[Callable[[str, LabelSettings], Task]] = Registry("task")


def qualify(task: str, entries: Mapping[str, V], several: bool) -> dict[str, V]:
    """Entries of one task under the names that a record of one or `several` tasks has for them."""
    return {f"{task}/{name}": value for name, value in entries.items()} if several else {**entries}


def entries_of(task: str, record: Mapping[str, V], several: bool) -> dict[str, V]:
    """Entries of one task in a record, without the prefix of `qualify`."""
    prefix = f"{task}/" if several else ""
    return {
        name.removeprefix(prefix): value
        for name, value in record.items()
        if name.startswith(prefix)
    }


def mask_where(
    variables: Mapping[str, Shaped[Array, "B L ..."]], where: Bool[Array, "B L"]
) -> dict[str, Shaped[Array, "B L ..."]]:
    """The variables with MASK in all of them at some events."""
    return {name: set_reserved(MASK, where, values, jnp) for name, values in variables.items()}


def target_weights(
    wanted: Bool[Array, "B K"], batch: Batch, positions: Int[Array, "B K"] | None = None
) -> Float[Array, "B K"]:
    """Sample weights of the targets: 1 or what the batch says where `wanted`, else 0."""
    if WEIGHT not in batch.labels:
        return wanted.astype(jnp.float32)
    weight = batch.labels[WEIGHT]
    if positions is not None:
        weight = jnp.take_along_axis(weight, positions, axis=1)
    return jnp.where(wanted, weight, 0.0)  # padding has NaN


def reveal_mask(key: Key[Array, ""], name: str, shape: tuple[int, ...]) -> Bool[Array, "B L"]:
    """Positions (p = 0.5) at which a conditioning variable is revealed."""
    return jax.random.bernoulli(jax.random.fold_in(key, zlib.crc32(name.encode())), shape=shape)


def unk_dropout(
    key: Key[Array, ""], inputs: Mapping[str, Shaped[Array, "B L"]], rate: float
) -> dict[str, Shaped[Array, "B L"]]:
    """Inputs in which a share of the items is replaced by UNK.

    A model that cannot rely on knowing an item does not memorise the few sequences that have it,
    and learns what to do with items that it has never seen.
    """
    item = inputs["item"]
    dropped = (item >= RESERVED) & jax.random.bernoulli(key, rate, item.shape)
    return {**inputs, "item": jnp.where(dropped, UNK, item)}
