"""Attention over packed rows."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from clickflax.model.distance import Distances, gather_distances
from clickflax.model.dropout import keep_mask
from clickflax.model.kernels import KERNELS, REMOVED, obstacle
from clickflax.model.rows import Rows, take_columns

# Finite, so that a row without any visible event gives numbers and not NaN.
HIDDEN = -1e9


def visible(rows: Rows, causal: bool) -> Bool[Array, "B 1 Q L"]:
    """Mask of the events (last axis) that each query may attend to: those of its own sequence."""
    query = take_columns(rows.segment, rows.columns)
    same = query[:, None, :, None] == rows.segment[:, None, None, :]
    if causal:
        column = jnp.arange(rows.segment.shape[1])
        query = column[None] if rows.columns is None else rows.columns
        same = same & (query[:, None, :, None] >= column[None, None, None, :])
    return same


def xla(
    q: Float[Array, "B H Q D"],
    k: Float[Array, "B H L D"],
    v: Float[Array, "B H L D"],
    rows: Rows,
    causal: bool,
    bias: Float[Array, "#B H Q L"] | None = None,
    key: Key[Array, ""] | None = None,
    rate: float = 0.0,
) -> Float[Array, "B H Q D"]:
    """Weighted mean of the values of the own sequence, for the queries at `rows.columns`.

    A `bias` is added to the scores; with a `key`, weights are dropped at `rate`.

    Weights and their sum are float32. The sum divides after the product with the values: a pass
    over [L, D] instead of [L, L]. Hidden scores are masked by addition, not by `where`: its
    gradient would be another `where` over [L, L], which XLA does not vectorise on CPU.
    """
    scores = jax.lax.dot_general(
        q, k, (((3,), (3,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32
    )
    scores = scores * q.shape[-1] ** -0.5 + jnp.where(visible(rows, causal), 0.0, HIDDEN)
    if bias is not None:
        scores = scores + bias
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    scale = 1.0
    if key is not None:
        weights = jnp.where(keep_mask(key, rate, weights.shape), weights, 0.0)
        scale = 1 / (1 - rate)
    mixed = jax.lax.dot_general(
        weights.astype(v.dtype),
        v,
        (((3,), (2,)), ((0, 1), (0, 1))),
        preferred_element_type=jnp.float32,
    )
    return (mixed * (scale / total)).astype(q.dtype)


def at_columns(kernel: Callable[..., Array]) -> Callable[..., Array]:
    """Wraps a kernel, which takes a query for every event, in the signature of `xla`."""

    @functools.wraps(kernel)
    def attend(
        q: Float[Array, "B H Q D"],
        k: Float[Array, "B H L D"],
        v: Float[Array, "B H L D"],
        rows: Rows,
        causal: bool,
        bias: None = None,
        key: None = None,
        rate: float = 0.0,
    ) -> Float[Array, "B H Q D"]:
        if rows.columns is None:
            return kernel(q, k, v, rows.segment, causal)
        row = jnp.arange(q.shape[0])[:, None]
        queries = jnp.zeros_like(k).transpose(0, 2, 1, 3)
        queries = queries.at[row, rows.columns].set(q.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
        mixed = kernel(queries, k, v, rows.segment, causal)
        return take_columns(mixed.transpose(0, 2, 1, 3), rows.columns).transpose(0, 2, 1, 3)

    return attend


# All have the signature of `xla`, which alone runs everywhere, takes a bias and drops weights.
ATTENTION = {"xla": xla} | {name: at_columns(kernel.attend) for name, kernel in KERNELS.items()}


def or_auto(name: str, platform: str) -> str:
    """The name; "auto" for a kernel of another platform, or one that was removed."""
    elsewhere = name in KERNELS and KERNELS[name].platform != platform
    return "auto" if elsewhere or name in REMOVED else name


def find_attention(
    name: str, platform: str, dtype: str, width: int, dropout: float, biased: bool = False
) -> Callable[..., Array]:
    """The attention of that name, for heads of that width.

    "auto" is a kernel that takes packed rows, or `xla` if there is none for this model on this
    platform. Only `xla` can be `biased`. Raises ValueError for a kernel that cannot be used.
    """
    if name in REMOVED:
        raise ValueError(
            f"config.model.attention={name!r} is not supported any more: {REMOVED[name]}. Use "
            "'auto', or 'cudnn' with config.data.packing=False."
        )
    if name not in (*ATTENTION, "auto"):
        raise ValueError(
            f"config.model.attention={name!r} is not one of {sorted([*ATTENTION, 'auto'])}."
        )
    if biased and name in KERNELS:
        raise ValueError(
            f"config.model.attention={name!r} takes no bias of distances, which config.model."
            "positions or config.model.relative_time need: use 'auto'."
        )
    if name == "auto":
        able = [
            ATTENTION[name]
            for name, kernel in KERNELS.items()
            if kernel.packed and not biased and not obstacle(name, platform, dtype, width, dropout)
        ]
        return [*able, xla][0]
    reason = obstacle(name, platform, dtype, width, dropout) if name in KERNELS else ""
    if reason:
        raise ValueError(
            f"config.model.attention={name!r} {reason}. 'auto' takes one that can be used."
        )
    return ATTENTION[name]


def split_heads(x: Float[Array, "B N D"], heads: int) -> Float[Array, "B H N K"]:
    """Splits the vectors into one for each head."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def rotate(x: Float[Array, "B H N K"], position: Int[Array, "B N"]) -> Float[Array, "B H N K"]:
    """Rotary position embedding (RoPE: Su et al., 2021).

    Rotates pairs of numbers by an angle proportional to the position, so that the product of two
    vectors depends on the distance of their positions.
    """
    half = x.shape[-1] // 2
    speed = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position[:, None, :, None].astype(jnp.float32) * speed[None, None, None]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def disentangled(
    q: Float[Array, "B H Q K"],
    k: Float[Array, "B H L K"],
    distance_queries: Float[Array, "1 H R K"],
    distance_keys: Float[Array, "1 H R K"],
    columns: Int[Array, "B Q"] | None,
) -> Float[Array, "B H Q L"]:
    """Content-to-position and position-to-content scores (DeBERTa: He et al., 2021), not scaled.

    The vectors of distances are those of 1-L or less ... L-1 or more.
    """
    length = k.shape[2]
    to_position = jnp.matmul(q, distance_keys.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    to_content = jnp.matmul(
        k, distance_queries.swapaxes(-1, -2), preferred_element_type=jnp.float32
    )
    # The same distance, seen from the other event.
    to_content = gather_distances(to_content, None, length).transpose(0, 3, 1, 2)
    to_content = take_columns(to_content, columns).transpose(0, 2, 1, 3)
    return gather_distances(to_position, columns, length) + to_content


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017); `attend` is one of ATTENTION.

    `positions` is one of `embedder.POSITIONS`, of which "rotary" and "disentangled" act here;
    `distances` gives the bias of "relative" ones, and of relative times.
    """

    heads: int
    dropout: float
    positions: str
    distances: Distances
    attend: Callable[..., Array]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "B L D"],
        x: Float[Array, "B L D"],
        rows: Rows,
        causal: bool,
        train: bool,
    ) -> Float[Array, "B Q D"]:
        width = x.shape[-1]

        def project(name: str, x: Float[Array, "B N D"]) -> Float[Array, "B H N K"]:
            y = nn.Dense(width, dtype=x.dtype, kernel_init=self.kernel_init, name=name)(x)
            return split_heads(y, self.heads)

        key = self.make_rng("dropout") if train and self.dropout else None
        q = project("query", take_columns(queries, rows.columns))
        k = project("key", x)
        v = project("value", x)
        bias = self.distances(rows)
        if self.positions == "rotary":
            q = rotate(q, take_columns(rows.position, rows.columns))
            k = rotate(k, rows.position)
        elif self.positions == "disentangled":
            assert rows.distances is not None
            vectors = rows.distances[None].astype(x.dtype)
            distance_queries = project("query_of_distance", vectors)
            distance_keys = project("key_of_distance", vectors)
            scores = disentangled(q, k, distance_queries, distance_keys, rows.columns)
            # The sum of three products of equal variance is scaled to the variance of one.
            scores = scores * (3 * q.shape[-1]) ** -0.5
            bias = scores if bias is None else bias + scores
            q = q * jnp.asarray(3**-0.5, q.dtype)
        mixed = self.attend(q, k, v, rows, causal, bias, key, self.dropout)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(*mixed.shape[::2], width)
        return nn.Dense(width, dtype=x.dtype, kernel_init=self.kernel_init, name="out")(mixed)
