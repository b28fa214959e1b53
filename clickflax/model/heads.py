"""Hidden states to answers."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from clickflax.model.encoder import ACTIVATIONS, layer_norm

OUTPUTS = ("dense", "none")


class Answers(NamedTuple):
    """Scores of the items in factors, so that nobody has to hold all of them at once.

    Item i has the row `first + i` of the table: where the table of the inputs is used, the rows
    before are those of the reserved ids, and a slice without them would be a copy.
    """

    features: Float[Array, "... D"]
    table: Float[Array, "N D"]
    bias: Float[Array, " V"] | None
    first: int

    def scores(self) -> Float[Array, "... V"]:
        """Every score, in float32: `features @ table[first:].T + bias`."""
        rows = self.table[self.first :].astype(self.features.dtype)
        scores = jnp.matmul(self.features, rows.T, preferred_element_type=jnp.float32)
        if self.bias is None:
            return scores
        return scores + self.bias.reshape((1,) * (scores.ndim - 1) + (-1,))


class ItemHead(nn.Module):
    """A score for every item of the catalog; reserved ids have none.

    `output="dense"` is BERT4Rec's output layer (Sun et al., 2019): dense, activation, LayerNorm,
    then the table of the inputs and a bias; `"none"` is SASRec's: the table alone.
    """

    items: int
    width: int
    output: str
    bias: bool
    tied: bool
    activation: str
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "... D"], table: Float[Array, "N D"]) -> Answers:
        if self.output == "dense":
            x = nn.Dense(self.width, dtype=x.dtype, kernel_init=self.kernel_init, name="dense")(x)
            x = layer_norm(ACTIVATIONS[self.activation](x), "norm")
        if not self.tied:
            table = self.param("table", self.kernel_init, (self.items, self.width))
        first = table.shape[0] - self.items
        bias = self.param("bias", nn.initializers.zeros, (self.items,)) if self.bias else None
        return Answers(x, table, bias, first)
