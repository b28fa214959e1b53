"""Hidden states to answers."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from clickflax.batch import RESERVED
from clickflax.model.blocks import ACTIVATIONS, layer_norm

OUTPUTS = ("dense", "none")
# Added to a score, its probability is 0. Not -inf: NaN would come of a chunk that has nothing else,
# and of a place that weighs nothing, whose target may be any item.
NEVER = -1e30
# Up to so many items for each that is wanted, the whole catalog is scored and they are picked: on
# CPU a row that is gathered, and its gradient scattered, costs far more than one in a product.
# `experiments/speed.py sasrec ... config.loss.negatives=256` measures another number.
WHOLE_CATALOG = 64


class History(NamedTuple):
    """The events before each of Q questions, of every item the last one."""

    items: Int[Array, "... L"]  # counted from 0; below 0 where there is none
    there: Bool[Array, "... L"]
    count: Int[Array, "... L"]  # events so far that have the item
    distance: Int[Array, "... L"]  # events from the last of them to the question


def history_before(
    values: Int[Array, "B L"],
    segment: Int[Array, "B L"],
    places: Int[Array, "B Q"],
    causal: bool,
) -> History:
    """What came before some columns of packed rows, in the same segment: `causal`, the event of the
    column is the last one; else it is what is asked for, even where it shows.

    Needs B L (L + Q) numbers, whatever the attention does.
    """
    known = (segment > 0) & (values >= RESERVED)
    alike = (values[:, :, None] == values[:, None, :]) & known[:, None, :]
    alike = alike & (segment[:, :, None] == segment[:, None, :])
    so_far = jnp.cumsum(alike, axis=2)  # [B, L, L]: events like this one, up to that column
    own = jnp.diagonal(so_far, axis1=1, axis2=2)  # the same up to itself
    ends = places if causal else places - 1
    upto = jnp.maximum(ends, 0)[:, None, :]
    count = jnp.swapaxes(jnp.take_along_axis(so_far, upto, axis=2), 1, 2)
    column = jnp.arange(segment.shape[1])[None, None, :]
    mine = jnp.take_along_axis(segment, places, axis=1)[:, :, None] == segment[:, None, :]
    there = mine & known[:, None, :] & (count == own[:, None, :])
    there = there & (column <= ends[:, :, None])
    distance = jnp.maximum(places[:, :, None] - column, 0)
    items = jnp.broadcast_to((values - RESERVED)[:, None, :], there.shape)
    return History(items, there, count, distance)


class Raised(NamedTuple):
    """Items whose scores are not in the factors alone: to each, none twice, something is added."""

    items: Int[Array, "... L"]  # those outside 0 ... V-1 are padding
    more: Float[Array, "... L"]

    def columns(self, start: Int[Array, ""], size: int) -> Int[Array, "... L"]:
        """Where the items stand in a chunk; one that is not there, at `size` or beyond."""
        columns = self.items - start
        return jnp.where(columns < 0, size, columns)

    def of(self, items: Int[Array, "... N"]) -> Float[Array, "... N"]:
        """What is added to N items of each question, or to the same [N] of all."""
        if items.ndim > 1:
            alike = items[..., :, None] == self.items[..., None, :]
            return jnp.where(alike, self.more[..., None, :], 0.0).sum(-1)
        # Of all questions these are thousands: to compare each with each would cost too much.
        ordered = jnp.sort(items)
        mine, more = (side.reshape(-1, side.shape[-1]) for side in self)
        column = jnp.minimum(jnp.searchsorted(ordered, mine), len(items) - 1)
        more = jnp.where(ordered[column] == mine, more, 0.0)
        found = jnp.zeros((len(mine), len(items)))  # of several that are alike, at the first one
        found = found.at[jnp.arange(len(mine))[:, None], column].add(more)
        found = found[:, jnp.searchsorted(ordered, items)]
        return found.reshape(*self.items.shape[:-1], len(items))


class Answers(NamedTuple):
    """Scores of the items in factors, so that nobody has to hold all of them at once.

    Item i has the row `first + i` of the table: where the table of the inputs is used, the rows
    before are those of the reserved ids.
    """

    features: Float[Array, "... D"]
    table: Float[Array, "N D"]
    bias: Float[Array, " V"] | None
    first: int
    raised: Raised | None = None

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
        extra = jnp.zeros(size) if self.bias is None else self.bias
        if size == self.items:
            # With ends that are known, the rows of a table that devices share stay where they are.
            start, rows = jnp.int32(0), self.table[self.first :]
        else:
            start = jnp.minimum(begin, self.items - size)
            rows = jax.lax.dynamic_slice_in_dim(self.table, self.first + start, size)
            if self.bias is not None:
                extra = jax.lax.dynamic_slice_in_dim(self.bias, start, size)
        rows = rows.astype(self.features.dtype)
        scores = jnp.matmul(self.features, rows.T, preferred_element_type=jnp.float32)
        extra = jnp.where(jnp.arange(size) >= begin - start, extra, before)
        scores = scores + extra.reshape((1,) * (scores.ndim - 1) + (-1,))
        if self.raised is not None:
            flat = scores.reshape(-1, size)
            columns = self.raised.columns(start, size).reshape(len(flat), -1)
            more = self.raised.more.reshape(len(flat), -1)
            flat = flat.at[jnp.arange(len(flat))[:, None], columns].add(more, mode="drop")
            scores = flat.reshape(scores.shape)
        return scores, rows, start

    def of(self, items: Int[Array, "... N"]) -> Float[Array, "... N"]:
        """The scores in float32 of N items for each question, or of the same [N] for all."""
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
        if self.raised is not None:
            scores = scores + self.raised.of(items)
        return scores

    def mean(self) -> Float[Array, "..."]:
        """The mean score of the items, without those that `NEVER` says are no answer."""
        bias = jnp.zeros(self.items) if self.bias is None else self.bias
        may = bias > NEVER / 2
        share = jnp.where(may, 1 / may.sum(), 0.0)
        rows = self.table[self.first :].astype(self.features.dtype)  # as scores have them
        row = share @ rows.astype(jnp.float32)
        mean = self.features.astype(jnp.float32) @ row + jnp.where(may, bias, 0.0) @ share
        if self.raised is None:
            return mean
        theirs = share.at[self.raised.items].get(mode="fill", fill_value=0)
        return mean + (theirs * self.raised.more).sum(-1)  # of padding, 0

    def scores(self) -> Float[Array, "... V"]:
        """Every score, in float32: `features @ table[first:].T + bias`, and what is added."""
        return self.chunk(jnp.int32(0), self.items, jnp.nan)[0]


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """The vectors with length 1, or less where they are shorter than 0.001."""
    square = jnp.square(x.astype(jnp.float32)).sum(-1, keepdims=True)
    return (x * jax.lax.rsqrt(square + 1e-6)).astype(x.dtype)


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

    Items that are `cold` in the collection "constants" score next to nothing: in training they
    would only be wrong answers.

    With `cosine`, answers and items have length 1; their product is divided by the `temperature`,
    then biases are added.

    With `repeat`, an item that came before scores more, or less, by what the hidden state x makes
    of how often it came and how long ago (to repeat or to explore: RepeatNet, Ren et al., 2019):
    `g_0 + g_1 log(1 + count) + g_2 log(1 + distance)` with `g = W x + b`, which is 0 at first.
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
        raised = None
        if self.repeat:
            assert past is not None
            zeros = nn.initializers.zeros  # at first nothing is added
            gates = nn.Dense(3, kernel_init=zeros, name="repeat")(x.astype(jnp.float32))
            seen, often, far = (gates[..., gate, None] for gate in range(3))
            more = seen + often * jnp.log1p(past.count) + far * jnp.log1p(past.distance)
            more = jnp.where(past.there, more, 0.0)
            raised = Raised(jnp.where(past.there, past.items, -1), more)
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
            open_to_all = jnp.zeros(self.items) if bias is None else bias
            bias = jnp.where(self.get_variable("constants", "cold"), NEVER, open_to_all)
        return Answers(x, table, bias, first, raised)
