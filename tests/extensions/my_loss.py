"""A loss over the whole catalog in one file: softmax with the focal factor (Lin et al., 2017).

clickflax train --extension my_loss.py --config=FILE --workdir=DIR --config.loss.name=focal
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
    """-(1 - p)^2 log p of the target: weighted sum, and sum of the weights.

    B rows have K targets each, items from 0 on; the weight is 0 where nothing is predicted. `chunk`
    is the number of items to score at once, so that memory is bounded.
    """
    if chunk not in (0, answers.items) or smoothing:
        raise ValueError(
            "loss 'focal' scores all items at once: set config.train.softmax_chunk="
            f"{answers.items} and config.loss.smoothing=0."
        )
    log_p = jax.nn.log_softmax(answers.scores())
    log_p = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    losses = -jnp.square(1 - jnp.exp(log_p)) * log_p
    return (losses * weights).sum(), weights.sum()
