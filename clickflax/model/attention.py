"""Attention over rows that hold several sequences."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from clickflax.model.distance import Distances, at_distance
from clickflax.model.dropout import keep_mask
from clickflax.model.kernels import KERNELS, obstacle
from clickflax.model.rows import Rows, take_positions

# Finite, so that a row without a single visible event gives numbers and not NaN.
HIDDEN = -1e9


def visible(
    segment: Int[Array, "B L"], causal: bool, places: Int[Array, "B Q"] | None = None
) -> Bool[Array, "B 1 Q L"]:
    """Which events (last axis) those at `places` may look at: the ones of their own sequence."""
    same = take_positions(segment, places)[:, None, :, None] == segment[:, None, None, :]
    if causal:
        column = jnp.arange(segment.shape[1])
        place = column[None] if places is None else places
        same = same & (place[:, None, :, None] >= column[None, None, None, :])
    return same


def xla(
    q: Float[Array, "B H Q D"],
    k: Float[Array, "B H L D"],
    v: Float[Array, "B H L D"],
    segment: Int[Array, "B L"],
    causal: bool,
    key: Key[Array, ""] | None,
    rate: float,
    places: Int[Array, "B Q"] | None = None,
    bias: Float[Array, "#B H Q L"] | None = None,
) -> Float[Array, "B H Q D"]:
    """Weighted mean of the values of the own sequence; with a key, weights are dropped at `rate`.

    The queries are those of the events at `places`; None: of all. A `bias` is added to the scores.

    Weights and their sum are float32. The sum divides after the product with the values: a pass
    over [L, D] instead of [L, L]. What is hidden is added, not selected: a selection would stand in
    the gradient too, whose passes over [L, L] XLA then does not vectorise on CPU.
    """
    scores = jax.lax.dot_general(
        q, k, (((3,), (3,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32
    )
    scores = scores * q.shape[-1] ** -0.5 + jnp.where(visible(segment, causal, places), 0.0, HIDDEN)
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


def at_places(kernel: Callable[..., Array]) -> Callable[..., Array]:
    """A kernel, which has a query for every event, made to be called as `xla` is."""

    @functools.wraps(kernel)
    def attend(
        q: Float[Array, "B H Q D"],
        k: Float[Array, "B H L D"],
        v: Float[Array, "B H L D"],
        segment: Int[Array, "B L"],
        causal: bool,
        key: None,
        rate: float,
        places: Int[Array, "B Q"] | None = None,
    ) -> Float[Array, "B H Q D"]:
        if places is None:
            return kernel(q, k, v, segment, causal, key, rate)
        row = jnp.arange(q.shape[0])[:, None]
        queries = jnp.zeros_like(k).transpose(0, 2, 1, 3)
        queries = queries.at[row, places].set(q.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
        mixed = kernel(queries, k, v, segment, causal, key, rate)
        return take_positions(mixed.transpose(0, 2, 1, 3), places).transpose(0, 2, 1, 3)

    return attend


# All are called as `xla` is. Only this one runs everywhere and drops attention weights.
ATTENTION = {"xla": xla} | {name: at_places(kernel.attend) for name, kernel in KERNELS.items()}


def or_auto(name: str, platform: str) -> str:
    """The name, or "auto" for a kernel of another platform."""
    return "auto" if name in KERNELS and KERNELS[name].platform != platform else name


def find_attention(
    name: str, platform: str, dtype: str, width: int, dropout: float, biased: bool = False
) -> Callable[..., Array]:
    """The attention of that name, for heads of that width; "auto": a kernel where one can do it.

    "auto" leaves out the kernels that want one sequence a row. No kernel can be `biased`.
    """
    if biased and name in ("auto", "xla"):
        return xla
    if biased and name in KERNELS:
        raise ValueError(
            f"model.attention={name!r} knows nothing of how far apart events are, which "
            "model.positions or model.relative_time want: 'auto' takes what does."
        )
    if name == "auto":
        able = [
            ATTENTION[name]
            for name, kernel in KERNELS.items()
            if kernel.packed and not obstacle(name, platform, dtype, width, dropout)
        ]
        return [*able, xla][0]
    if name not in ATTENTION:
        raise ValueError(f"model.attention={name!r} is not one of {sorted([*ATTENTION, 'auto'])}.")
    reason = obstacle(name, platform, dtype, width, dropout) if name in KERNELS else ""
    if reason:
        raise ValueError(f"model.attention={name!r} {reason}. 'auto' takes what can do it.")
    return ATTENTION[name]


def split_heads(x: Float[Array, "B N D"], heads: int) -> Float[Array, "B H N K"]:
    """The vectors cut into one for each head."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def rotate(x: Float[Array, "B H N K"], position: Int[Array, "B N"]) -> Float[Array, "B H N K"]:
    """Each pair of numbers turned by an angle that grows with the position, so that products of
    two vectors know how far apart they are (RoPE: Su et al., 2021).
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
    query_of: Float[Array, "1 H R K"],
    key_of: Float[Array, "1 H R K"],
    places: Int[Array, "B Q"] | None,
) -> Float[Array, "B H Q L"]:
    """What contents ask of distances, and distances of contents (DeBERTa: He et al., 2021), not yet
    scaled; `query_of` and `key_of` belong to the distances 1-L or less ... L-1 or more.
    """
    asks = jnp.matmul(q, key_of.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    asked = jnp.matmul(k, query_of.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    # The same distance, seen from the other event.
    asked = at_distance(asked, None, k.shape[2]).transpose(0, 3, 1, 2)
    return at_distance(asks, places, k.shape[2]) + take_positions(asked, places).transpose(
        0, 2, 1, 3
    )


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017); `attend` is one of ATTENTION.

    `positions` is one of the `embedder.POSITIONS`, of which it cares for "rotary" and
    "disentangled"; `distances` gives the bias of "relative" ones, and of relative times.
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
        asking: Float[Array, "B L D"],
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
        q, k, v = (
            project("query", take_positions(asking, rows.places)),
            project("key", x),
            project("value", x),
        )
        bias = self.distances(rows)
        if self.positions == "rotary":
            q, k = rotate(q, take_positions(rows.position, rows.places)), rotate(k, rows.position)
        elif self.positions == "disentangled":
            assert rows.relative is not None
            vectors = rows.relative[None].astype(x.dtype)
            theirs = project("query_of_distance", vectors), project("key_of_distance", vectors)
            more = disentangled(q, k, *theirs, rows.places)
            # Three products are added up, of the size of one.
            scale = (3 * q.shape[-1]) ** -0.5
            bias = more * scale if bias is None else bias + more * scale
            q = q * jnp.asarray(3**-0.5, q.dtype)
        told = (q, k, v, rows.segment, causal, key, self.dropout, rows.places)
        mixed = self.attend(*told) if bias is None else self.attend(*told, bias)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(*mixed.shape[::2], width)
        return nn.Dense(width, dtype=x.dtype, kernel_init=self.kernel_init, name="out")(mixed)
