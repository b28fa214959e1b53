"""Embedding of events."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from clickflax.batch import PAD, RESERVED, UNK
from clickflax.model.dropout import Dropout

ADDED = ("learned", "sinusoidal")  # positions that are added to the vectors of events
POSITIONS = (*ADDED, "none", "rotary", "relative", "disentangled")  # the last three: see Attention
COMBINE = ("sum", "concat")
DTYPES = ("float32", "bfloat16")


def sinusoids(length: int, width: int) -> Float[np.ndarray, "L D"]:
    """Sines and cosines of geometrically spaced wavelengths (Vaswani et al., 2017)."""
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, width, 2)[None] / width)
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(length, -1)
    return table[:, :width].astype(np.float32)


class Numbers(nn.Module):
    """Embedding of numbers: a linear map of the last axis of `x`.

    Instead, masked numbers (infinity) have one learned vector and missing ones (NaN) another.
    """

    width: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "... F"]) -> Float[Array, "... D"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.width))
        instead = self.param("instead", self.kernel_init, (2, self.width))
        known = jnp.isfinite(x).all(-1, keepdims=True)
        y = jnp.where(known, x, 0.0) @ kernel
        return y + jnp.where(known, 0.0, instead[jnp.isnan(x).any(-1).astype(jnp.int32)])


def mean_over_values(
    vectors: Float[Array, "... M D"], ids: Int[Array, "... M"]
) -> Float[Array, "... D"]:
    """The mean of the vectors over ids that are not PAD; zero if all are."""
    present = (ids != PAD).astype(vectors.dtype)
    total = (vectors * present[..., None]).sum(-2)
    return total / jnp.maximum(present.sum(-1, keepdims=True), 1.0)


class Values(nn.Module):
    """Embedding of several ids: the mean of their vectors, see `mean_over_values`."""

    size: int
    width: int
    table_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, ids: Int[Array, "N M"]) -> Float[Array, "N D"]:
        vectors = nn.Embed(self.size, self.width, embedding_init=self.table_init, name="table")(ids)
        return mean_over_values(vectors, ids)


class Embedder(nn.Module):
    """Embedding of events: their variables, summed or concatenated and projected, and positions.

    `sizes` has the number of ids of each variable, reserved ids included, or 0 for a number. A
    variable with several ids per event, [B, L, M] padded with PAD, has the mean of their vectors. A
    variable has the width of the model, or its own in `widths` (for items, the factorised table of
    ALBERT: Lan et al., 2020).

    `features` has the sizes of item features. Their embeddings are added to those of items, in the
    input and in the scores; their values [N, M] are in the collection "constants", which is not
    trained. A `blind` embedder reads every item as UNK.

    The sum is computed in float32 and returned as `dtype`, in which the model then computes.
    """

    sizes: Mapping[str, int]
    widths: Mapping[str, int]
    features: Mapping[str, int]
    combine: str
    width: int
    max_len: int
    positions: str
    scale: bool
    norm: bool
    dropout: float
    dtype: str
    table_init: nn.initializers.Initializer
    blind: bool = False

    def setup(self):
        self.tables = {
            name: nn.Embed(size, self.width_of(name), embedding_init=self.table_init)
            for name, size in self.sizes.items()
            if size
        }
        self.numbers = {
            name: Numbers(self.width_of(name), self.table_init)
            for name, size in self.sizes.items()
            if not size
        }
        self.item_features = {
            name: Values(size, self.width_of("item"), self.table_init)
            if size
            else Numbers(self.width_of("item"), self.table_init)
            for name, size in self.features.items()
        }
        narrow = self.sizes if self.combine == "concat" else self.widths
        self.project = {
            name: nn.Dense(self.width, use_bias=False, kernel_init=self.table_init)
            for name in narrow
        }
        if self.positions == "learned":
            self.position = nn.Embed(self.max_len, self.width, embedding_init=self.table_init)
        if self.norm:
            self.layer_norm = nn.LayerNorm()
        self.drop = Dropout(self.dropout)

    def width_of(self, name: str) -> int:
        """The width of a variable before its projection."""
        return self.widths.get(name, self.width)

    def __call__(
        self,
        variables: Mapping[str, Shaped[Array, "B L ..."]],
        position: Int[Array, "B L"],
        train: bool,
    ) -> Float[Array, "B L D"]:
        x = jnp.zeros((), jnp.float32)
        for name, size in self.sizes.items():
            values = variables[name]
            if name == "item":
                known = jnp.where(values < RESERVED, values, UNK) if self.blind else values
                y = self.table("item")[known]
            elif size:
                y = self.tables[name](values)
                y = mean_over_values(y, values) if values.ndim == 3 else y
            else:
                y = self.numbers[name](values[..., None])
            x = x + (self.project[name](y) if name in self.project else y)
        if self.scale:
            x = x * self.width**0.5
        if self.positions == "learned":
            x = x + self.position(position)
        elif self.positions == "sinusoidal":
            x = x + jnp.asarray(sinusoids(self.max_len, self.width))[position]
        if self.norm:
            x = self.layer_norm(x)
        return self.drop(x.astype(self.dtype), train)

    def table(self, name: str) -> Float[Array, "N D"]:
        """The vectors of a variable, one row per id, reserved ids included; items with features."""
        table = self.tables[name].embedding
        for feature in self.features if name == "item" else ():
            table = table + self.item_features[feature](self.get_variable("constants", feature))
        return table
