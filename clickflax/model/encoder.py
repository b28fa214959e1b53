"""The blocks, and the one stack of them."""

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float, Int

from clickflax.model.attention import Attention, visible
from clickflax.model.dropout import Dropout

ACTIVATIONS = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "silu": jax.nn.silu}
NORMS = ("post", "pre")


class FeedForward(nn.Module):
    """Two dense layers with an activation between them, each position by itself."""

    hidden: int
    activation: str
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        y = nn.Dense(self.hidden, kernel_init=self.kernel_init, name="up")(x)
        y = ACTIVATIONS[self.activation](y)
        return nn.Dense(x.shape[-1], kernel_init=self.kernel_init, name="down")(y)


class Block(nn.Module):
    """Attention, then feed-forward, each beside a residual path.

    `norm="post"`: LayerNorm(x + branch(x)), as in BERT; `"pre"`: x + branch(LayerNorm(x)).
    """

    heads: int
    feed_forward: int
    norm: str
    activation: str
    dropout: float
    attention_dropout: float
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], see: Bool[Array, "B 1 L L"], train: bool
    ) -> Float[Array, "B L D"]:
        attention = Attention(self.heads, self.attention_dropout, self.kernel_init)
        feed_forward = FeedForward(self.feed_forward, self.activation, self.kernel_init)
        if self.norm == "pre":
            x = x + Dropout(self.dropout)(attention(nn.LayerNorm()(x), see, train), train)
            return x + Dropout(self.dropout)(feed_forward(nn.LayerNorm()(x)), train)
        x = nn.LayerNorm()(x + Dropout(self.dropout)(attention(x, see, train), train))
        return nn.LayerNorm()(x + Dropout(self.dropout)(feed_forward(x), train))


class Encoder(nn.Module):
    """A stack of blocks over packed rows; a pre-norm stack ends with a LayerNorm."""

    layers: int
    heads: int
    feed_forward: int
    norm: str
    activation: str
    dropout: float
    attention_dropout: float
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        segment: Int[Array, "B L"],
        causal: bool,
        train: bool,
    ) -> Float[Array, "B L D"]:
        see = visible(segment, causal)
        for i in range(self.layers):
            x = Block(
                self.heads,
                self.feed_forward,
                self.norm,
                self.activation,
                self.dropout,
                self.attention_dropout,
                self.kernel_init,
                name=f"block_{i}",
            )(x, see, train)
        return nn.LayerNorm(name="norm")(x) if self.norm == "pre" else x
