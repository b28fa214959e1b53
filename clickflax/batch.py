"""Shared types: reserved ids, `Batch`, and the registries that extensions enter."""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int, Shaped

T = TypeVar("T")

# The same in every vocabulary; tokens have the ids from RESERVED on.
PAD, MASK, UNK, CLS, SEP, NA = range(6)
RESERVED = 6

# Prefix of variables of the following event: `next.action` conditions a causal model.
NEXT_EVENT = "next."


def reserved_value(reserved: int, dtype: Any) -> Any:
    """Returns what stands for a reserved id in a column of this dtype.

    In a column of ids it is the id itself. In a column of numbers MASK is infinity, and every other
    reserved id is NaN, a missing number.
    """
    if np.issubdtype(dtype, np.integer):
        return reserved
    return np.inf if reserved == MASK else np.nan


def set_reserved(reserved: int, where: Any, values: Any, xp: Any) -> Any:
    """Returns the values with a reserved id at the events `where`.

    `xp` is the module of the arrays, numpy or jax.numpy. If an event has several values, the first
    becomes the reserved id and the others PAD.
    """
    event = np.full(
        (*(1 for _ in where.shape), *values.shape[where.ndim :]),
        reserved_value(PAD, values.dtype),
        values.dtype,
    )
    event.flat[0] = reserved_value(reserved, values.dtype)
    where = xp.expand_dims(where, tuple(range(where.ndim, values.ndim)))
    return xp.where(where, xp.asarray(event), values)


class Batch(NamedTuple):
    """Packed rows of sequences, B rows of L columns.

    `segment` numbers the sequences of a row from 1; 0 is padding. `position` is the position of an
    event in its sequence. `labels` hold targets and weights by name. Ids are int32 and numbers
    float32; a variable with several values per event has ids [B, L, M], filled up with PAD.
    """

    variables: dict[str, Shaped[Any, "B L ..."]]
    segment: Int[Any, "B L"]
    position: Int[Any, "B L"]
    labels: dict[str, Shaped[Any, "B L"]]


class Registry(dict[str, T]):
    """Implementations of one kind by name, such as blocks or losses.

    An extension adds its own, as a decorator or by assignment:

        @BLOCKS.register("mine")
        class Mine(EncoderBlock): ...
    """

    def __init__(self, kind: str, entries: dict[str, T] | None = None):
        super().__init__(entries or {})
        self.kind = kind

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that enters its argument under `name`.

        Raises ValueError if another implementation has the name.
        """

        def enter(entry: T) -> T:
            if name in self and self[name] is not entry:
                raise ValueError(f"{self.kind} {name!r} is registered already: {self[name]}.")
            self[name] = entry
            return entry

        return enter

    def find(self, name: str, knob: str) -> T:
        """Returns the implementation that a knob names.

        Raises ValueError with the choices if there is none.
        """
        if name not in self:
            near = difflib.get_close_matches(name, self, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{knob}={name!r} is not one of {sorted(self)}.{hint}")
        return self[name]
