"""How wrong the answers are: a sum and the weight that it is to be divided by."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from clickflax.model.heads import Answers


def softmax_loss(
    answers: Answers, targets: Int[Array, "B K"], weights: Float[Array, "B K"], chunk: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy over the whole catalog, in nats: weighted sum, and sum of the weights.

    Scores of `chunk` items (0: of all) are held at once, and in chunks they are computed a second
    time for the gradient; the numbers do not depend on it, but for rounding. Sums are float32
    whatever the features are.
    """
    size = min(chunk or answers.items, answers.items)
    x = answers.features.reshape(-1, answers.features.shape[-1])
    factors = (x, answers.table, answers.bias)
    loss: Any = _cross_entropy(answers.first, size, factors, targets.ravel(), weights.ravel())
    return loss, weights.sum()


def binary_loss(
    logits: Float[Array, "B K 1"],
    targets: Float[Array, "B K"],
    weights: Float[Array, "B K"],
    positive: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of yes and no, in nats: weighted sum, and sum of the weights.

    The loss of a yes counts `positive` times; the sum of the weights does not.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits[..., 0], targets)
    return (losses * weights * (1 + (positive - 1) * targets)).sum(), weights.sum()


def class_loss(
    logits: Float[Array, "B K C"], targets: Float[Array, "B K"], weights: Float[Array, "B K"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of several classes, in nats: weighted sum, and sum of the weights."""
    classes = targets.astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    return (losses * weights).sum(), weights.sum()


def number_loss(
    logits: Float[Array, "B K 1"], targets: Float[Array, "B K"], weights: Float[Array, "B K"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Half of the squared error: weighted sum, and sum of the weights."""
    return (optax.l2_loss(logits[..., 0], targets) * weights).sum(), weights.sum()


LABEL_LOSSES = {"binary": binary_loss, "classes": class_loss, "number": number_loss}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy(
    first: int, size: int, factors: Any, targets: Int[Array, " T"], weights: Float[Array, " T"]
) -> Float[Array, ""]:
    """The weighted sum for `factors`, which are features [T, D], table [N, D] and bias [V] or None.

    Autodiff would keep the scores, and pass over them, and over a transposed copy, many times more
    than `_forward`, which makes the gradient while they are at hand.
    """
    x, table, bias = factors
    total, own = _totals(Answers(x, table, bias, first), size, targets)
    return ((total - own) * weights).sum()


def _forward(
    first: int, size: int, factors: Any, targets: Int[Array, " T"], weights: Float[Array, " T"]
) -> tuple[Float[Array, ""], Any]:
    """The loss, and its gradients with respect to the factors."""
    x, table, bias = factors
    answers = Answers(x, table, bias, first)
    if size == answers.items:
        scores, rows, _ = answers.chunk(jnp.int32(0), size, -jnp.inf)
        own = jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]
        top = scores.max(-1)
        e = jnp.exp(scores - top[:, None])
        sums = e.sum(-1)
        total = top + jnp.log(sums)
        dx, drows, db = _gradients(e, weights / sums, x, rows)
        dtable = jnp.pad(drows, ((first, 0), (0, 0)))
    else:
        total, own = _totals(answers, size, targets)

        def add(sums: Any, begin: Int[Array, ""]) -> tuple[Any, None]:
            dx, dtable, db = sums
            scores, rows, start = answers.chunk(begin, size, -jnp.inf)
            more, drows, column = _gradients(jnp.exp(scores - total[:, None]), weights, x, rows)
            dtable, db = _add_at(dtable, drows, start + first), _add_at(db, column, start)
            return (dx + more, dtable, db), None

        zero = (jnp.zeros(x.shape), jnp.zeros(table.shape), jnp.zeros(answers.items))
        (dx, dtable, db), _ = jax.lax.scan(add, zero, jnp.arange(0, answers.items, size))
    # The targets themselves, of which the products above know nothing.
    w = weights[:, None]
    dx = dx - table[targets + first].astype(x.dtype).astype(jnp.float32) * w
    dtable = dtable.at[targets + first].add(-x.astype(jnp.float32) * w)
    db = None if bias is None else db.at[targets].add(-weights)
    return ((total - own) * weights).sum(), (dx.astype(x.dtype), dtable, db)


def _backward(first: int, size: int, gradients: Any, g: Float[Array, ""]) -> tuple[Any, None, None]:
    """Targets have no gradient, and nobody asks for that of the weights."""

    def scaled(x: Float[Array, "..."]) -> Float[Array, "..."]:
        return (x.astype(jnp.float32) * g).astype(x.dtype)

    return jax.tree.map(scaled, gradients), None, None


_cross_entropy.defvjp(_forward, _backward)


def _totals(
    answers: Answers, size: int, targets: Int[Array, " T"]
) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
    """The log-sum-exp of all scores, with a running maximum (Milakov and Gimelshein, 2018), and the
    target's score out of the same products, so that it is never above the sum.
    """

    def add(carry: tuple[Array, ...], begin: Int[Array, ""]) -> tuple[tuple[Array, ...], None]:
        top, sums, own = carry
        scores, _, start = answers.chunk(begin, size, -jnp.inf)
        higher = jnp.maximum(top, scores.max(-1))
        sums = sums * jnp.exp(top - higher) + jnp.exp(scores - higher[:, None]).sum(-1)
        here = (targets >= begin) & (targets < begin + size)
        column = jnp.where(here, targets - start, 0)
        found = jnp.take_along_axis(scores, column[:, None], axis=1)[:, 0]
        return (higher, sums, jnp.where(here, found, own)), None

    nothing = jnp.zeros(answers.features.shape[0])
    begins = jnp.arange(0, answers.items, size)
    (top, sums, own), _ = jax.lax.scan(add, (nothing - jnp.inf, nothing, nothing), begins)
    return top + jnp.log(sums), own


def _gradients(
    e: Float[Array, "T C"],
    weights: Float[Array, " T"],
    x: Float[Array, "T D"],
    rows: Float[Array, "C D"],
) -> tuple[Float[Array, "T D"], Float[Array, "C D"], Float[Array, " C"]]:
    """What the probabilities `e * weights` add to the gradients of features, rows and biases.

    The weights go to the narrow side of the products; a sum over the columns of `e` by itself is
    slow on CPU, so the biases are one more row of the second product.
    """
    e = e.astype(x.dtype)
    dx = jnp.matmul(e, rows, preferred_element_type=jnp.float32) * weights[:, None]
    narrow = weights[:, None].astype(x.dtype)
    sides = jnp.concatenate([x * narrow, narrow], axis=1)
    both = jnp.matmul(sides.T, e, preferred_element_type=jnp.float32)
    return dx, both[:-1].T, both[-1]


def _add_at(whole: Array, part: Array, begin: Int[Array, ""]) -> Array:
    """`whole` with `part` added from row `begin` on."""
    sums = jax.lax.dynamic_slice_in_dim(whole, begin, part.shape[0]) + part
    return jax.lax.dynamic_update_slice_in_dim(whole, sums, begin, 0)
