"""Model = embedder, encoder, heads."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from clickflax.model.embedder import Embedder
from clickflax.model.encoder import Encoder
from clickflax.model.heads import Answers, History, ItemHead, LabelHead, history_before
from clickflax.model.rows import Rows


class Model(nn.Module):
    """An encoder of packed rows of events, and heads that answer."""

    embedder: Embedder
    encoder: Encoder
    head: Mapping[str, ItemHead | LabelHead]  # by the variable that is scored, or by the label
    relative_time: bool  # the times of events are compared by the encoder, not embedded

    def encode(
        self,
        variables: Mapping[str, Shaped[Array, "B L ..."]],
        segment: Int[Array, "B L"],
        position: Int[Array, "B L"],
        causal: bool,
        train: bool,
        places: Int[Array, "B Q"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """A hidden state for every event, from the events of the same segment alone; with `places`
        for the events there only.
        """
        x = self.embedder(variables, position, train)
        time = variables["time"] if self.relative_time else None
        return self.encoder(x, Rows(segment, position, time, places), causal, train)

    def past(
        self,
        variables: Mapping[str, Shaped[Array, "B L ..."]],
        segment: Int[Array, "B L"],
        causal: bool,
        places: Int[Array, "B Q"] | None,
        head: str,
    ) -> History | None:
        """What came before where it is asked, at all events without `places`, for a head that wants
        to know it.
        """
        if not getattr(self.head[head], "repeat", False):
            return None
        if places is None:
            places = jnp.broadcast_to(jnp.arange(segment.shape[1]), segment.shape)
        return history_before(variables[head], segment, places, causal)

    def answer(
        self, hidden: Float[Array, "... D"], head: str = "item", past: History | None = None
    ) -> Answers | Float[Array, "... C"]:
        """A score for every value of a variable, in factors: column i is the id i + RESERVED; or
        the logits of a label. `past` is that of the same questions.
        """
        asked = self.head[head]
        if isinstance(asked, ItemHead):
            return asked(hidden, self.embedder.table(head), past)
        return asked(hidden)
