"""A block of an extension: registered outside the package, chosen by name, trained as itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extensions.my_block import Mine
from toy import encode, rows, small_config, small_model

import clickflax
from clickflax.config.default import default, from_dict, to_dict
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop


def config_with_mine(**model):
    """A small model of the block `mine`, which takes none of the knobs of attention."""
    plain = default().model
    untouched = {name: plain[name] for name in ("heads", "feed_forward", "attention_dropout")}
    return small_config(block="mine", **(untouched | model))


def mine(**model):
    """The model of `config_with_mine`, with parameters."""
    config = config_with_mine(**model).model
    return small_model(**config.to_dict())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with this block on a simulated shop."""
    folder = tmp_path_factory.mktemp("mine")
    simulate(folder / "data", Shop(sequences=40, items=20, mean_length=6.0, max_length=12))
    config = config_with_mine(layers=1, dropout=0.1)
    config.tasks = ("next_item",)
    config.data.path = str(folder / "data")
    config.train.update({"batch_size": 16, "steps": 4, "eval_every": 4, "log_every": 1})
    with jax.numpy_dtype_promotion("standard"):
        clickflax.train(from_dict(to_dict(config)), folder / "run")
    return folder / "run"


def test_the_parameters_of_a_trained_run_are_those_of_the_block(run):
    model = clickflax.load(run).model
    assert model.encoder.block(name="block_0").__class__ is Mine
    block = clickflax.load(run).params["encoder"]["block_0"]
    assert {name: sorted(leaf) for name, leaf in block.items()} == {
        "LayerNorm_0": ["bias", "scale"],
        "conv": ["bias", "kernel"],
    }
    assert block["conv"]["kernel"].shape == (3 * 8, 2 * 8)
    assert np.abs(block["conv"]["bias"]).max() > 0  # it begins at zero


def test_a_run_of_the_block_is_evaluated(run):
    record = clickflax.evaluate(run, "test")
    assert 0 <= record["ndcg@10"] <= 1


def test_its_states_depend_on_three_events_of_the_same_sequence():
    model, params = mine(layers=1)
    batch = rows([[1, 2, 3, 4, 5], [6, 7, 8]], [0, 0])
    table = params["embedder"]["tables_item"]["embedding"]

    def states(table):
        embedder = {**params["embedder"], "tables_item": {"embedding": table}}
        return encode(model, {**params, "embedder": embedder}, batch, True)[0]

    gradient = jax.jacobian(states)(table)[:, :, batch.variables["item"][0]]
    seen = np.abs(np.asarray(gradient)).max(axis=(1, 3)) > 1e-9
    same = np.asarray(batch.segment[0])[:, None] == np.asarray(batch.segment[0])[None]
    assert np.array_equal(seen, same & np.tri(8, dtype=bool) & ~np.tri(8, k=-3, dtype=bool))


def test_it_gives_the_states_of_the_columns_that_are_asked_for():
    model, params = mine()
    batch, columns = rows([[1, 2, 3, 4, 5], [6, 7, 8]]), jnp.array([[4, 0], [1, 2]])
    some = model.apply({"params": params}, *batch[:3], True, False, columns, method="encode")
    among_all = encode(model, params, batch, True)
    expected = jnp.take_along_axis(among_all, columns[..., None], axis=1)
    np.testing.assert_allclose(some, expected, atol=1e-6)


def test_a_knob_that_the_block_does_not_take_is_an_error():
    with pytest.raises(ValueError, match="config.model.heads=4: .*'mine' does not take"):
        mine(heads=4)


def test_a_task_that_needs_later_events_is_an_error(tmp_path):
    config = config_with_mine()
    config.tasks = ("masked_item",)
    with pytest.raises(ValueError, match="block='mine' sees earlier events only.*'masked_item'"):
        clickflax.train(config, tmp_path / "run")
