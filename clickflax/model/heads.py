"""Heads: hidden states to scores of items, or logits of labels."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from clickflax.batch import RESERVED
from clickflax.model.layers import ACTIVATIONS, layer_norm

OUTPUTS = ("dense", "none")
# Added to a score, its probability is 0. -inf would give NaN in a chunk that has nothing else, and
# for a padded target, which may be any item.
NEVER = -1e30
# Some items are scored by scoring the whole catalog if it has up to this many items for each of
# them: on CPU, gathering a row and scattering its gradient costs far more than a row of a product.
# `experiments/speed.py sasrec ... config.loss.negatives=256` measures other values.
WHOLE_CATALOG = 64


class History(NamedTuple):
    """The events before each of Q columns: the last one of every item."""

    items: Int[Array, "... L"]  # counted from 0; below 0 for none
    valid: Bool[Array, "... L"]
    count: Int[Array, "... L"]  # events of this item so far
    distance: Int[Array, "... L"]  # from the last of them to the column


def history_before(
    values: Int[Array, "B L"],
    segment: Int[Array, "B L"],
    columns: Int[Array, "B Q"],
    causal: bool,
) -> History:
    """The history at some columns of packed rows, in the same segment.

    If `causal`, it includes the event of the column; otherwise that event is the target, and left
    out even if it is not masked. Takes B L (L + Q) numbers of memory.
    """
    known = (segment > 0) & (values >= RESERVED)
    equal = (values[:, :, None] == values[:, None, :]) & known[:, None, :]
    equal = equal & (segment[:, :, None] == segment[:, None, :])
    so_far = jnp.cumsum(equal, axis=2)  # [B, L, L]: events of the same item, up to each column
    own = jnp.diagonal(so_far, axis1=1, axis2=2)  # up to the event itself
    ends = columns if causal else columns - 1
    upto = jnp.maximum(ends, 0)[:, None, :]
    count = jnp.swapaxes(jnp.take_along_axis(so_far, upto, axis=2), 1, 2)
    column = jnp.arange(segment.shape[1])[None, None, :]
    same = jnp.take_along_axis(segment, columns, axis=1)[:, :, None] == segment[:, None, :]
    valid = same & known[:, None, :] & (count == own[:, None, :])
    valid = valid & (column <= ends[:, :, None])
    distance = jnp.maximum(columns[:, :, None] - column, 0)
    items = jnp.broadcast_to((values - RESERVED)[:, None, :], valid.shape)
    return History(items, valid, count, distance)


class Bonus(NamedTuple):
    """Numbers that are added to the factored scores of some items, no item twice."""

    items: Int[Array, "... L"]  # those outside 0 ... V-1 are padding
    values: Float[Array, "... L"]

    def columns(self, start: Int[Array, ""], size: int) -> Int[Array, "... L"]:
        """Columns of the items in a chunk; `size` or more for an item that is not in it."""
        columns = self.items - start
        return jnp.where(columns < 0, size, columns)

    def of(self, items: Int[Array, "... N"]) -> Float[Array, "... N"]:
        """The numbers to add to N items of each state, or to the same [N] items of all."""
        if items.ndim > 1:
            equal = items[..., :, None] == self.items[..., None, :]
            return jnp.where(equal, self.values[..., None, :], 0.0).sum(-1)
        # Items of all states can be thousands: comparing all pairs would cost too much.
        ordered = jnp.sort(items)
        own, values = (side.reshape(-1, side.shape[-1]) for side in self)
        column = jnp.minimum(jnp.searchsorted(ordered, own), len(items) - 1)
        values = jnp.where(ordered[column] == own, values, 0.0)
        added = jnp.zeros((len(own), len(items)))  # an item that is listed twice: at the first
        added = added.at[jnp.arange(len(own))[:, None], column].add(values)
        added = added[:, jnp.searchsorted(ordered, items)]
        return added.reshape(*self.items.shape[:-1], len(items))


class Answers(NamedTuple):
    """Scores of all items in factors, so that they need not be in memory at once.

    Item i has the row `first + i` of the table: in the table of the inputs, reserved ids come
    first.
    """

    features: Float[Array, "... D"]
    table: Float[Array, "N D"]
    bias: Float[Array, " V"] | None
    first: int
    bonus: Bonus | None = None

    @property
    def items(self) -> int:
        """The number of items."""
        return self.table.shape[0] - self.first

    def chunk(
        self, begin: Int[Array, ""], size: int, before: float
    ) -> tuple[Float[Array, "... C"], Float[Array, "C D"], Int[Array, ""]]:
        """The scores of `size` items in float32, their rows of the table, and the first item.

        These are the items from `begin` on. If fewer are left, they are the last `size` items, and
        those before `begin` have the score `before`, which is -inf or NaN.
        """
        extra = jnp.zeros(size) if self.bias is None else self.bias
        if size == self.items:
            # With static bounds, the rows of a sharded table stay on their devices.
            start = jnp.int32(0)
            rows = self.table[self.first :]
        else:
            start = jnp.minimum(begin, self.items - size)
            rows = jax.lax.dynamic_slice_in_dim(self.table, self.first + start, size)
            if self.bias is not None:
                extra = jax.lax.dynamic_slice_in_dim(self.bias, start, size)
        rows = rows.astype(self.features.dtype)
        scores = jnp.matmul(self.features, rows.T, preferred_element_type=jnp.float32)
        extra = jnp.where(jnp.arange(size) >= begin - start, extra, before)
        scores = scores + extra.reshape((1,) * (scores.ndim - 1) + (-1,))
        if self.bonus is not None:
            flat = scores.reshape(-1, size)
            columns = self.bonus.columns(start, size).reshape(len(flat), -1)
            values = self.bonus.values.reshape(len(flat), -1)
            flat = flat.at[jnp.arange(len(flat))[:, None], columns].add(values, mode="drop")
            scores = flat.reshape(scores.shape)
        return scores, rows, start

    def of(self, items: Int[Array, "... N"]) -> Float[Array, "... N"]:
        """The scores in float32 of N items for each state, or of the same [N] items for all."""
        if items.ndim == 1:
            rows = self.table[self.first + items].astype(self.features.dtype)
            scores = jnp.matmul(self.features, rows.T, preferred_element_type=jnp.float32)
        elif self.items <= WHOLE_CATALOG * items.shape[-1]:
            rows = self.table[self.first :].astype(self.features.dtype)
            scores = jnp.matmul(self.features, rows.T, preferred_element_type=jnp.float32)
            scores = jnp.take_along_axis(scores, items, axis=-1)
        else:
            rows = self.table[self.first + items].astype(self.features.dtype)
            precise = {"preferred_element_type": jnp.float32}
            scores = jnp.einsum("...d,...nd->...n", self.features, rows, **precise)
        if self.bias is not None:
            lead = (1,) * (scores.ndim - items.ndim)
            scores = scores + self.bias[items].reshape(*lead, *items.shape)
        if self.bonus is not None:
            scores = scores + self.bonus.of(items)
        return scores

    def mean(self) -> Float[Array, "..."]:
        """The mean score of the items, without those with a bias of `NEVER`."""
        bias = jnp.zeros(self.items) if self.bias is None else self.bias
        possible = bias > NEVER / 2
        share = jnp.where(possible, 1 / possible.sum(), 0.0)
        rows = self.table[self.first :].astype(self.features.dtype)  # as scores have them
        row = share @ rows.astype(jnp.float32)
        mean = self.features.astype(jnp.float32) @ row + jnp.where(possible, bias, 0.0) @ share
        if self.bonus is None:
            return mean
        # Padding has a share of 0.
        shares = share.at[self.bonus.items].get(mode="fill", fill_value=0)
        return mean + (shares * self.bonus.values).sum(-1)

    def scores(self) -> Float[Array, "... V"]:
        """All scores in float32: `features @ table[first:].T + bias`, plus the bonus."""
        return self.chunk(jnp.int32(0), self.items, jnp.nan)[0]


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """The vectors scaled to length 1; those shorter than 0.001 stay shorter."""
    square = jnp.square(x.astype(jnp.float32)).sum(-1, keepdims=True)
    return (x * jax.lax.rsqrt(square + 1e-6)).astype(x.dtype)


class LabelHead(nn.Module):
    """Logits of a label: dense, activation, LayerNorm, then a dense layer to `outputs`.

    There is one output per class; a binary label or a number has a single one.
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
    """Scores of all items of the catalog, or of all values of another variable, without reserved
    ids.

    `output="dense"` is BERT4Rec's output layer (Sun et al., 2019): dense, activation, LayerNorm,
    then the table of the inputs and a bias; `"none"` is SASRec's: the table alone.

    Items that are `cold` in the collection "constants" get the score `NEVER`: in training, where
    they could only be negatives.

    With `cosine`, states and items are scaled to length 1; their product is divided by the
    `temperature`, then biases are added.

    With `repeat`, items of the history get a bonus that depends on how often and how long ago they
    came (to repeat or to explore: RepeatNet, Ren et al., 2019):
    `g_0 + g_1 log(1 + count) + g_2 log(1 + distance)` with `g = W x + b`, initialised to 0.
    """

    items: int
    width: int
    output: str
    bias: bool
    tied: bool
    cosine: bool
    temperature: float
    repeat: bool
    activation: str
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "... D"], table: Float[Array, "N W"], past: History | None
    ) -> Answers:
        bonus = None
        if self.repeat:
            assert past is not None
            zeros = nn.initializers.zeros
            gates = nn.Dense(3, kernel_init=zeros, name="repeat")(x.astype(jnp.float32))
            seen, often, far = (gates[..., gate, None] for gate in range(3))
            values = seen + often * jnp.log1p(past.count) + far * jnp.log1p(past.distance)
            values = jnp.where(past.valid, values, 0.0)
            bonus = Bonus(jnp.where(past.valid, past.items, -1), values)
        if self.output == "dense":
            x = nn.Dense(self.width, dtype=x.dtype, kernel_init=self.kernel_init, name="dense")(x)
            x = layer_norm(ACTIVATIONS[self.activation](x), "norm")
        if not self.tied:
            table = self.param("table", self.kernel_init, (self.items, self.width))
        if self.cosine:
            x, table = unit(x), unit(table)
        x = x / jnp.asarray(self.temperature, x.dtype)
        first = table.shape[0] - self.items
        bias = self.param("bias", nn.initializers.zeros, (self.items,)) if self.bias else None
        if self.has_variable("constants", "cold"):
            warm = jnp.zeros(self.items) if bias is None else bias
            bias = jnp.where(self.get_variable("constants", "cold"), NEVER, warm)
        return Answers(x, table, bias, first, bonus)
