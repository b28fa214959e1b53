"""A loss with sampled negatives in one file: the hinge loss with a margin of 1.

import my_sampled_loss  # in a config file, with c.loss.name = "hinge" and c.loss.negatives = 64
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from clickflax.tasks.sampled_losses import SAMPLED_LOSSES


@SAMPLED_LOSSES.register("hinge")
def hinge(
    own: Float[Array, "..."], others: Float[Array, "... N"], keep: Bool[Array, "... N"]
) -> Float[Array, "..."]:
    """How far each negative is above the target minus 1, the mean of the N."""
    return jnp.where(keep, jax.nn.relu(1 + others - own[..., None]), 0.0).mean(-1)
