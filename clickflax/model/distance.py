"""What attention knows of how far apart two events are."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from clickflax.model.rows import Rows, position_columns

# Differences of time are told apart by their octave: from 2^-20 of a standard deviation of the
# times on, about ten seconds in a year, to 2^8. Float32 has no finer times.
LEAST, OCTAVES = -20, 29


def between(rows: Rows, max_len: int) -> Int[Array, "#B Q L"]:
    """How many places each event (last axis) is before the one that asks, from 0 to 2 max_len - 2:
    `max_len - 1` is the event itself. The events of a sequence stand side by side, so that all rows
    have the same, but where places are asked for.
    """
    column = jnp.arange(rows.segment.shape[1])
    asking = column[None] if rows.places is None else rows.places
    apart = asking[:, :, None] - column[None, None, :]
    return jnp.clip(apart, 1 - max_len, max_len - 1) + max_len - 1


def at_distance(
    x: Float[Array, "B H Q R"], places: Int[Array, "B Q"] | None, length: int
) -> Float[Array, "B H Q L"]:
    """Of what each asking event has for every distance, 1 - M to M - 1, that of the distance of
    each of the `length` events, at most M.

    A row is the one before it, moved by one: so that all asking events need one slice of rows that
    are a number shorter, and those at some `places` one slice each: the gradient of reading number
    by number would be scattered number by number.
    """
    *lead, asking, distances = x.shape
    most = distances // 2  # M - 1
    x = jnp.flip(x, -1)  # from the distance of the last event on

    def slice_of(row: Float[Array, " R"], place: Int[Array, ""]) -> Float[Array, " L"]:
        return jax.lax.dynamic_slice(row, (most - place,), (length,))

    if places is not None:
        every = jax.vmap(slice_of)
        return jax.vmap(jax.vmap(every, (0, None)))(x, places)
    flat = x.reshape(*lead, -1)
    flat = jnp.pad(flat, [(0, 0)] * len(lead) + [(0, max(0, most - asking))])
    shorter = flat[..., most : most + asking * (distances - 1)]
    return shorter.reshape(*lead, asking, distances - 1)[..., :length]


def octave(rows: Rows) -> Int[Array, "B Q L"]:
    """Of the time between each event (last axis) and the one that asks: 0 for none at all, OCTAVES
    where a time is missing, or hidden as that of a masked event is.
    """
    assert rows.time is not None
    asking = jnp.take_along_axis(rows.time, position_columns(rows), axis=1)
    apart = jnp.abs(asking[:, :, None] - rows.time[:, None, :])
    known = jnp.isfinite(apart)
    _, exponent = jnp.frexp(jnp.where(known, apart, 0.0))  # apart is 0.5 to 1 times 2^exponent
    number = jnp.where(apart > 0, jnp.clip(exponent - LEAST, 1, OCTAVES - 1), 0)
    return jnp.where(known, number, OCTAVES)


class Distances(nn.Module):
    """A learned number for each head and distance, which is added to the scores: of places where
    `positions` is "relative" (Raffel et al., 2020, without their buckets), and of time.
    """

    heads: int
    max_len: int
    positions: str
    time: bool

    @nn.compact
    def __call__(self, rows: Rows) -> Float[Array, "#B H Q L"] | None:
        found = []
        if self.positions == "relative":
            found.append(self.table("places", 2 * self.max_len - 1)[between(rows, self.max_len)])
        if self.time:
            found.append(self.table("octaves", OCTAVES + 1)[octave(rows)])
        return functools.reduce(jnp.add, found).transpose(0, 3, 1, 2) if found else None

    def table(self, name: str, distances: int) -> Float[Array, "R H"]:
        """The numbers of a kind of distance: a vector, as biases are, which do not decay."""
        flat = self.param(name, nn.initializers.zeros, (distances * self.heads,))
        return flat.reshape(distances, self.heads)
