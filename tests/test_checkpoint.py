"""Checkpoints: save, resume, transfer."""

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
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
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
        checkpoint.explain_full_disk(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(ZeroDivisionError),
        checkpoint.explain_full_disk(tmp_path),
    ):
        raise ZeroDivisionError


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints of steps 1 and 2, full of these numbers."""
    for step in (1, 2):
        params = {"a": jnp.full((50, 40), float(step)), "b": jnp.arange(7) * step}
        checkpoint.save(tmp_path / "last", step, {"step": step}, params=params, optimizer=params)
    return tmp_path / "last"


def resume(folder, params, in_rows=False):
    return checkpoint.restore_training(folder, lambda name: in_rows, params, params)


def damage(folder, how):
    """Changes the files of a checkpoint that hold its arrays, one way or another."""
    files = [path for path in (folder / "params").rglob("d/*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flipped":
        data[len(data) // 2] ^= 4
    elif how == "empty":
        data = bytearray()
    if how == "gone":
        largest.unlink()
    else:
        largest.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(two, capsys, how):
    damage(two / "2", how)
    progress, params = checkpoint.load_params(two, here())
    assert progress == {"step": 1} and float(params["a"].sum()) == 50 * 40
    told = capsys.readouterr().err
    assert "damaged: step 2 (" in told and "using that of step 1" in told
    like = jax.tree.map(jnp.zeros_like, params)
    assert resume(two, like)[0] == {"step": 1}
    damage(two / "1", how)
    with pytest.raises(ValueError, match="no checkpoint can be read: step 2 .*, step 1 "):
        resume(two, like)


def test_a_bit_that_is_flipped_in_any_file_never_gives_wrong_numbers(two, tmp_path, capsys):
    """Either all is as it was saved, or the checkpoint before is used."""
    like = {"a": jnp.zeros((50, 40)), "b": jnp.zeros(7, jnp.int32)}
    files = sorted(path for path in (two / "2").rglob("*") if path.is_file())
    assert len(files) > 8
    noticed = set()
    for file in files:
        whole = file.read_bytes()
        for place in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1} if whole else ():
            flipped = bytearray(whole)
            flipped[place] ^= 4
            file.write_bytes(flipped)
            progress, found = resume(two, like)
            step = progress["step"]
            assert progress == {"step": step} and step in (1, 2)
            for tree in (found["params"], found["optimizer"]):
                assert (np.asarray(tree["a"]) == step).all()
                assert np.array_equal(tree["b"], np.arange(7) * step)
            if step == 1:
                noticed.add(file.relative_to(two / "2").parts[0])
                assert "damaged: step 2 (" in capsys.readouterr().err
        file.write_bytes(whole)
    assert {"params", "optimizer", "progress"} <= noticed


def test_only_tables_may_have_another_number_of_rows(two):
    longer = {"a": jnp.zeros((52, 40)), "b": jnp.zeros(7, jnp.int32)}
    _, found = resume(two, longer, in_rows=True)
    assert float(found["params"]["a"].sum()) == 2 * 50 * 40 and not found["params"]["a"][50:].any()
    with pytest.raises(
        ValueError, match=r"a is \(52, 40\) in the model and \(50, 40\) in the checkpoint"
    ):
        resume(two, longer)
    with pytest.raises(ValueError, match=r"a is \(50, 41\)"):
        resume(two, longer | {"a": jnp.zeros((50, 41))}, in_rows=True)


def test_a_checksum_mismatch_is_an_error(two, monkeypatch, capsys):
    checkpoint.load_params(two, here())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(checkpoint, "checksum", lambda tree: float(tree["a"][0, 0]) == 1)
    with pytest.raises(ValueError, match="params: checksum mismatch"):
        checkpoint.load_params(two, here())


def test_a_checksum_sees_every_bit_and_no_zeros_at_the_end():
    tree = {"a": jnp.arange(6.0).reshape(3, 2), "b": jnp.array([True, False]), "c": jnp.int32(5)}
    whole = int(checkpoint.checksum(tree))
    filled = tree | {"a": jnp.pad(tree["a"], ((0, 3), (0, 0)))}
    assert int(checkpoint.checksum(filled)) == whole
    seen = {whole}
    bits = np.asarray(tree["a"]).view(np.uint32)
    for place in np.ndindex(bits.shape):
        for bit in range(32):
            flipped = bits.copy()
            flipped[place] ^= np.uint32(1 << bit)
            changed = tree | {"a": jnp.asarray(flipped.view(np.float32))}
            assert int(checkpoint.checksum(changed)) != whole
            seen.add(int(checkpoint.checksum(changed)))
    assert int(checkpoint.checksum(tree | {"b": jnp.array([False, True])})) != whole
    swapped = tree | {"a": tree["a"][::-1]}
    assert int(checkpoint.checksum(swapped)) != whole
    assert int(checkpoint.checksum(jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree))) != whole


@pytest.mark.parametrize("name", ["[v2]", "a*", "what?", "a\\b"])
def test_a_folder_that_orbax_takes_for_a_pattern_is_refused_at_once(tmp_path, name):
    with pytest.raises(ValueError, match="Orbax reads it as a pattern. Name another folder"):
        checkpoint.manager(tmp_path / name / "last")
    assert not (tmp_path / name).exists()
