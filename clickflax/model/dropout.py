"""Dropout with random bits that are cheap to compute."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from clickflax.model.bits import random_bits


def keep_mask(key: Key[Array, ""], rate: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """Random mask: True with probability `1 - rate`."""
    return random_bits(key, shape) >= jnp.uint32(min(rate, 1) * (2**32 - 1))


class Dropout(nn.Module):
    """Sets a random share of the elements to zero in training (Srivastava et al., 2014)."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."], train: bool) -> Float[Array, "..."]:
        if not train or not self.rate:
            return x
        keep = keep_mask(self.make_rng("dropout"), self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0.0)
