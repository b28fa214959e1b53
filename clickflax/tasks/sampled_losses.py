"""Losses with N sampled negatives.

Each takes the scores of the targets [T] and of their negatives [T, N], and a mask of the negatives
that count. A negative that does not count adds nothing, and the others weigh no more for it.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from clickflax.batch import Registry
from clickflax.model.heads import Answers
from clickflax.tasks.negatives import Negatives

Loss = Callable[..., Float[Array, "..."]]


def softmax(
    own: Float[Array, "..."], others: Float[Array, "... N"], keep: Bool[Array, "... N"]
) -> Float[Array, "..."]:
    """Sampled softmax: cross-entropy of the target among its negatives."""
    others = jnp.where(keep, others, -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([own[..., None], others], -1), axis=-1) - own


def bce(
    own: Float[Array, "..."],
    others: Float[Array, "... N"],
    keep: Bool[Array, "... N"],
    beta: float = 1.0,
) -> Float[Array, "..."]:
    """Binary cross-entropy of the target and of each negative, the mean of the N + 1 (SASRec: Kang
    and McAuley, 2018); the term of the target is multiplied by `beta`.
    """
    no = jnp.where(keep, jax.nn.softplus(others), 0.0).sum(-1)
    return (beta * jax.nn.softplus(-own) + no) / (others.shape[-1] + 1)


def bpr(
    own: Float[Array, "..."], others: Float[Array, "... N"], keep: Bool[Array, "... N"]
) -> Float[Array, "..."]:
    """BPR (Rendle et al., 2009): -log sigmoid of target minus negative, the mean of the N."""
    return jnp.where(keep, jax.nn.softplus(others - own[..., None]), 0.0).mean(-1)


def gbce_beta(items: int, negatives: int, calibration: float) -> float:
    """The power beta of gBCE (gSASRec: Petrov and Macdonald, 2023), where the target has the
    probability sigmoid(s) ** beta.

    With a share `alpha` of the other items drawn it is `alpha (t (1 - 1/alpha) + 1/alpha)`; for
    t = 0 it is 1, which is BCE. log(sigmoid(s) ** beta) is computed as `-beta softplus(-s)`.
    """
    alpha = negatives / (items - 1)
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


def first_bias(beta: float, negatives: int) -> float:
    """The bias of all items that minimises `bce` for a model that knows nothing else: the log-odds
    of a target. From zero, the loss would first push down the scores of all items together.
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
    """A loss with negatives: weighted sum, and sum of the weights.

    With `log_q`, log(N q) is subtracted from the score of a negative that is drawn N times with
    probability q, so that the expected normaliser is that of the whole catalog (importance
    sampling: Bengio and Senecal, 2008). The target is not drawn, and not corrected.
    """
    drawn, keep = negatives
    own = answers.of(targets[..., None])[..., 0]
    others = answers.of(drawn.items)
    if log_q:
        expected = drawn.log_chance + jnp.log(float(others.shape[-1]))
        others = others - expected.reshape((1,) * (others.ndim - expected.ndim) + expected.shape)
    losses = jnp.where(weights > 0, loss(own, others, keep), 0.0)
    return (losses * weights).sum(), weights.sum()


# By `config.loss.name`, where `config.loss.negatives` is not 0.
SAMPLED_LOSSES: Registry[Loss] = Registry(
    "loss with negatives", {"softmax": softmax, "bce": bce, "gbce": bce, "bpr": bpr}
)


def choose_sampled_loss(
    name: str, items: int, negatives: int, calibration: float
) -> tuple[Loss, float]:
    """The loss of a name for a catalog of `items`, and the bias that items begin with."""
    loss = SAMPLED_LOSSES.find(name, "config.loss.name")
    if loss is not bce:
        return loss, 0.0
    beta = gbce_beta(items, negatives, calibration) if name == "gbce" else 1.0
    return functools.partial(bce, beta=beta), first_bias(beta, negatives)
