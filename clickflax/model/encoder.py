"""The encoder: a stack of blocks."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float

from clickflax.model.layers import layer_norm
from clickflax.model.rows import Rows


class Encoder(nn.Module):
    """A stack of blocks over packed rows, with a LayerNorm after the last one if `final_norm`.

    `block(name=...)` makes a block; if `shared`, all layers are the same one (ALBERT: Lan et al.,
    2020). The last block computes only the states at `rows.columns`. With `distances` above 0,
    blocks get a learned vector for each distance in positions up to that number.
    """

    layers: int
    final_norm: bool
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
            rows = rows._replace(distances=self.param("distances", self.table_init, shape))
        block = None
        for i in range(self.layers):
            if block is None or not self.shared:
                block = self.block(name=f"block_{i}")
            last = i == self.layers - 1
            x = block(x, rows if last else rows._replace(columns=None), causal, train)
        return layer_norm(x, "norm") if self.final_norm else x
