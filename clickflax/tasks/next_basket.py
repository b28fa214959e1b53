"""basket: the items of the next session (next-basket recommendation, Rendle et al., 2010)."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from clickflax.batch import RESERVED, SEP, Batch
from clickflax.tasks.kinds import ITEM
from clickflax.tasks.task import TASKS, LabelSettings, Masking, Task, TaskBatch, target_weights


@TASKS.register("basket")
def basket_task(name: str, settings: LabelSettings) -> Task:
    """Predicts the set of items of the next session at the SEP that opens it."""
    return Task(name, ITEM, "item", True, SEP, functools.partial(next_basket, name), baskets=True)


def next_basket(label: str, key: Key[Array, ""], batch: Batch, masking: Masking) -> TaskBatch:
    """Each item of a session is a target at the SEP before the session."""
    targets = batch.labels[label] - RESERVED
    column = jnp.arange(batch.segment.shape[1])
    begins = jnp.diff(batch.segment, axis=1, prepend=-1) != 0
    first = jax.lax.cummax(jnp.where(begins, column, 0), axis=1)
    opened = jax.lax.cummax(jnp.where(batch.variables["item"] == SEP, column, -1), axis=1)
    wanted = (batch.segment > 0) & (targets >= 0) & (opened >= first)
    positions = jnp.maximum(opened, 0)
    weights = target_weights(wanted, batch)
    return TaskBatch(batch.variables, positions, jnp.maximum(targets, 0), weights)
