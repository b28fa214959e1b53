"""The words that every room shares: the reserved ids, and the batch."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

# The same in every vocabulary; tokens have the ids from RESERVED on.
PAD, MASK, UNK, CLS, SEP, NA = range(6)
RESERVED = 6


def hidden_value(dtype: Any) -> Any:
    """What stands for a hidden value: the id MASK, or infinity among numbers (missing is NaN)."""
    return MASK if np.issubdtype(dtype, np.integer) else np.inf


def no_value(dtype: Any) -> Any:
    """What stands where there is no event: the id PAD, or NaN among numbers."""
    return PAD if np.issubdtype(dtype, np.integer) else np.nan


class Batch(NamedTuple):
    """Rows that hold one or several sequences each.

    `segment` says which sequence of the row an event belongs to, 0 is nothing; the events of a
    sequence stand together. `position` is the place in that sequence. `labels` are what is asked of
    each event, such as the item that followed it. All are int32 ids or float32 numbers.
    """

    variables: dict[str, Shaped[Any, "B L"]]
    segment: Int[Any, "B L"]
    position: Int[Any, "B L"]
    labels: dict[str, Shaped[Any, "B L"]]
