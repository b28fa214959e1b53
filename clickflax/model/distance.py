"""What attention knows of how far apart two events are."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from clickflax.model.rows import Rows, columns

# Differences of time are told apart by their octave: from 2^-24 of a standard deviation of the
# times on (a second or two in a year) to 2^8.
LEAST, OCTAVES = -24, 33


def between(rows: Rows, max_len: int) -> Int[Array, "B Q L"]:
    """How many places each event (last axis) is before the one that asks, from 0 to 2 max_len - 2:
    `max_len - 1` is the event itself. The events of a sequence stand side by side.
    """
    column = jnp.arange(rows.segment.shape[1])
    apart = columns(rows)[:, :, None] - column[None, None, :]
    return jnp.clip(apart, 1 - max_len, max_len - 1) + max_len - 1


def octave(rows: Rows) -> Int[Array, "B Q L"]:
    """Of the time between each event (last axis) and the one that asks: 0 for none at all, and one
    more of it where a time is missing.
    """
    assert rows.time is not None
    asking = jnp.take_along_axis(rows.time, columns(rows), axis=1)
    apart = jnp.abs(asking[:, :, None] - rows.time[:, None, :])
    known = jnp.isfinite(apart)
    log = jnp.log2(jnp.maximum(jnp.where(known, apart, 1.0), 2.0 ** (LEAST - 1)))
    return jnp.where(known, jnp.clip(jnp.floor(log) - LEAST + 1, 0, OCTAVES - 1), OCTAVES).astype(
        int
    )


class Distances(nn.Module):
    """A learned number for each head and distance, which is added to the scores: of places where
    `positions` is "relative" (Raffel et al., 2020, without their buckets), and of time.
    """

    heads: int
    max_len: int
    positions: str
    time: bool

    @nn.compact
    def __call__(self, rows: Rows) -> Float[Array, "B H Q L"] | None:
        found = None
        zeros = nn.initializers.zeros
        if self.positions == "relative":
            table = self.param("places", zeros, (2 * self.max_len - 1, self.heads))
            found = table[between(rows, self.max_len)]
        if self.time:
            table = self.param("octaves", zeros, (OCTAVES + 1, self.heads))
            octaves = table[octave(rows)]
            found = octaves if found is None else found + octaves
        return None if found is None else found.transpose(0, 3, 1, 2)
