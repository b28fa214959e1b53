"""A block of an extension: a gated causal convolution."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from clickflax.model.blocks.base import EncoderBlock
from clickflax.model.blocks.registry import BLOCKS
from clickflax.model.dropout import Dropout
from clickflax.model.layers import layer_norm
from clickflax.model.rows import Rows, take_columns


def shift(x: Shaped[Array, "B L ..."], by: int) -> Shaped[Array, "B L ..."]:
    """Moves the events of each row to later columns; zeros come in."""
    return jnp.pad(x, [(0, 0), (by, 0)] + [(0, 0)] * (x.ndim - 2))[:, : x.shape[1]]


@BLOCKS.register("mine")
class Mine(EncoderBlock):
    """x + dropout(a * sigmoid(b)), where a and b are convolutions over the last three events."""

    knobs = ("dropout",)
    causal_only = True

    dropout: float
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], rows: Rows, causal: bool, train: bool
    ) -> Float[Array, "B Q D"]:
        same = [rows.segment == shift(rows.segment, by) for by in range(3)]
        y = layer_norm(x)
        y = [jnp.where(same[by][..., None], shift(y, by), 0.0) for by in range(3)]
        dense = nn.Dense(2 * x.shape[-1], dtype=x.dtype, kernel_init=self.kernel_init, name="conv")
        a, b = jnp.split(dense(jnp.concatenate(y, axis=-1)), 2, axis=-1)
        return take_columns(x + Dropout(self.dropout)(a * nn.sigmoid(b), train), rows.columns)
