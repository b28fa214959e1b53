"""Strictness: the options of conftest.py and of pytest are on."""

import runpy
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from clickflax.model.heads import Answers
from clickflax.model.layers import FeedForward
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


WARN = compile("import warnings; warnings.warn('old', DeprecationWarning)", "old.py", "exec")


@pytest.mark.parametrize(
    "name",
    ["clickflax", "clickflax.model.blocks", "experiments.peers.common", "test_train", "toy"],
)
def test_a_deprecation_that_our_code_meets_is_an_error(name):
    with pytest.raises(DeprecationWarning, match="old"):
        exec(WARN, {"__name__": name})


def test_a_deprecation_that_a_config_meets_is_an_error(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("import warnings; warnings.warn('old', DeprecationWarning)")
    with pytest.raises(DeprecationWarning, match="old"):
        runpy.run_path(str(path))


def test_a_deprecation_that_a_library_meets_is_ignored():
    with warnings.catch_warnings(record=True) as caught:
        exec(WARN, {"__name__": "jax.numpy"})
        exec(WARN, {"__name__": "clickflaxes"})
    assert caught == []
