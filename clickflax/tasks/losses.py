"""Losses; each returns the weighted sum and the sum of the weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from clickflax.batch import Registry
from clickflax.model.heads import Answers, Bonus


def softmax_loss(
    answers: Answers,
    targets: Int[Array, "B K"],
    weights: Float[Array, "B K"],
    chunk: int,
    smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy over the whole catalog, in nats: weighted sum, and sum of the weights.

    `chunk` limits the items whose scores are in memory at once (0: no limit). With a limit, scores
    are computed a second time for the gradient; results differ by rounding only. Sums are float32
    for features of any dtype. Label `smoothing` (Szegedy et al., 2016) spreads this share of the
    target's probability over all items.
    """
    size = min(chunk or answers.items, answers.items)
    x = answers.features.reshape(-1, answers.features.shape[-1])
    items = bonus = None
    if answers.bonus is not None:
        items, bonus = (side.reshape(len(x), -1) for side in answers.bonus)
    factors = (x, answers.table, answers.bias, bonus)
    loss: Any = _cross_entropy(
        answers.first, size, factors, items, targets.ravel(), weights.ravel()
    )
    if smoothing:
        above_mean = answers.of(targets[..., None])[..., 0] - answers.mean()
        loss = loss + smoothing * (above_mean * weights).sum()
    return loss, weights.sum()


def binary_loss(
    logits: Float[Array, "B K 1"],
    targets: Float[Array, "B K"],
    weights: Float[Array, "B K"],
    positive: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Binary cross-entropy, in nats: weighted sum, and sum of the weights.

    The loss of a yes is multiplied by `positive`, but the sum of the weights is not.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits[..., 0], targets)
    return (losses * weights * (1 + (positive - 1) * targets)).sum(), weights.sum()


