"""The words that every room shares: the reserved ids, and the batch."""

from typing import Any, NamedTuple

from jaxtyping import Int, Shaped

# The same in every vocabulary; tokens have the ids from RESERVED on.
PAD, MASK, UNK, CLS, SEP, NA = range(6)
RESERVED = 6


class Batch(NamedTuple):
    """Rows that hold one or several sequences each.

    `segment` says which sequence of the row an event belongs to, 0 is nothing; the events of a
    sequence stand together. `position` is the place in that sequence. `labels["next_item"]` is
    the item that followed each event.
    """

    variables: dict[str, Shaped[Any, "B L"]]
    segment: Int[Any, "B L"]
    position: Int[Any, "B L"]
    labels: dict[str, Int[Any, "B L"]]
