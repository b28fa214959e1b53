"""Losses of a target beside N negatives.

Each takes the scores of targets [T] and of their negatives [T, N], and which of these count; a
negative that does not adds nothing, and the others weigh no more for it.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from clickflax.model.heads import Answers
from clickflax.tasks.negatives import Negatives

Loss = Callable[..., Float[Array, "..."]]


def softmax(
    own: Float[Array, "..."], others: Float[Array, "... N"], keep: Bool[Array, "... N"]
) -> Float[Array, "..."]:
    """Cross-entropy of the target among its negatives: sampled softmax."""
    others = jnp.where(keep, others, -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([own[..., None], others], -1), axis=-1) - own


def bce(
    own: Float[Array, "..."],
    others: Float[Array, "... N"],
    keep: Bool[Array, "... N"],
    beta: float = 1.0,
) -> Float[Array, "..."]:
    """Cross-entropy of yes for the target and of no for each negative, on average over the N + 1
    (SASRec: Kang and McAuley, 2018); `beta` weighs the yes.
    """
    no = jnp.where(keep, jax.nn.softplus(others), 0.0).sum(-1)
    return (beta * jax.nn.softplus(-own) + no) / (others.shape[-1] + 1)


def bpr(
    own: Float[Array, "..."], others: Float[Array, "... N"], keep: Bool[Array, "... N"]
) -> Float[Array, "..."]:
    """How likely each negative is above the target, on average (BPR: Rendle et al., 2009)."""
    return jnp.where(keep, jax.nn.softplus(others - own[..., None]), 0.0).mean(-1)


def gbce_beta(items: int, negatives: int, calibration: float) -> float:
    """The power of the yes in gBCE (gSASRec: Petrov and Macdonald, 2023): with a share `alpha` of
    the other items drawn, `alpha (t (1 - 1/alpha) + 1/alpha)`, which is 1 for t=0: BCE.

    log(sigmoid(s) ** beta) is `-beta softplus(-s)`, so that no power is ever taken.
    """
    alpha = negatives / (items - 1)
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


def first_bias(beta: float, negatives: int) -> float:
    """The bias of all items with which `bce` is least for a model that knows nothing else: the
    log-odds of a yes. From zero, the loss would first push the scores of all items down, together.
    """
    return math.log(beta / negatives)


def sampled_loss(
    answers: Answers,
    targets: Int[Array, "B K"],
    weights: Float[Array, "B K"],
    negatives: Negatives,
    loss: Loss,
    log_q: bool,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """A loss beside negatives: weighted sum, and sum of the weights.

    With `log_q` the score of a negative that is drawn N times with chance q is less by log(N q):
    then the sum that the target is divided by is on average that of the whole catalog (importance
    sampling: Bengio and Senecal, 2008). The target itself is not drawn, and not corrected.
    """
    drawn, keep = negatives
    own = answers.of(targets[..., None])[..., 0]
    others = answers.of(drawn.items)
    if log_q:
        expected = drawn.log_chance + jnp.log(float(others.shape[-1]))
        others = others - expected.reshape((1,) * (others.ndim - expected.ndim) + expected.shape)
    losses = jnp.where(weights > 0, loss(own, others, keep), 0.0)
    return (losses * weights).sum(), weights.sum()


SAMPLED_LOSSES: dict[str, Loss] = {"softmax": softmax, "bce": bce, "gbce": bce, "bpr": bpr}
