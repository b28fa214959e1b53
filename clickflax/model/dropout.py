"""Dropout that draws one random byte an element."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

LEVELS = 256


def keep_mask(key: Key[Array, ""], rate: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """True with probability `1 - rate`, which is rounded to a 256th.

    A 32-bit word of Threefry serves four elements.
    """
    words = jax.random.bits(key, (*shape[:-1], -(-shape[-1] // 4)), jnp.uint32)
    octets = jax.lax.bitcast_convert_type(words, jnp.uint8)
    octets = octets.reshape(*shape[:-1], -1)[..., : shape[-1]]
    return octets >= round(rate * LEVELS)


def scale_of(rate: float) -> float:
    """What the kept elements are multiplied with, so that the mean stays."""
    return LEVELS / (LEVELS - round(rate * LEVELS))


class Dropout(nn.Module):
    """Zeros a share of the elements in training (Srivastava et al., 2014)."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."], train: bool) -> Float[Array, "..."]:
        if not train or not self.rate:
            return x
        keep = keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(keep, x * scale_of(self.rate), 0.0)
