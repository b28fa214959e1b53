"""Distances between events, in positions and in time, for attention scores."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from clickflax.model.rows import Rows, query_columns

# Time differences are binned by octave: from 2^-20 of a standard deviation of the times (about ten
# seconds in a year) to 2^8. Float32 does not resolve shorter ones.
MIN_EXPONENT, OCTAVES = -20, 29


def relative_positions(rows: Rows, max_len: int) -> Int[Array, "#B Q L"]:
    """Distance in columns from each event (last axis) to each query, as an index from 0 to
    2 max_len - 2; `max_len - 1` is the event itself.

    The events of a sequence are adjacent, so all rows share the result unless `rows.columns` is
    set.
    """
    column = jnp.arange(rows.segment.shape[1])
    query = column[None] if rows.columns is None else rows.columns
    apart = query[:, :, None] - column[None, None, :]
    return jnp.clip(apart, 1 - max_len, max_len - 1) + max_len - 1


def gather_distances(
    x: Float[Array, "B H Q R"], columns: Int[Array, "B Q"] | None, length: int
) -> Float[Array, "B H Q L"]:
    """Picks, for each query and each of `length` events, the value at the distance between them.

    The last axis of `x` is over distances 1 - M to M - 1; `length` is at most M. Each row of the
    result is a slice of `x`, shifted by one against the previous row. So all queries together take
    one slice of `x` reshaped to rows that are one element shorter, and queries at some `columns`
    take one slice each. A gather of single elements would make its gradient a slow scatter.
    """
    *lead, queries, distances = x.shape
    most = distances // 2  # M - 1
    x = jnp.flip(x, -1)  # begins with the distance to the last event

    def slice_of(row: Float[Array, " R"], column: Int[Array, ""]) -> Float[Array, " L"]:
        return jax.lax.dynamic_slice(row, (most - column,), (length,))

    if columns is not None:
        every = jax.vmap(slice_of)
        return jax.vmap(jax.vmap(every, (0, None)))(x, columns)
    flat = x.reshape(*lead, -1)
    flat = jnp.pad(flat, [(0, 0)] * len(lead) + [(0, max(0, most - queries))])
    shorter = flat[..., most : most + queries * (distances - 1)]
    return shorter.reshape(*lead, queries, distances - 1)[..., :length]


def time_octaves(rows: Rows) -> Int[Array, "B Q L"]:
    """Octave of the time between each event (last axis) and each query.

    0 is no time at all; OCTAVES stands for a time that is missing or masked.
    """
    assert rows.time is not None
    query = jnp.take_along_axis(rows.time, query_columns(rows), axis=1)
    apart = jnp.abs(query[:, :, None] - rows.time[:, None, :])
    known = jnp.isfinite(apart)
    _, exponent = jnp.frexp(jnp.where(known, apart, 0.0))  # apart is 0.5 to 1 times 2^exponent
    octave = jnp.where(apart > 0, jnp.clip(exponent - MIN_EXPONENT, 1, OCTAVES - 1), 0)
    return jnp.where(known, octave, OCTAVES)


class Distances(nn.Module):
    """A learned bias of attention scores for each head and distance.

    Distances in positions have one if `positions` is "relative" (Raffel et al., 2020, without
    buckets), distances in time if `time` is set. Returns None if neither has one.
    """

    heads: int
    max_len: int
    positions: str
    time: bool

    @nn.compact
    def __call__(self, rows: Rows) -> Float[Array, "#B H Q L"] | None:
        biases = []
        if self.positions == "relative":
            table = self.table("places", 2 * self.max_len - 1)
            biases.append(table[relative_positions(rows, self.max_len)])
        if self.time:
            biases.append(self.table("octaves", OCTAVES + 1)[time_octaves(rows)])
        return functools.reduce(jnp.add, biases).transpose(0, 3, 1, 2) if biases else None

    def table(self, name: str, distances: int) -> Float[Array, "R H"]:
        """The biases of all distances; stored as a vector, so that weight decay skips them."""
        flat = self.param(name, nn.initializers.zeros, (distances * self.heads,))
        return flat.reshape(distances, self.heads)
