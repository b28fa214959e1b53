"""Hidden states to answers."""

import flax.linen as nn
from jaxtyping import Array, Float

from clickflax.model.encoder import ACTIVATIONS

OUTPUTS = ("dense", "none")


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
    def __call__(
        self, x: Float[Array, "... D"], table: Float[Array, "V D"]
    ) -> Float[Array, "... V"]:
        if self.output == "dense":
            x = nn.Dense(self.width, kernel_init=self.kernel_init, name="dense")(x)
            x = nn.LayerNorm(name="norm")(ACTIVATIONS[self.activation](x))
        if not self.tied:
            table = self.param("table", self.kernel_init, (self.items, self.width))
        scores = x @ table.T
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.items,))
            scores = scores + bias.reshape((1,) * (scores.ndim - 1) + (-1,))
        return scores
