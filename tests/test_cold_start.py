"""Items that no training event has: out of the softmax, and ranked by their features."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from toy import small_config

from clickflax.batch import RESERVED
from clickflax.data import store
from clickflax.data.item_features import read_item_features
from clickflax.evaluation.main import evaluate_run
from clickflax.model.heads import Answers, ItemHead
from clickflax.run.cold_start import cold_constants, cold_items, zero_cold_items
from clickflax.run.folder import load_run
from clickflax.runtime.params import by_name
from clickflax.tasks.cloze import random_items
from clickflax.tasks.losses import softmax_loss
from clickflax.tasks.task import Masking
from clickflax.training import setup
from clickflax.training.loop import train
from clickflax.training.setup import set_up

pytestmark = pytest.mark.usefixtures("optax_promotes")

# Four categories of six items; whoever begins with one stays with its category. The last two items
# of each are never met before the last event, which is the test.
KINDS, EACH, NEW = 4, 6, 2
USERS = 400
COLD = np.arange(KINDS * EACH) % EACH >= EACH - NEW


def write(path, first=0):
    """A log of some users; `first` turns the ids, so that the first items may be cold ones."""
    chance = np.random.default_rng(0)
    kind = np.arange(USERS) % KINDS
    old = chance.integers(0, EACH - NEW, (USERS, 7))
    new = EACH - 1 - np.arange(USERS) // KINDS % NEW
    items = kind[:, None] * EACH + np.concatenate([old, new[:, None]], axis=1)
    items = (items + first) % (KINDS * EACH)
    kinds = np.roll(np.arange(KINDS * EACH) // EACH, first)
    tokens = [f"item-{i}" for i in range(KINDS * EACH)]
    with store.new_dataset_folder(path) as folder:
        store.write_dataset(
            folder,
            source="toy",
            options={},
            offsets=np.arange(USERS + 1) * 8,
            events={"item": (items.ravel() + RESERVED).astype(np.int32)},
            vocabularies={
                "item": pa.table(
                    {
                        "token": tokens,
                        "count": [1] * len(tokens),
                        "kind": [f"kind-{k}" for k in kinds],
                    }
                )
            },
            sequences=pa.table({"token": [f"user-{i}" for i in range(USERS)]}),
            counts={},
        )
    return path


def config_for(path, task="next_item", **changed):
    c = small_config(layers=1, init_stddev=0.02, width=16)
    c.data.path, c.tasks, c.data.variables = str(path), (task,), ("item", "item.kind")
    c.train.batch_size, c.train.steps, c.train.eval_every = 100, 100, 100
    c.optim.learning_rate, c.optim.warmup_steps = 1e-2, 0
    c.eval.filter_seen, c.eval.cutoffs, c.train.monitor = False, (6,), "hit_rate@6"
    c.update_from_flattened_dict(changed)
    return c


def own(params):
    """The vectors of the items without their features."""
    return np.asarray(by_name(params)["embedder/tables_item/embedding"])[RESERVED:]


@pytest.mark.parametrize(
    ("task", "changed"),
    [
        pytest.param(
            "next_item",
            {"model.output": "none", "model.output_bias": False},
            marks=pytest.mark.slow,
        ),
        ("masked_item", {"mask.replace": "80/10/10", "train.softmax_chunk": 5}),
    ],
)
def test_items_that_were_never_met_are_ranked_above_all_of_other_categories(
    tmp_path, task, changed, monkeypatch
):
    config = config_for(write(tmp_path / "data"), task, **changed)
    train(config, tmp_path / "run")
    record = evaluate_run(tmp_path / "run", "test")
    # Among the first six there is none but those of the category.
    assert record["cold/hit_rate@6"] == record["hit_rate@6"] == 1
    assert record["targets_never_trained_on"] == USERS
    params = load_run(tmp_path / "run").params
    assert not own(params)[COLD].any() and own(params)[~COLD].all()
    assert task == "next_item" or not params["head_item"]["bias"][COLD].any()
    if task == "masked_item":  # as wrong answers, they are pushed below those of other categories
        monkeypatch.setattr(setup, "cold_constants", lambda cold, tied: {})
        train(config, tmp_path / "pushed")
        assert evaluate_run(tmp_path / "pushed", "test")["cold/hit_rate@6"] < 0.8


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [0, 1, 2, 5, 12])  # of 12 items; the first chunks are all cold
def test_the_loss_without_cold_items_is_that_of_a_catalog_without_them(chunk, bias):
    keys = jax.random.split(jax.random.key(0), 3)
    cold = jnp.isin(jnp.arange(12), jnp.array([0, 1, 2, 3, 7, 11]))
    warm = np.flatnonzero(~cold)
    x, table = jax.random.normal(keys[0], (1, 4, 8)), jax.random.normal(keys[1], (12, 8))
    own_bias = jax.random.normal(keys[2], (12,)) if bias else None
    # The third place weighs nothing, and its target is a cold item.
    targets, weights = jnp.array([[4, 10, 0, 5]]), jnp.array([[1.0, 2.0, 0.0, 1.0]])

    def whole(floats):
        params = {"params": {"bias": floats[2]} if bias else {}, "constants": {"cold": cold}}
        head = ItemHead(
            12, 8, "none", bias, True, False, 1.0, False, "gelu", jax.nn.initializers.zeros
        )
        answers: Any = head.apply(params, floats[0], floats[1], None)
        return softmax_loss(answers, targets, weights, chunk)[0]

    def without(floats):
        x, table, own_bias = floats
        answers = Answers(x, table[warm], own_bias[warm] if bias else None, 0)
        among = jnp.searchsorted(warm, targets).at[0, 2].set(0)
        return softmax_loss(answers, among, weights, 0)[0]

    found = jax.value_and_grad(whole)((x, table, own_bias))
    expected = jax.value_and_grad(without)((x, table, own_bias))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )
    assert not found[1][1][cold].any()
    assert not bias or not found[1][2][cold].any()


@pytest.mark.slow
def test_a_resumed_run_leaves_the_same_items_out(tmp_path):
    # The first item is a cold one: it stands where nothing is asked.
    path = write(tmp_path / "data", first=NEW)
    short = {"train.steps": 2, "train.eval_every": 2, "train.steps_at_once": 1}
    config = config_for(path, "masked_item", **short)
    train(config, tmp_path / "resumed")
    config.train.steps = 4
    train(config, tmp_path / "resumed")
    train(config, tmp_path / "whole")
    one, other = (load_run(tmp_path / n, "last").params for n in ("resumed", "whole"))
    assert all(np.isfinite(values).all() for values in jax.tree.leaves(one))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))
    assert np.array_equal(~own(one).any(1), np.roll(COLD, NEW))


def test_without_features_or_cold_items_nothing_is_left_out(tmp_path):
    data = store.open_dataset(write(tmp_path / "data"))
    some = np.arange(data.events) % 8 < 7
    features = read_item_features(data.vocabulary("item"), ("item", "item.kind"), {})
    assert np.array_equal(cold_items(data, features, some), COLD)
    assert not cold_items(data, {}, some).any()
    none = cold_items(data, features, np.ones(data.events, bool))
    assert not none.any()
    params = {"embedder": {"tables_item": {"embedding": jnp.ones((30, 2))}}}
    assert zero_cold_items(params, none) is params
    assert zero_cold_items(params, COLD)["embedder"]["tables_item"]["embedding"].sum() == 2 * 22
    assert cold_constants(none, True) == cold_constants(COLD, False) == {}
    assert cold_constants(COLD, True)["head_item"]["cold"] is COLD


def test_another_item_at_random_is_one_that_was_met():
    masking = Masking(0.2, "80/10/10", 0.0, 1, 9, (), np.array([7, 9], np.int32))
    found = np.asarray(random_items(jax.random.key(0), (40, 50), masking))
    assert set(found.ravel().tolist()) == {7, 9}
    assert (found == 7).mean() == pytest.approx(0.5, abs=0.05)
    every = random_items(jax.random.key(0), (40, 50), masking._replace(replacements=None))
    assert set(np.asarray(every).ravel().tolist()) == set(range(RESERVED, RESERVED + 9))


@pytest.mark.slow
def test_what_another_run_has_learned_of_a_cold_item_is_kept(tmp_path):
    path = write(tmp_path / "data")
    short = {"train.steps": 2, "train.eval_every": 2, "data.variables": ("item",)}
    train(config_for(path, **short), tmp_path / "first")
    again = {**short, "init.run": str(tmp_path / "first"), "init.skip": ("*/item_features_*",)}
    again["data.variables"] = ("item", "item.kind")
    _, state = set_up(config_for(path, **again), tmp_path / "second")
    assert np.array_equal(own(state.params), own(load_run(tmp_path / "first").params))
