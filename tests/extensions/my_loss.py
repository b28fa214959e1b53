"""A loss over the whole catalog in one file: softmax with the focal factor (Lin et al., 2017).

import my_loss  # in a config file, with c.loss.name = "focal"
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from clickflax.model.heads import Answers
from clickflax.tasks.losses import CATALOG_LOSSES


@CATALOG_LOSSES.register("focal")
def focal_loss(
    answers: Answers,
    targets: Int[Array, "B K"],
    weights: Float[Array, "B K"],
    chunk: int,
    smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """-(1 - p)^2 log p of the target: weighted sum, and sum of the weights."""
    if chunk not in (0, answers.items) or smoothing:
        raise ValueError("loss 'focal' needs config.train.softmax_chunk=0 and no smoothing.")
    log_p = jax.nn.log_softmax(answers.scores())
    log_p = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    losses = -jnp.square(1 - jnp.exp(log_p)) * log_p
    return (losses * weights).sum(), weights.sum()
