"""Packed rows as blocks see them."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


class Rows(NamedTuple):
    """The sequences in packed rows, and the columns whose states are needed.

    `segment` numbers the sequences of a row from 1; 0 is padding. `position` is the position of an
    event in its sequence.
    """

    segment: Int[Array, "B L"]
    position: Int[Array, "B L"]
    time: Float[Array, "B L"] | None = None  # standardised
    columns: Int[Array, "B Q"] | None = None  # None: states of all columns
    # A vector for each relative position, for disentangled attention.
    distances: Float[Array, "R D"] | None = None


def take_columns(
    x: Shaped[Array, "B L ..."], columns: Int[Array, "B Q"] | None
) -> Shaped[Array, "B Q ..."]:
    """The values of `x` at these columns of each row; None: at all columns."""
    if columns is None:
        return x
    return jnp.take_along_axis(x, columns.reshape(*columns.shape, *[1] * (x.ndim - 2)), axis=1)


def query_columns(rows: Rows) -> Int[Array, "B Q"]:
    """The columns whose states are needed, as an array."""
    if rows.columns is not None:
        return rows.columns
    return jnp.broadcast_to(jnp.arange(rows.segment.shape[1]), rows.segment.shape)
