"""How wrong the answers are: a sum and the weight that it is to be divided by."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from clickflax.model.heads import NEVER, Answers


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
    near, gift = None, 0.0
    if answers.raised is not None:
        items, more = answers.raised
        near = (_scores_near(answers).reshape(len(x), -1), more.reshape(len(x), -1))
        gift = jnp.where(items == targets[..., None], more, 0.0).sum(-1)
    first, targets, flat = answers.first, targets.ravel(), weights.ravel()
    loss: Any = _cross_entropy(first, size, factors, near, targets, flat)
    return loss - (gift * weights).sum(), weights.sum()


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


def _scores_near(answers: Answers) -> Float[Array, "B K L"]:
    """The scores of the raised items, without what is added; a row has the same for all its
    questions, where it has any, so that each is read from the table once.
    """
    assert answers.raised is not None
    items = answers.raised.items.max(axis=1)
    rows = answers.table[jnp.maximum(items, 0) + answers.first].astype(answers.features.dtype)
    scores = jnp.einsum("bkd,bld->bkl", answers.features, rows, preferred_element_type=jnp.float32)
    if answers.bias is not None:
        scores = scores + answers.bias[jnp.maximum(items, 0)][:, None, :]
    return jnp.where(answers.raised.items >= 0, scores, NEVER)


def _raise(
    total: Float[Array, " T"], near: tuple[Float[Array, "T L"], Float[Array, "T L"]] | None
) -> Float[Array, " T"]:
    """The log-sum-exp once some items, of these scores, have more."""
    if near is None:
        return total
    scores, more = near
    share = jnp.exp(jnp.minimum(scores - total[:, None], 0.0))
    # All of it can be near, and with less than its score: rounding must not bring the rest below 0.
    return total + jnp.log1p(jnp.maximum((share * jnp.expm1(more)).sum(-1), -1 + 1e-6))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy(
    first: int,
    size: int,
    factors: Any,
    near: Any,
    targets: Int[Array, " T"],
    weights: Float[Array, " T"],
) -> Float[Array, ""]:
    """The weighted sum for `factors`, which are features [T, D], table [N, D] and bias [V] or None,
    where the items that are `near` have more than their score.

    Autodiff would keep the scores, and pass over them, and over a transposed copy, many times more
    than `_forward`, which makes the gradient while they are at hand.
    """
    x, table, bias = factors
    total, own = _totals(Answers(x, table, bias, first), size, targets)
    return ((_raise(total, near) - own) * weights).sum()


def _forward(
    first: int,
    size: int,
    factors: Any,
    near: Any,
    targets: Int[Array, " T"],
    weights: Float[Array, " T"],
) -> tuple[Float[Array, ""], Any]:
    """The loss, and its gradients with respect to the factors, and to what is near."""
    x, table, bias = factors
    answers = Answers(x, table, bias, first)
    if size == answers.items:
        scores, rows, _ = answers.chunk(jnp.int32(0), size, -jnp.inf)
        own = jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]
        top = scores.max(-1)
        e = jnp.exp(scores - top[:, None])
        sums = e.sum(-1)
        raised, pull = jax.vjp(_raise, top + jnp.log(sums), near)
        share, dnear = pull(weights)
        dx, drows, db = _gradients(e, share / sums, x, rows)
        dtable = jnp.pad(drows, ((first, 0), (0, 0)))
    else:
        total, own = _totals(answers, size, targets)
        raised, pull = jax.vjp(_raise, total, near)
        share, dnear = pull(weights)

        def add(sums: Any, begin: Int[Array, ""]) -> tuple[Any, None]:
            dx, dtable, db = sums
            scores, rows, start = answers.chunk(begin, size, -jnp.inf)
            more, drows, column = _gradients(jnp.exp(scores - total[:, None]), share, x, rows)
            dtable, db = _add_at(dtable, drows, start + first), _add_at(db, column, start)
            return (dx + more, dtable, db), None

        zero = (jnp.zeros(x.shape), jnp.zeros(table.shape), jnp.zeros(answers.items))
        (dx, dtable, db), _ = jax.lax.scan(add, zero, jnp.arange(0, answers.items, size))
    # The targets themselves, of which the products above know nothing.
    w = weights[:, None]
    dx = dx - table[targets + first].astype(x.dtype).astype(jnp.float32) * w
    dtable = dtable.at[targets + first].add(-x.astype(jnp.float32) * w)
    db = None if bias is None else db.at[targets].add(-weights)
    return ((raised - own) * weights).sum(), ((dx.astype(x.dtype), dtable, db), dnear)


def _backward(
    first: int, size: int, gradients: Any, g: Float[Array, ""]
) -> tuple[Any, Any, None, None]:
    """Targets have no gradient, and nobody asks for that of the weights."""

    def scaled(x: Float[Array, "..."]) -> Float[Array, "..."]:
        return (x.astype(jnp.float32) * g).astype(x.dtype)

    return *jax.tree.map(scaled, gradients), None, None


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
