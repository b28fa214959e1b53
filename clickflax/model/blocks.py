"""The blocks that an encoder is a stack of: each mixes the events of a sequence.

All are called as `Block` is. `BLOCKS` has them by the names of `config.model.block`.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from clickflax.model.attention import Attention, split_heads, visible
from clickflax.model.distance import Distances
from clickflax.model.dropout import Dropout
from clickflax.model.rows import Rows, take_positions

ACTIVATIONS = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "silu": jax.nn.silu}
NORMS = ("post", "pre", "query")


def layer_norm(x: Float[Array, "..."], name: str | None = None) -> Float[Array, "..."]:
    """LayerNorm (Ba et al., 2016), computed in float32; the result has the dtype of `x`."""
    return nn.LayerNorm(name=name)(x.astype(jnp.float32)).astype(x.dtype)


class FeedForward(nn.Module):
    """Two dense layers with an activation between them, each position by itself; `glu`: what the
    activation lets through is multiplied by a third layer (Shazeer, 2020).
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


class Block(nn.Module):
    """Attention, then feed-forward, each beside a residual path, in the dtype of `x`.

    It gives the states at the places of `rows`; None: at all.

    `norm="post"`: LayerNorm(x + branch(x)), as in BERT; `"pre"`: x + branch(LayerNorm(x));
    `"query"`: y + branch(y) with y = LayerNorm(x), where attention asks y about x, as in SASRec
    (Kang and McAuley, 2018). With `gate`, each branch is multiplied by sigmoid(W x), as in LiGR
    (Borisyuk et al., 2025).
    """

    heads: int
    feed_forward: int
    norm: str
    activation: str
    glu: bool
    gate: bool
    positions: str
    relative_time: bool
    max_len: int
    dropout: float
    attention_dropout: float
    attend: Callable[..., Array]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], rows: Rows, causal: bool, train: bool
    ) -> Float[Array, "B Q D"]:
        attention = Attention(
            heads=self.heads,
            dropout=self.attention_dropout,
            positions=self.positions,
            distances=Distances(self.heads, self.max_len, self.positions, self.relative_time),
            attend=self.attend,
            kernel_init=self.kernel_init,
        )
        feed_forward = FeedForward(self.feed_forward, self.activation, self.glu, self.kernel_init)

        def gated(
            name: str, y: Float[Array, "B Q D"], x: Float[Array, "B Q D"]
        ) -> Float[Array, "B Q D"]:
            y = Dropout(self.dropout)(y, train)
            if not self.gate:
                return y
            dense = nn.Dense(x.shape[-1], dtype=x.dtype, kernel_init=self.kernel_init, name=name)
            return y * nn.sigmoid(dense(x))

        seen = layer_norm(x) if self.norm != "post" else x
        mixed = attention(seen, x if self.norm == "query" else seen, rows, causal, train)
        x = take_positions(seen if self.norm == "query" else x, rows.places)
        x = x + gated("gate_of_attention", mixed, x)
        if self.norm == "post":
            x = layer_norm(x)
            return layer_norm(x + gated("gate_of_feed_forward", feed_forward(x), x))
        seen = layer_norm(x)
        x = seen if self.norm == "query" else x
        return x + gated("gate_of_feed_forward", feed_forward(seen), x)


class HSTU(nn.Module):
    """The block of HSTU (Zhai et al., 2024): attention whose weights are SiLU(score) / L instead of
    a softmax, then a gate in the place of feed-forward layers; scores know how far apart events are
    in places and, with `relative_time`, in time.
    """

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
        seen = layer_norm(x)

        def project(name: str, y: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
            dense = nn.Dense(width, False, dtype=x.dtype, kernel_init=self.kernel_init, name=name)
            return nn.silu(dense(y))

        asked = take_positions(seen, rows.places)
        q, k, v = (
            split_heads(y, self.heads)
            for y in (project("query", asked), project("key", seen), project("value", seen))
        )
        scores = jnp.einsum("bhqd,bhld->bhql", q, k, preferred_element_type=jnp.float32)
        bias = Distances(self.heads, self.max_len, "relative", self.relative_time)(rows)
        assert bias is not None
        scores = scores + bias
        weights = nn.silu(scores) / self.max_len
        there = visible(rows.segment, causal, rows.places)
        weights = jnp.where(there, weights, 0.0).astype(v.dtype)
        mixed = jnp.einsum("bhql,bhld->bqhd", weights, v, preferred_element_type=jnp.float32)
        mixed = layer_norm(mixed.reshape(*asked.shape).astype(x.dtype)) * project("gate", asked)
        mixed = Dropout(self.dropout)(mixed, train)
        out = nn.Dense(width, dtype=x.dtype, kernel_init=self.kernel_init, name="out")(mixed)
        return take_positions(x, rows.places) + out


class Recurrent(nn.Module):
    """A layer of gated recurrent units (GRU4Rec: Hidasi et al., 2016), which starts anew in every
    sequence of a row; it looks back alone, `causal` or not. It computes in float32, as small
    changes of its state would be lost; what multiplies the state is orthogonal at first.
    """

    dropout: float
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], rows: Rows, causal: bool, train: bool
    ) -> Float[Array, "B Q D"]:

        def one(
            cell: nn.GRUCell, state: Float[Array, "B D"], now: tuple[Array, Bool[Array, " B"]]
        ) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
            event, begins = now
            return cell(jnp.where(begins[:, None], 0.0, state), event)

        scan = nn.scan(
            one, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        cell = nn.GRUCell(x.shape[-1], kernel_init=self.kernel_init, name="cell")
        begins = jnp.diff(rows.segment, axis=1, prepend=-1) != 0
        events = x.astype(jnp.float32)
        _, y = scan(cell, jnp.zeros_like(events[:, 0]), (events, begins))
        return take_positions(Dropout(self.dropout)(y.astype(x.dtype), train), rows.places)


BLOCKS = {"transformer": Block, "hstu": HSTU, "gru": Recurrent}
