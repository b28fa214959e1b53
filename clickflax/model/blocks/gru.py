"""The recurrent block of GRU4Rec."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from clickflax.model.blocks.base import EncoderBlock
from clickflax.model.dropout import Dropout
from clickflax.model.rows import Rows, take_columns


class GRUBlock(EncoderBlock):
    """A layer of gated recurrent units (GRU4Rec: Hidasi et al., 2016).

    The state is reset at the start of each sequence of a row. It is computed in float32, where
    small updates are not rounded away; recurrent kernels are initialised orthogonal.
    """

    knobs = ("dropout",)
    causal_only = True

    dropout: float
    kernel_init: nn.initializers.Initializer

    @classmethod
    def final_norm(cls, knobs: Mapping[str, Any]) -> bool:
        """False: GRU4Rec has no LayerNorm."""
        return False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], rows: Rows, causal: bool, train: bool
    ) -> Float[Array, "B Q D"]:
        def step(
            cell: nn.GRUCell, state: Float[Array, "B D"], now: tuple[Array, Bool[Array, " B"]]
        ) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
            event, begins = now
            return cell(jnp.where(begins[:, None], 0.0, state), event)

        scan = nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        cell = nn.GRUCell(x.shape[-1], kernel_init=self.kernel_init, name="cell")
        begins = jnp.diff(rows.segment, axis=1, prepend=-1) != 0
        events = x.astype(jnp.float32)
        _, y = scan(cell, jnp.zeros_like(events[:, 0]), (events, begins))
        return take_columns(Dropout(self.dropout)(y.astype(x.dtype), train), rows.columns)
