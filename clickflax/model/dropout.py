"""Dropout whose random bits cost next to nothing."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt32


def mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A permutation of the 32-bit words in which every bit depends on all (Wellons, 2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def keep_mask(key: Key[Array, ""], rate: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """True with probability `1 - rate`, from a hash of the key and of the place of the element.

    It has a tenth of Threefry's operations and is fused into what uses it; and it gives the same on
    any number of devices, which the generators of accelerators do not.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    place = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return mix(mix(place ^ first) + second) >= jnp.uint32(min(rate, 1) * (2**32 - 1))


class Dropout(nn.Module):
    """Zeros a share of the elements in training (Srivastava et al., 2014)."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."], train: bool) -> Float[Array, "..."]:
        if not train or not self.rate:
            return x
        keep = keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0.0)
