"""What conftest.py and the options of pytest switch on is on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from clickflax.model.blocks import FeedForward
from clickflax.model.heads import Answers
from clickflax.tasks import ranks as scores


def test_there_are_eight_devices():
    assert jax.device_count() == 8


def test_a_sum_over_two_ranks_is_an_error():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.zeros((2, 3)) + jnp.zeros(3)


def test_a_sum_over_two_dtypes_is_an_error():
    with pytest.raises(jax.dtypes.TypePromotionError, match="promotion"):
        jnp.zeros(3, jnp.int32) + jnp.zeros(3, jnp.float32)


def test_a_function_of_the_package_refuses_a_wrong_shape():
    answers = Answers(jnp.zeros((2, 4)), jnp.zeros((3, 4)), None, 0)
    targets, seen = jnp.zeros((2, 1), jnp.int32), jnp.zeros((5, 2), jnp.int32)
    assert scores.rank_targets(answers, seen, 3, targets).shape == (2, 1)
    with pytest.raises(jaxtyping.TypeCheckError):
        scores.rank_targets(answers, seen.T, 3, targets)


def test_a_flax_module_of_the_package_refuses_a_wrong_rank():
    module = FeedForward(hidden=4, activation="gelu", glu=False, kernel_init=nn.initializers.zeros)
    module.init(jax.random.key(0), jnp.zeros((1, 2, 3)))
    with pytest.raises(jaxtyping.TypeCheckError):
        module.init(jax.random.key(0), jnp.zeros((2, 3)))
