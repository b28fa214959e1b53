"""The words that every room shares: the reserved ids, and the batch."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

# The same in every vocabulary; tokens have the ids from RESERVED on.
PAD, MASK, UNK, CLS, SEP, NA = range(6)
RESERVED = 6

# `next.action` is the action of the event after: what a causal model may be told of its answer.
AFTER = "next."


def value_of(reserved: int, dtype: Any) -> Any:
    """What stands for a reserved id in a column: itself; among numbers infinity for MASK, else NaN,
    which is a missing one.
    """
    if np.issubdtype(dtype, np.integer):
        return reserved
    return np.inf if reserved == MASK else np.nan


def put(reserved: int, where: Any, values: Any, xp: Any) -> Any:
    """The values, arrays of `xp` (numpy or jax.numpy), with a reserved id at the events `where`: of
    several values of an event the first is that id, and PAD fills up.
    """
    event = np.full(
        (*(1 for _ in where.shape), *values.shape[where.ndim :]),
        value_of(PAD, values.dtype),
        values.dtype,
    )
    event.flat[0] = value_of(reserved, values.dtype)
    where = xp.expand_dims(where, tuple(range(where.ndim, values.ndim)))
    return xp.where(where, xp.asarray(event), values)


class Batch(NamedTuple):
    """Rows that hold one or several sequences each.

    `segment` says which sequence of the row an event belongs to, 0 is nothing; the events of a
    sequence stand together. `position` is the place in that sequence. `labels` are what is asked of
    each event, such as the item that followed it. All are int32 ids or float32 numbers; a variable
    of several values has M ids an event, [B, L, M], filled up with PAD.
    """

    variables: dict[str, Shaped[Any, "B L ..."]]
    segment: Int[Any, "B L"]
    position: Int[Any, "B L"]
    labels: dict[str, Shaped[Any, "B L"]]
