"""Base class of blocks.

A block is a flax module in a file of its own. Its class states which knobs of `config.model` it
takes and what it supports, so that no other code compares names of blocks.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from clickflax.model.embedder import ADDED
from clickflax.model.rows import Rows


class EncoderBlock(nn.Module):
    """One layer of the encoder: mixes the events of each sequence.

    A block returns states at `rows.columns`, or at all columns if that is None. A state may depend
    only on events of its own segment and, if `causal`, on no later event. The encoder adds nothing
    to the result, so a residual connection is up to the block.
    """

    # The knobs of config.model that the block takes. They are fields of the module, unless
    # `from_config` makes something else of them.
    knobs: ClassVar[tuple[str, ...]] = ()
    # The values of config.model.positions that the block supports.
    position_kinds: ClassVar[tuple[str, ...]] = (*ADDED, "none")
    # True for a block that never sees later events, even if `causal` is False.
    causal_only: ClassVar[bool] = False

    @classmethod
    def from_config(
        cls, knobs: Mapping[str, Any], kernel_init: nn.initializers.Initializer
    ) -> Callable[..., nn.Module]:
        """Returns a constructor `make(name=...)` from the values of the block's knobs.

        Raises ValueError for values that do not go together.
        """
        return functools.partial(cls, **knobs, kernel_init=kernel_init)

    @classmethod
    def final_norm(cls, knobs: Mapping[str, Any]) -> bool:
        """Whether a stack of these blocks needs a LayerNorm after the last one."""
        return True

    def __call__(
        self, x: Float[Array, "B L D"], rows: Rows, causal: bool, train: bool
    ) -> Float[Array, "B Q D"]:
        """States after this layer."""
        raise NotImplementedError