def class_loss(
    logits: Float[Array, "B K C"], targets: Float[Array, "B K"], weights: Float[Array, "B K"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy over classes, in nats: weighted sum, and sum of the weights."""
    classes = targets.astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    return (losses * weights).sum(), weights.sum()


def number_loss(
    logits: Float[Array, "B K 1"], targets: Float[Array, "B K"], weights: Float[Array, "B K"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Half the squared error: weighted sum, and sum of the weights."""
    return (optax.l2_loss(logits[..., 0], targets) * weights).sum(), weights.sum()


# By `config.loss.name`, without `config.loss.negatives`; sampled losses are in sampled_losses.py.
CATALOG_LOSSES: Registry[Callable[..., tuple[Float[Array, ""], Float[Array, ""]]]] = Registry(
    "loss over the catalog", {"softmax": softmax_loss}
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy(
    first: int,
    size: int,
    factors: Any,
    items: Int[Array, "T L"] | None,
    targets: Int[Array, " T"],
    weights: Float[Array, " T"],
) -> Float[Array, ""]:
    """The weighted sum of the cross-entropy.

    `factors` are features [T, D], table [N, D], bias [V] or None, and the bonus [T, L] of the
    scores of `items`, or None. The gradient is computed in the forward pass, while the scores are
    in memory: autodiff would keep them, and read them and a transposed copy many times more.
    """
    total, own = _totals(_answers(first, factors, items), size, targets)
    return ((total - own) * weights).sum()


def _answers(first: int, factors: Any, items: Int[Array, "T L"] | None) -> Answers:
    """The scores with these factors, see `_cross_entropy`."""
    x, table, bias, bonus = factors
    return Answers(x, table, bias, first, None if items is None else Bonus(items, bonus))


def _forward(
    first: int,
    size: int,
    factors: Any,
    items: Int[Array, "T L"] | None,
    targets: Int[Array, " T"],
    weights: Float[Array, " T"],
) -> tuple[Float[Array, ""], Any]:
    """The loss, and its gradients with respect to the factors."""
    x, table, bias, bonus = factors
    answers = _answers(first, factors, items)
    if size == answers.items:
        scores, rows, start = answers.chunk(jnp.int32(0), size, -jnp.inf)
        own = jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]
        top = scores.max(-1)
        e = jnp.exp(scores - top[:, None])
        sums = e.sum(-1)
        total = top + jnp.log(sums)
        dx, drows, db = _gradients(e, weights / sums, x, rows)
        dbonus = _bonus_gradients(answers, e, weights / sums, start)
        dtable = jnp.pad(drows, ((first, 0), (0, 0)))
    else:
        total, own = _totals(answers, size, targets)

        def add(sums: Any, begin: Int[Array, ""]) -> tuple[Any, None]:
            dx, dtable, db, dbonus = sums
            scores, rows, start = answers.chunk(begin, size, -jnp.inf)
            e = jnp.exp(scores - total[:, None])
            part, drows, column = _gradients(e, weights, x, rows)
            dtable, db = _add_at(dtable, drows, start + first), _add_at(db, column, start)
            of_chunk = _bonus_gradients(answers, e, weights, start)
            return (dx + part, dtable, db, jax.tree.map(jnp.add, dbonus, of_chunk)), None

        zero = (jnp.zeros(x.shape), jnp.zeros(table.shape), jnp.zeros(answers.items))
        zero = (*zero, jax.tree.map(jnp.zeros_like, bonus))
        (dx, dtable, db, dbonus), _ = jax.lax.scan(add, zero, jnp.arange(0, answers.items, size))
    # The gradient of the targets' own scores, which the products above do not include.
    w = weights[:, None]
    dx = dx - table[targets + first].astype(x.dtype).astype(jnp.float32) * w
    dtable = dtable.at[targets + first].add(-x.astype(jnp.float32) * w)
    db = None if bias is None else db.at[targets].add(-weights)
    if items is not None and dbonus is not None:
        dbonus = dbonus - jnp.where(items == targets[:, None], w, 0.0)
    return ((total - own) * weights).sum(), (dx.astype(x.dtype), dtable, db, dbonus)


def _backward(
    first: int, size: int, gradients: Any, g: Float[Array, ""]
) -> tuple[Any, None, None, None]:
    """Scales the gradients by that of the loss; targets and weights have none."""

    def scaled(x: Float[Array, "..."]) -> Float[Array, "..."]:
        return (x.astype(jnp.float32) * g).astype(x.dtype)

    return jax.tree.map(scaled, gradients), None, None, None


_cross_entropy.defvjp(_forward, _backward)


def _totals(
    answers: Answers, size: int, targets: Int[Array, " T"]
) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
    """The log-sum-exp of all scores, and the score of the target, for each of T rows.

    It has a running maximum (Milakov and Gimelshein, 2018). The score of the target is taken from
    the same products, so that it never exceeds the log-sum-exp by rounding.
    """

    def add(carry: tuple[Array, ...], begin: Int[Array, ""]) -> tuple[tuple[Array, ...], None]:
        top, sums, own = carry
        scores, _, start = answers.chunk(begin, size, -jnp.inf)
        higher = jnp.maximum(top, scores.max(-1))
        sums = sums * jnp.exp(top - higher) + jnp.exp(scores - higher[:, None]).sum(-1)
        here = (targets >= begin) & (targets < begin + size)
        column = jnp.where(here, targets - start, 0)
        score = jnp.take_along_axis(scores, column[:, None], axis=1)[:, 0]
        return (higher, sums, jnp.where(here, score, own)), None

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
    """The gradients of features, rows and biases from the probabilities `e * weights`.

    The weights multiply the smaller factor of each product. The biases are one more row of the
    second product, because a sum over the columns of `e` is slow on CPU.
    """
    e = e.astype(x.dtype)
    dx = jnp.matmul(e, rows, preferred_element_type=jnp.float32) * weights[:, None]
    narrow = weights[:, None].astype(x.dtype)
    sides = jnp.concatenate([x * narrow, narrow], axis=1)
    both = jnp.matmul(sides.T, e, preferred_element_type=jnp.float32)
    return dx, both[:-1].T, both[-1]


def _bonus_gradients(
    answers: Answers, e: Float[Array, "T C"], weights: Float[Array, " T"], start: Int[Array, ""]
) -> Float[Array, "T L"] | None:
    """The probabilities `e * weights` of the items with a bonus; 0 for items of other chunks."""
    if answers.bonus is None:
        return None
    columns = answers.bonus.columns(start, e.shape[1])
    of_items = jnp.take_along_axis(e, columns, axis=1, mode="fill", fill_value=0)
    return of_items * weights[:, None]


def _add_at(whole: Array, part: Array, begin: Int[Array, ""]) -> Array:
    """Adds `part` to the rows of `whole` from `begin` on."""
    sums = jax.lax.dynamic_slice_in_dim(whole, begin, part.shape[0]) + part
    return jax.lax.dynamic_update_slice_in_dim(whole, sums, begin, 0)
