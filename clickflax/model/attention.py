"""Attention over rows that hold several sequences."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from clickflax.model.dropout import keep_mask
from clickflax.model.kernels import KERNELS, obstacle

# Finite, so that a row without a single visible event gives numbers and not NaN.
HIDDEN = -1e9


def visible(segment: Int[Array, "B L"], causal: bool) -> Bool[Array, "B 1 L L"]:
    """Which events (last axis) an event (third axis) may look at: those of its own sequence."""
    same = segment[:, None, :, None] == segment[:, None, None, :]
    if causal:
        length = segment.shape[1]
        same = same & jnp.tri(length, dtype=bool)[None, None]
    return same


def xla(
    q: Float[Array, "B H L D"],
    k: Float[Array, "B H L D"],
    v: Float[Array, "B H L D"],
    segment: Int[Array, "B L"],
    causal: bool,
    key: Key[Array, ""] | None,
    rate: float,
) -> Float[Array, "B H L D"]:
    """Weighted mean of the values of the own sequence; with a key, weights are dropped at `rate`.

    Weights and their sum are float32. The sum divides after the product with the values: a pass
    over [L, D] instead of [L, L]. What is hidden is added, not selected: a selection would stand in
    the gradient too, whose passes over [L, L] XLA then does not vectorise on CPU.
    """
    scores = jax.lax.dot_general(
        q, k, (((3,), (3,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32
    )
    scores = scores * q.shape[-1] ** -0.5 + jnp.where(visible(segment, causal), 0.0, HIDDEN)
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


# All are called as `xla` is. Only this one runs everywhere and drops attention weights.
ATTENTION = {"xla": xla} | {name: kernel.attend for name, kernel in KERNELS.items()}


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
            kernel.attend
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
        self, x: Float[Array, "B L D"], segment: Int[Array, "B L"], causal: bool, train: bool
    ) -> Float[Array, "B L D"]:
        rows, length, width = x.shape

        def project(name: str) -> Float[Array, "B H L K"]:
            y = nn.Dense(width, dtype=x.dtype, kernel_init=self.kernel_init, name=name)(x)
            return y.reshape(rows, length, self.heads, -1).transpose(0, 2, 1, 3)

        key = self.make_rng("dropout") if train and self.dropout else None
        q, k, v = project("query"), project("key"), project("value")
        mixed = self.attend(q, k, v, segment, causal, key, self.dropout)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(rows, length, width)
        return nn.Dense(width, dtype=x.dtype, kernel_init=self.kernel_init, name="out")(mixed)
