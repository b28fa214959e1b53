"""next_*: the causal objective of SASRec (Kang and McAuley, 2018)."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Key

from clickflax.batch import CLS, NEXT_EVENT, RESERVED, Batch
from clickflax.tasks.kinds import ITEM
from clickflax.tasks.task import (
    TASKS,
    LabelSettings,
    Masking,
    Task,
    TaskBatch,
    mask_where,
    reveal_mask,
    target_weights,
)


@TASKS.register("next_*")
def next_task(name: str, settings: LabelSettings) -> Task:
    """Predicts a variable of the event after each event."""
    variable = name.removeprefix("next_")
    prepare = functools.partial(next_events, name, variable)
    return Task(name, ITEM, variable, True, None, prepare, follows=True)


def next_events(
    label: str, variable: str, key: Key[Array, ""], batch: Batch, masking: Masking
) -> TaskBatch:
    """Targets are the values of a variable at the following events, `batch.labels[label]`."""
    inputs = dict(batch.variables)
    for name in masking.conditions:
        column = NEXT_EVENT + name
        hidden = ~reveal_mask(key, name, batch.segment.shape)
        inputs |= mask_where({column: inputs[column]}, hidden)
    targets = batch.labels[label] - RESERVED
    wanted = (batch.segment > 0) & (targets >= 0) & (batch.variables["item"] != CLS)
    return TaskBatch(inputs, None, jnp.maximum(targets, 0), target_weights(wanted, batch))
