"""Layers that blocks and heads share."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from clickflax.batch import Registry

ACTIVATIONS = Registry(
    "activation", {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "silu": jax.nn.silu}
)


def layer_norm(x: Float[Array, "..."], name: str | None = None) -> Float[Array, "..."]:
    """LayerNorm (Ba et al., 2016), computed in float32; the result has the dtype of `x`."""
    return nn.LayerNorm(name=name)(x.astype(jnp.float32)).astype(x.dtype)


class FeedForward(nn.Module):
    """Two dense layers with an activation between them, applied at each position.

    With `glu`, a third layer multiplies the activation (gated linear unit: Shazeer, 2020).
    """

    hidden: int
    activation: str
    glu: bool
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        dense = functools.partial(nn.Dense, dtype=x.dtype, kernel_init=self.kernel_init)
        y = ACTIVATIONS[self.activation](dense(self.hidden, name="up")(x))
        if self.glu:
            y = y * dense(self.hidden, name="beside")(x)
        return dense(x.shape[-1], name="down")(y)
