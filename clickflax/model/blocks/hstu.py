"""The block of HSTU."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from clickflax.model.attention import split_heads, visible
from clickflax.model.blocks.base import EncoderBlock
from clickflax.model.distance import Distances
from clickflax.model.dropout import Dropout
from clickflax.model.layers import layer_norm
from clickflax.model.rows import Rows, take_columns


class HSTUBlock(EncoderBlock):
    """Attention with weights SiLU(score) / L instead of a softmax, and a gate instead of
    feed-forward layers (HSTU: Zhai et al., 2024).

    Scores have a learned bias for the distance of two events in positions and, with
    `relative_time`, in time.
    """

    knobs = ("heads", "max_len", "relative_time", "dropout")

    heads: int
    max_len: int
    relative_time: bool
    dropout: float
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], rows: Rows, causal: bool, train: bool
    ) -> Float[Array, "B Q D"]:
        width = x.shape[-1]
        normed = layer_norm(x)
        at_queries = take_columns(normed, rows.columns)

        def project(name: str, y: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
            dense = nn.Dense(width, False, dtype=x.dtype, kernel_init=self.kernel_init, name=name)
            return nn.silu(dense(y))

        q = split_heads(project("query", at_queries), self.heads)
        k = split_heads(project("key", normed), self.heads)
        v = split_heads(project("value", normed), self.heads)
        scores = jnp.einsum("bhqd,bhld->bhql", q, k, preferred_element_type=jnp.float32)
        bias = Distances(self.heads, self.max_len, "relative", self.relative_time)(rows)
        assert bias is not None
        weights = nn.silu(scores + bias) / self.max_len
        weights = jnp.where(visible(rows, causal), weights, 0.0).astype(v.dtype)
        mixed = jnp.einsum("bhql,bhld->bqhd", weights, v, preferred_element_type=jnp.float32)
        mixed = layer_norm(mixed.reshape(*at_queries.shape).astype(x.dtype))
        mixed = Dropout(self.dropout)(mixed * project("gate", at_queries), train)
        out = nn.Dense(width, dtype=x.dtype, kernel_init=self.kernel_init, name="out")(mixed)
        return take_columns(x, rows.columns) + out
