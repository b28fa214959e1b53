"""The transformer block."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from clickflax.batch import Registry
from clickflax.model.attention import Attention, find_attention
from clickflax.model.blocks.base import EncoderBlock
from clickflax.model.distance import Distances
from clickflax.model.dropout import Dropout
from clickflax.model.embedder import POSITIONS
from clickflax.model.layers import FeedForward, layer_norm
from clickflax.model.rows import Rows, take_columns

NORMS = ("post", "pre", "query")
# What the backward pass computes again instead of keeping it: nothing, the attention weights, or
# everything inside a block. On CPU, XLA keeps it nevertheless. The static arguments are those that
# are not arrays.
REMAT = Registry(
    "rematerialization",
    {
        "none": lambda block, attend: functools.partial(block, attend=attend),
        "attention": lambda block, attend: functools.partial(
            block, attend=jax.checkpoint(attend, static_argnums=(4, 7))
        ),
        "block": lambda block, attend: functools.partial(
            nn.remat(block, static_argnums=(3, 4)), attend=attend
        ),
    },
)


class TransformerBlock(EncoderBlock):
    """Attention and feed-forward layers with residual connections, in the dtype of `x`.

    `norm="post"`: LayerNorm(x + branch(x)), as in BERT; `"pre"`: x + branch(LayerNorm(x));
    `"query"`: y + branch(y) with y = LayerNorm(x), where the queries of attention come from y, keys
    and values from x, as in SASRec (Kang and McAuley, 2018). With `gate`, each branch is multiplied
    by sigmoid(W x), as in LiGR (Borisyuk et al., 2025).
    """

    knobs = (
        "width",
        "heads",
        "max_len",
        "feed_forward",
        "norm",
        "activation",
        "glu",
        "gate",
        "positions",
        "relative_time",
        "dropout",
        "attention_dropout",
        "attention",
        "dtype",
        "remat",
    )
    position_kinds = POSITIONS

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

    @classmethod
    def from_config(
        cls, knobs: Mapping[str, Any], kernel_init: nn.initializers.Initializer
    ) -> Callable[..., nn.Module]:
        """Returns a constructor `make(name=...)` from the values of the block's knobs.

        Raises ValueError for values that do not go together.
        """
        fields = dict(knobs)
        width = fields.pop("width") // fields["heads"]  # of a head
        if fields["norm"] not in NORMS:
            raise ValueError(f"config.model.norm={fields['norm']!r} is not one of {sorted(NORMS)}.")
        if fields["gate"] and fields["norm"] != "pre":
            raise ValueError(
                f"config.model.gate=True needs config.model.norm='pre', not {fields['norm']!r}."
            )
        if fields["positions"] == "rotary" and width % 2:
            raise ValueError(
                "config.model.positions='rotary' rotates pairs of numbers: config.model.width="
                f"{knobs['width']} divided by config.model.heads={knobs['heads']} must be even."
            )
        attend = find_attention(
            fields.pop("attention"),
            jax.default_backend(),
            fields.pop("dtype"),
            width,
            fields["attention_dropout"],
            biased=fields["relative_time"] or fields["positions"] in ("relative", "disentangled"),
        )
        remat = REMAT.find(fields.pop("remat"), "config.model.remat")
        return functools.partial(remat(cls, attend), **fields, kernel_init=kernel_init)

    @classmethod
    def final_norm(cls, knobs: Mapping[str, Any]) -> bool:
        """True unless `norm="post"`, which ends with a LayerNorm itself."""
        return knobs["norm"] != "post"

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

        def branch(
            name: str, y: Float[Array, "B Q D"], x: Float[Array, "B Q D"]
        ) -> Float[Array, "B Q D"]:
            y = Dropout(self.dropout)(y, train)
            if not self.gate:
                return y
            dense = nn.Dense(x.shape[-1], dtype=x.dtype, kernel_init=self.kernel_init, name=name)
            return y * nn.sigmoid(dense(x))

        normed = layer_norm(x) if self.norm != "post" else x
        mixed = attention(normed, x if self.norm == "query" else normed, rows, causal, train)
        x = take_columns(normed if self.norm == "query" else x, rows.columns)
        x = x + branch("gate_of_attention", mixed, x)
        if self.norm == "post":
            x = layer_norm(x)
            return layer_norm(x + branch("gate_of_feed_forward", feed_forward(x), x))
        normed = layer_norm(x)
        x = normed if self.norm == "query" else x
        return x + branch("gate_of_feed_forward", feed_forward(normed), x)
