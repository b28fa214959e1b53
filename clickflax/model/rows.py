"""What blocks know of the rows besides their states."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


class Rows(NamedTuple):
    """Which events belong together, where they stand, and which of them are asked for."""

    segment: Int[Array, "B L"]
    position: Int[Array, "B L"]
    time: Float[Array, "B L"] | None = None  # standardised
    places: Int[Array, "B Q"] | None = None  # None: all
    relative: Float[Array, "R D"] | None = None  # vectors of distances, for disentangled attention


def take_positions(
    x: Shaped[Array, "B L ..."], places: Int[Array, "B Q"] | None
) -> Shaped[Array, "B Q ..."]:
    """What `x` has at these places of each row; None: at all."""
    if places is None:
        return x
    return jnp.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=1)


def position_columns(rows: Rows) -> Int[Array, "B Q"]:
    """The columns that are asked for."""
    if rows.places is not None:
        return rows.places
    return jnp.broadcast_to(jnp.arange(rows.segment.shape[1]), rows.segment.shape)
