"""Attention over rows that hold several sequences."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from clickflax.model.dropout import keep_mask
from clickflax.model.kernels import KERNELS, obstacle

# Finite, so that a row without a single visible event gives numbers and not NaN.
HIDDEN = -1e9


def at(x: Shaped[Array, "B L ..."], places: Int[Array, "B Q"] | None) -> Shaped[Array, "B Q ..."]:
    """What `x` has at these places of each row; None: at all."""
    if places is None:
        return x
    return jnp.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=1)


def visible(
    segment: Int[Array, "B L"], causal: bool, places: Int[Array, "B Q"] | None = None
) -> Bool[Array, "B 1 Q L"]:
    """Which events (last axis) those at `places` may look at: the ones of their own sequence."""
    same = at(segment, places)[:, None, :, None] == segment[:, None, None, :]
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
) -> Float[Array, "B H Q D"]:
    """Weighted mean of the values of the own sequence; with a key, weights are dropped at `rate`.

    The queries are those of the events at `places`; None: of all.

    Weights and their sum are float32. The sum divides after the product with the values: a pass
    over [L, D] instead of [L, L]. What is hidden is added, not selected: a selection would stand in
    the gradient too, whose passes over [L, L] XLA then does not vectorise on CPU.
    """
    scores = jax.lax.dot_general(
        q, k, (((3,), (3,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32
    )
    scores = scores * q.shape[-1] ** -0.5 + jnp.where(visible(segment, causal, places), 0.0, HIDDEN)
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
        return at(mixed.transpose(0, 2, 1, 3), places).transpose(0, 2, 1, 3)

    return attend


# All are called as `xla` is. Only this one runs everywhere and drops attention weights.
ATTENTION = {"xla": xla} | {name: at_places(kernel.attend) for name, kernel in KERNELS.items()}


def or_auto(name: str, platform: str) -> str:
    """The name, or "auto" for a kernel of another platform."""
    return "auto" if name in KERNELS and KERNELS[name].platform != platform else name


def find_attention(
    name: str, platform: str, dtype: str, width: int, dropout: float
) -> Callable[..., Array]:
    """The attention of that name, for heads of that width; "auto": a kernel where one can do it.

    "auto" leaves out the kernels that want one sequence a row.
    """
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


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017); `attend` is one of ATTENTION."""

    heads: int
    dropout: float
    attend: Callable[..., Array]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        segment: Int[Array, "B L"],
        causal: bool,
        train: bool,
        places: Int[Array, "B Q"] | None,
    ) -> Float[Array, "B Q D"]:
        rows, _, width = x.shape

        def project(name: str, x: Float[Array, "B N D"]) -> Float[Array, "B H N K"]:
            y = nn.Dense(width, dtype=x.dtype, kernel_init=self.kernel_init, name=name)(x)
            return y.reshape(rows, -1, self.heads, width // self.heads).transpose(0, 2, 1, 3)

        key = self.make_rng("dropout") if train and self.dropout else None
        q, k, v = project("query", at(x, places)), project("key", x), project("value", x)
        mixed = self.attend(q, k, v, segment, causal, key, self.dropout, places)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(rows, -1, width)
        return nn.Dense(width, dtype=x.dtype, kernel_init=self.kernel_init, name="out")(mixed)
