"""Attention over rows that hold several sequences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from clickflax.model.dropout import keep_mask, scale_of

# Finite, so that a row without a single visible event gives numbers and not NaN.
HIDDEN = -1e9


def visible(segment: Int[Array, "B L"], causal: bool) -> Bool[Array, "B 1 L L"]:
    """Which events (last axis) an event (third axis) may look at: those of its own sequence."""
    same = segment[:, None, :, None] == segment[:, None, None, :]
    if causal:
        length = segment.shape[1]
        same = same & jnp.tri(length, dtype=bool)[None, None]
    return same


def attend(
    q: Float[Array, "B H L D"],
    k: Float[Array, "B H L D"],
    v: Float[Array, "B H L D"],
    see: Bool[Array, "B 1 L L"],
    keep: Bool[Array, "B H L L"] | None,
    scale: float,
) -> Float[Array, "B H L D"]:
    """Weighted mean of the values; `keep` drops weights, and `scale` makes up for it.

    The sum divides after the product with the values: a pass over [L, D] instead of [L, L].
    """
    scores = jax.lax.dot_general(q, k, (((3,), (3,)), ((0, 1), (0, 1))))
    scores = jnp.where(see, scores * q.shape[-1] ** -0.5, HIDDEN)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    if keep is not None:
        weights = jnp.where(keep, weights, 0.0)
    mixed = jax.lax.dot_general(weights, v, (((3,), (2,)), ((0, 1), (0, 1))))
    return mixed * (scale / total)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017)."""

    heads: int
    dropout: float
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], see: Bool[Array, "B 1 L L"], train: bool
    ) -> Float[Array, "B L D"]:
        rows, length, width = x.shape

        def project(name: str) -> Float[Array, "B H L K"]:
            y = nn.Dense(width, kernel_init=self.kernel_init, name=name)(x)
            return y.reshape(rows, length, self.heads, -1).transpose(0, 2, 1, 3)

        keep, scale = None, 1.0
        if train and self.dropout:
            shape = (rows, self.heads, length, length)
            keep = keep_mask(self.make_rng("dropout"), self.dropout, shape)
            scale = scale_of(self.dropout)
        mixed = attend(project("query"), project("key"), project("value"), see, keep, scale)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(rows, length, width)
        return nn.Dense(width, kernel_init=self.kernel_init, name="out")(mixed)
