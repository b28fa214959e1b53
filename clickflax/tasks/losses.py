"""How wrong the answers are: a sum and the weight that it is to be divided by."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def softmax_loss(
    scores: Float[Array, "B K V"], targets: Int[Array, "B K"], weights: Float[Array, "B K"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy over the whole catalog, in nats: weighted sum, and sum of the weights."""
    total = jax.nn.logsumexp(scores, axis=-1)
    chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    return ((total - chosen) * weights).sum(), weights.sum()
