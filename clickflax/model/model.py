"""Model = embedder, encoder, heads."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float, Int

from clickflax.model.embedder import Embedder
from clickflax.model.encoder import Encoder
from clickflax.model.heads import Answers, ItemHead


class Model(nn.Module):
    """A transformer over packed rows of events."""

    embedder: Embedder
    encoder: Encoder
    head: ItemHead

    def encode(
        self,
        variables: Mapping[str, Int[Array, "B L"]],
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
        return self.encoder(x, segment, causal, train, places)

    def answer(self, hidden: Float[Array, "... D"]) -> Answers:
        """A score for every item, in factors: column i is the id i + RESERVED."""
        return self.head(hidden, self.embedder.item_table())
