"""The model: embedder, encoder and heads."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from clickflax.model.embedder import Embedder
from clickflax.model.encoder import Encoder
from clickflax.model.heads import Answers, History, ItemHead, LabelHead, history_before
from clickflax.model.rows import Rows


class Model(nn.Module):
    """An encoder of packed rows of events, with heads for the tasks."""

    embedder: Embedder
    encoder: Encoder
    head: Mapping[str, ItemHead | LabelHead]  # by variable that is scored, or by label
    relative_time: bool  # the encoder compares the times of events; they are not embedded

    def encode(
        self,
        variables: Mapping[str, Shaped[Array, "B L ..."]],
        segment: Int[Array, "B L"],
        position: Int[Array, "B L"],
        causal: bool,
        train: bool,
        columns: Int[Array, "B Q"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """Hidden states of the events at `columns` of each row, or of all events.

        A state depends only on events of the same segment.
        """
        x = self.embedder(variables, position, train)
        time = variables["time"] if self.relative_time else None
        return self.encoder(x, Rows(segment, position, time, columns), causal, train)

    def past(
        self,
        variables: Mapping[str, Shaped[Array, "B L ..."]],
        segment: Int[Array, "B L"],
        causal: bool,
        columns: Int[Array, "B Q"] | None,
        head: str,
    ) -> History | None:
        """The events before each of `columns`, or before all, if the head uses them."""
        if not getattr(self.head[head], "repeat", False):
            return None
        if columns is None:
            columns = jnp.broadcast_to(jnp.arange(segment.shape[1]), segment.shape)
        return history_before(variables[head], segment, columns, causal)

    def answer(
        self, hidden: Float[Array, "... D"], head: str = "item", past: History | None = None
    ) -> Answers | Float[Array, "... C"]:
        """Output of a head: factored scores of all values of a variable, or the logits of a label.

        Column i of the scores is the id i + RESERVED. `past` is the history of the same events.
        """
        module = self.head[head]
        if isinstance(module, ItemHead):
            return module(hidden, self.embedder.table(head), past)
        return module(hidden)
