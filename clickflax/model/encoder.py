"""The blocks, and the one stack of them."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from clickflax.model.attention import Attention, at
from clickflax.model.dropout import Dropout

ACTIVATIONS = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "silu": jax.nn.silu}
NORMS = ("post", "pre")


def layer_norm(x: Float[Array, "..."], name: str | None = None) -> Float[Array, "..."]:
    """LayerNorm (Ba et al., 2016), computed in float32; the result has the dtype of `x`."""
    return nn.LayerNorm(name=name)(x.astype(jnp.float32)).astype(x.dtype)


class FeedForward(nn.Module):
    """Two dense layers with an activation between them, each position by itself."""

    hidden: int
    activation: str
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        dense = functools.partial(nn.Dense, dtype=x.dtype, kernel_init=self.kernel_init)
        y = ACTIVATIONS[self.activation](dense(self.hidden, name="up")(x))
        return dense(x.shape[-1], name="down")(y)


class Block(nn.Module):
    """Attention, then feed-forward, each beside a residual path, in the dtype of `x`.

    It gives the states at `places`; None: at all.

    `norm="post"`: LayerNorm(x + branch(x)), as in BERT; `"pre"`: x + branch(LayerNorm(x)).
    """

    heads: int
    feed_forward: int
    norm: str
    activation: str
    dropout: float
    attention_dropout: float
    attend: Callable[..., Array]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        segment: Int[Array, "B L"],
        causal: bool,
        train: bool,
        places: Int[Array, "B Q"] | None,
    ) -> Float[Array, "B Q D"]:
        attention = Attention(self.heads, self.attention_dropout, self.attend, self.kernel_init)
        feed_forward = FeedForward(self.feed_forward, self.activation, self.kernel_init)
        seen = layer_norm(x) if self.norm == "pre" else x
        mixed = attention(seen, segment, causal, train, places)
        x = at(x, places) + Dropout(self.dropout)(mixed, train)
        if self.norm == "pre":
            return x + Dropout(self.dropout)(feed_forward(layer_norm(x)), train)
        x = layer_norm(x)
        return layer_norm(x + Dropout(self.dropout)(feed_forward(x), train))


# What is computed again for the gradient instead of being kept: nothing, the attention weights, or
# all that is inside a block. On CPU, XLA keeps them all the same. The numbers are the places of
# arguments that are no arrays.
REMAT = {
    "none": lambda attend: functools.partial(Block, attend=attend),
    "attention": lambda attend: functools.partial(
        Block, attend=jax.checkpoint(attend, static_argnums=(4, 6))
    ),
    "block": lambda attend: functools.partial(
        nn.remat(Block, static_argnums=(3, 4)), attend=attend
    ),
}


class Encoder(nn.Module):
    """A stack of blocks over packed rows; a pre-norm stack ends with a LayerNorm.

    `block(name=...)` makes one of them. Where states are asked for at some places only, the last
    block computes no others.
    """

    layers: int
    norm: str
    block: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        segment: Int[Array, "B L"],
        causal: bool,
        train: bool,
        places: Int[Array, "B Q"] | None,
    ) -> Float[Array, "B Q D"]:
        for i in range(self.layers):
            asked = places if i == self.layers - 1 else None
            x = self.block(name=f"block_{i}")(x, segment, causal, train, asked)
        return layer_norm(x, "norm") if self.norm == "pre" else x
