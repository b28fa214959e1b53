"""Save, resume, transfer."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clickflax.runtime import checkpoint

PARAMS = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.zeros(2)}


def here():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def test_what_was_saved_is_what_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "last", 3, {"step": 3, "best": None}, params=PARAMS)
    assert checkpoint.newest(tmp_path / "last") == 3
    progress, params = checkpoint.load_params(tmp_path / "last", here())
    assert progress == {"step": 3, "best": None}
    np.testing.assert_array_equal(params["a"]["kernel"], PARAMS["a"]["kernel"])


def test_the_newest_is_kept_and_one_of_the_same_step_gives_way(tmp_path):
    for step, value in ((1, 1.0), (4, 4.0), (4, 5.0)):
        params = {"a": jnp.full(2, value)}
        checkpoint.save(tmp_path / "last", step, {"step": step}, params=params)
    assert checkpoint.newest(tmp_path / "last") == 4
    assert checkpoint.load_params(tmp_path / "last", here())[1]["a"][0] == 5


def test_a_folder_without_a_checkpoint_says_so(tmp_path):
    assert checkpoint.newest(tmp_path / "last") is None
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint.load_params(tmp_path / "last", here())


def test_transfer_takes_all_that_is_not_skipped():
    fresh = {"a": {"kernel": jnp.ones((2, 3))}, "b": jnp.ones(2), "c": jnp.ones(1)}
    taken = checkpoint.transfer(fresh, PARAMS, ("b", "c"), "runs/x")
    np.testing.assert_array_equal(taken["a"]["kernel"], PARAMS["a"]["kernel"])
    np.testing.assert_array_equal(taken["b"], np.ones(2))


def test_transfer_names_all_that_does_not_fit_on_both_sides():
    fresh = {"a": {"kernel": jnp.ones((2, 4))}, "c": jnp.ones(1)}
    with pytest.raises(ValueError, match="runs/x") as caught:
        checkpoint.transfer(fresh, PARAMS, (), "runs/x")
    message = str(caught.value)
    assert "a/kernel: (2, 4) in the model, (2, 3) in the checkpoint" in message
    assert "b: in the checkpoint, not in the model" in message
    assert "c: in the model, not in the checkpoint" in message


def test_a_full_disk_is_a_clear_sentence(tmp_path):
    with (
        pytest.raises(OSError, match="the disk is full"),
        checkpoint.naming_a_full_disk(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(ZeroDivisionError),
        checkpoint.naming_a_full_disk(tmp_path),
    ):
        raise ZeroDivisionError
