"""Events to vectors."""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from clickflax.model.dropout import Dropout

POSITIONS = ("learned", "sinusoidal", "none")
DTYPES = ("float32", "bfloat16")


def sinusoids(length: int, width: int) -> Float[np.ndarray, "L D"]:
    """Sines and cosines of geometrically spaced wavelengths (Vaswani et al., 2017)."""
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, width, 2)[None] / width)
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(length, -1)
    return table[:, :width].astype(np.float32)


class Embedder(nn.Module):
    """The sum of an event's variables and of its position.

    `sizes` counts the ids of each variable, the reserved ones included. The sum is float32 and
    comes out as `dtype`, in which the model then computes.
    """

    sizes: Mapping[str, int]
    width: int
    max_len: int
    positions: str
    scale: bool
    norm: bool
    dropout: float
    dtype: str
    table_init: nn.initializers.Initializer

    def setup(self):
        self.tables = {
            name: nn.Embed(size, self.width, embedding_init=self.table_init)
            for name, size in self.sizes.items()
        }
        if self.positions == "learned":
            self.position = nn.Embed(self.max_len, self.width, embedding_init=self.table_init)
        if self.norm:
            self.layer_norm = nn.LayerNorm()
        self.drop = Dropout(self.dropout)

    def __call__(
        self,
        variables: Mapping[str, Int[Array, "B L"]],
        position: Int[Array, "B L"],
        train: bool,
    ) -> Float[Array, "B L D"]:
        x = functools.reduce(jnp.add, [self.tables[name](variables[name]) for name in self.sizes])
        if self.scale:
            x = x * self.width**0.5
        if self.positions == "learned":
            x = x + self.position(position)
        elif self.positions == "sinusoidal":
            x = x + jnp.asarray(sinusoids(self.max_len, self.width))[position]
        if self.norm:
            x = self.layer_norm(x)
        return self.drop(x.astype(self.dtype), train)

    def item_table(self) -> Float[Array, "N D"]:
        """The table of the items, a row an id, reserved ids included."""
        return self.tables["item"].embedding
