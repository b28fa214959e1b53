"""The one stack of blocks."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from clickflax.model.blocks import Block, layer_norm
from clickflax.model.rows import Rows

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
    """A stack of blocks over packed rows; `last_norm`: it ends with a LayerNorm.

    `block(name=...)` makes one of them; `shared`: all are the same one (ALBERT: Lan et al., 2020).
    Where states are asked for at some places only, the last block computes no others. With
    `distances`, blocks are given a vector for each distance in places up to so many.
    """

    layers: int
    last_norm: bool
    shared: bool
    distances: int
    block: Callable[..., nn.Module]
    table_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], rows: Rows, causal: bool, train: bool
    ) -> Float[Array, "B Q D"]:
        if self.distances:
            shape = (2 * self.distances - 1, x.shape[-1])
            rows = rows._replace(relative=self.param("distances", self.table_init, shape))
        block = None
        for i in range(self.layers):
            if block is None or not self.shared:
                block = self.block(name=f"block_{i}")
            last = i == self.layers - 1
            x = block(x, rows if last else rows._replace(places=None), causal, train)
        return layer_norm(x, "norm") if self.last_norm else x
