"""Hidden states to answers."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from clickflax.model.encoder import ACTIVATIONS, layer_norm

OUTPUTS = ("dense", "none")
# Added to a score, its probability is 0. Not -inf: NaN would come of a chunk that has nothing else,
# and of a place that weighs nothing, whose target may be any item.
NEVER = -1e30


class Answers(NamedTuple):
    """Scores of the items in factors, so that nobody has to hold all of them at once.

    Item i has the row `first + i` of the table: where the table of the inputs is used, the rows
    before are those of the reserved ids, and a slice without them would be a copy.
    """

    features: Float[Array, "... D"]
    table: Float[Array, "N D"]
    bias: Float[Array, " V"] | None
    first: int

    @property
    def items(self) -> int:
        """How many items there are."""
        return self.table.shape[0] - self.first

    def chunk(
        self, begin: Int[Array, ""], size: int, before: float
    ) -> tuple[Float[Array, "... C"], Float[Array, "C D"], Int[Array, ""]]:
        """The scores of `size` items in float32, their rows of the table, and the first of them.

        These are the items from `begin` on; where fewer are left, the last ones, and those before
        `begin` score `before`, which is -inf or NaN.
        """
        start = jnp.minimum(begin, self.items - size)
        rows = jax.lax.dynamic_slice_in_dim(self.table, self.first + start, size)
        rows = rows.astype(self.features.dtype)
        scores = jnp.matmul(self.features, rows.T, preferred_element_type=jnp.float32)
        extra = jnp.zeros(size)
        if self.bias is not None:
            extra = jax.lax.dynamic_slice_in_dim(self.bias, start, size)
        extra = jnp.where(jnp.arange(size) >= begin - start, extra, before)
        return scores + extra.reshape((1,) * (scores.ndim - 1) + (-1,)), rows, start

    def scores(self) -> Float[Array, "... V"]:
        """Every score, in float32: `features @ table[first:].T + bias`."""
        return self.chunk(jnp.int32(0), self.items, jnp.nan)[0]


class LabelHead(nn.Module):
    """Logits of a label: dense, activation, LayerNorm, then one for each class; one alone is that
    of a yes, or a number.
    """

    outputs: int
    width: int
    activation: str
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... C"]:
        x = nn.Dense(self.width, dtype=x.dtype, kernel_init=self.kernel_init, name="dense")(x)
        x = layer_norm(ACTIVATIONS[self.activation](x), "norm").astype(jnp.float32)
        return nn.Dense(self.outputs, kernel_init=self.kernel_init, name="out")(x)


class ItemHead(nn.Module):
    """A score for every item of the catalog, or for every value of another variable; reserved ids
    have none.

    `output="dense"` is BERT4Rec's output layer (Sun et al., 2019): dense, activation, LayerNorm,
    then the table of the inputs and a bias; `"none"` is SASRec's: the table alone.

    Items that the collection "given" says are `cold` score next to nothing: in training, where they
    would be nothing but wrong answers.
    """

    items: int
    width: int
    output: str
    bias: bool
    tied: bool
    activation: str
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "... D"], table: Float[Array, "N W"]) -> Answers:
        if self.output == "dense":
            x = nn.Dense(self.width, dtype=x.dtype, kernel_init=self.kernel_init, name="dense")(x)
            x = layer_norm(ACTIVATIONS[self.activation](x), "norm")
        if not self.tied:
            table = self.param("table", self.kernel_init, (self.items, self.width))
        first = table.shape[0] - self.items
        bias = self.param("bias", nn.initializers.zeros, (self.items,)) if self.bias else None
        if self.has_variable("given", "cold"):
            open_to_all = jnp.zeros(self.items) if bias is None else bias
            bias = jnp.where(self.get_variable("given", "cold"), NEVER, open_to_all)
        return Answers(x, table, bias, first)
