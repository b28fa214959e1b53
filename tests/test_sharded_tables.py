"""Tables that devices share by rows: the same numbers, and no device is sent the rows of others."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import OWN, assert_alike, config_for, steps
from toy import small_config

from clickflax.config.check import check_config
from clickflax.evaluation.main import evaluate_run
from clickflax.evaluation.request import EvalRequest
from clickflax.inference import recommend
from clickflax.run.folder import load_run
from clickflax.run.sharded_tables import place_on_mesh, trim_tables
from clickflax.runtime import sharding
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.tasks.ranks import top_k_items
from clickflax.training import input_pipeline as feed
from clickflax.training import setup
from clickflax.training.loop import train

pytestmark = pytest.mark.usefixtures("optax_promotes")

ITEMS = 61  # and 6 reserved ids: neither 4 nor 8 devices have equally many
SHARED = {"negatives": 5, "drawn": "in_batch", "shared": True}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "data"
    simulate(path, Shop(sequences=40, items=ITEMS, mean_length=6.0, max_length=12))
    return path


def shared_config(shop, model_devices, task="next_item", loss=(), **changes):
    config = config_for(shop, model_devices=model_devices, batch_size=13)
    config.tasks = (task,)
    config.loss.update(dict(loss))
    config.model.update(changes)
    return config


@pytest.mark.parametrize(
    ("shares", "task", "loss", "model"),
    [
        (8, "masked_item", {}, {}),
        pytest.param(
            4, "next_item", SHARED, {"cosine": True, "repeat": True}, marks=pytest.mark.slow
        ),
        pytest.param(8, "next_item", OWN, {"tied": False}, marks=pytest.mark.slow),
    ],
)
def test_devices_that_share_tables_learn_what_one_learns(shop, tmp_path, shares, task, loss, model):
    params, places = [], []
    for model_devices in (1, shares):
        config = shared_config(shop, model_devices, task, loss, **model)
        context, state, _ = steps(config, tmp_path / str(model_devices), 3)
        evaluator = context.evaluators[task]
        params.append(trim_tables(context.model, state.params))
        places.append(evaluator.evaluate(state.params, "test").values)
    assert dict(context.mesh.shape) == {"data": 8 // shares, "model": shares}
    assert_alike(*params, rtol=1e-4, atol=1e-6)
    assert np.array_equal(*places)


def spy_on(function, texts):
    """The function; the text of its compiled program is added at each call."""

    def run(*given):
        texts.append(function.lower(*given).compile().as_text())
        return function(*given)

    return run


@pytest.mark.parametrize(
    ("loss", "at_once"), [({}, 1), ({"negatives": 5, "shared": True}, 1), ({}, 3)]
)
def test_a_device_has_its_rows_of_a_table_and_of_its_moments_and_is_sent_no_more(
    shop, tmp_path, monkeypatch, loss, at_once
):
    compiled, compile_step = [], sharding.compile_step
    monkeypatch.setattr(
        feed.sharding, "compile_step", lambda *args: spy_on(compile_step(*args), compiled)
    )
    config = shared_config(shop, 8, loss=loss, width=32)
    config.train.steps_at_once = at_once
    context, state, _ = steps(config, tmp_path / "run", at_once)
    tables = [x for x in jax.tree.leaves((state.params, state.optimizer)) if x.shape == (72, 32)]
    assert len(tables) == 3  # with both moments of Adam
    for table in tables:
        assert {shard.data.shape for shard in table.addressable_shards} == {(9, 32)}
    evaluator = context.evaluators["next_item"]
    finish = functools.partial(top_k_items, k=3, top_k=sharding.find_top_k(context.mesh))
    program = spy_on(evaluator.predictor.compile(finish), compiled)
    history = evaluator.data.test.history
    list(evaluator.predictor.predict(state.params, program, evaluator.columns, history, True))
    sent = [
        [int(n) for n in shape.split(",") if n]
        for line in "\n".join(compiled).splitlines()
        if re.search(r" (all-gather|all-reduce|all-to-all|collective-permute)(-start)?\(", line)
        for shape in re.findall(r"\[([\d,]*)\]", line.split(" = ")[1].split("(%")[0])
    ]
    assert sent  # this is how the text of a program names what devices send
    whole = {ITEMS, ITEMS + 6, 72}  # items, rows of the table, and these filled up
    assert not [shape for shape in sent if whole & set(shape)]
    assert len(compiled) >= 2  # of the steps, and of the lists


def test_no_device_has_the_whole_of_a_table_at_the_beginning(shop, tmp_path, monkeypatch):
    compiled, jit, first_params = [], jax.jit, setup.first_params

    def spied(*given):
        with monkeypatch.context() as patched:
            patched.setattr(jax, "jit", lambda function: spy_on(jit(function), compiled))
            return first_params(*given)

    monkeypatch.setattr(setup, "first_params", spied)
    setup.set_up(shared_config(shop, 8, width=32), tmp_path / "run")
    (text,) = compiled
    shapes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"\[(\d+,\d+)\]", text)}
    assert (9, 32) in shapes
    assert not [shape for shape in shapes if {ITEMS, ITEMS + 6, 72} & set(shape)]


@pytest.mark.slow
def test_what_a_run_starts_from_is_shared_too(shop, tmp_path):
    train(shared_config(shop, 4), tmp_path / "origin")
    simulate(tmp_path / "more", Shop(sequences=40, items=ITEMS + 2, mean_length=6.0, max_length=12))
    params = []
    for model_devices in (1, 8):
        config = shared_config(tmp_path / "more", model_devices)
        config.init.run, config.init.vocab = str(tmp_path / "origin"), "remap"
        config.init.skip = ("head_*",)
        context, state = setup.set_up(config, tmp_path / str(model_devices))
        params.append(trim_tables(context.model, state.params))
    assert_alike(*params, rtol=0, atol=0)
    table = state.params["embedder"]["tables_item"]["embedding"]
    assert {shard.data.shape[0] for shard in table.addressable_shards} == {9}
    origin = load_run(tmp_path / "origin").params["embedder"]["tables_item"]["embedding"]
    assert np.array_equal(origin[:6], params[1]["embedder"]["tables_item"]["embedding"][:6])


@pytest.mark.slow
def test_a_run_goes_on_and_answers_with_another_number_of_sharing_devices(shop, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(shared_config(shop, 1), whole)
    config = shared_config(shop, 4)
    config.train.steps = 3
    train(config, parts)
    assert load_run(parts).params["embedder"]["tables_item"]["embedding"].shape[0] == ITEMS + 6
    train(shared_config(shop, 8), parts)
    runs = [load_run(folder, "last") for folder in (whole, parts)]
    assert_alike(runs[0].params, runs[1].params, rtol=1e-4, atol=1e-6)
    records = [evaluate_run(folder, "test", EvalRequest(lists=True)) for folder in (whole, parts)]
    for name, value in records[0].items():
        if isinstance(value, float) and "seconds" not in name:
            assert records[1][name] == pytest.approx(value), name
    lists = [recommend.top_k(run, [["item-1", "item-2"]], k=5)[0] for run in runs]
    assert [one.title for one in lists[0]] == [one.title for one in lists[1]]


def test_the_highest_of_shared_columns_are_those_of_all():
    mesh = sharding.make_mesh(8)
    scores = np.random.default_rng(0).integers(0, 9, (5, 21)).astype(np.float32)  # many are equal
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    for k in (1, 3, 21):
        with jax.set_mesh(mesh):
            found = jax.jit(sharding.find_top_k(mesh), static_argnums=1)(
                jax.device_put(scores, here), k
            )
        for ours, theirs in zip(found, jax.lax.top_k(scores, k), strict=True):
            assert np.array_equal(ours, theirs)


def test_rows_that_fill_up_a_table_are_zero_and_no_part_of_the_model(shop, tmp_path):
    context, state, _ = steps(shared_config(shop, 8), tmp_path / "run", 1)
    table = state.params["embedder"]["tables_item"]["embedding"]
    assert table.shape[0] == 72 and not np.asarray(table[ITEMS + 6 :]).any()
    small = trim_tables(context.model, state.params)
    assert small["embedder"]["tables_item"]["embedding"].shape[0] == ITEMS + 6
    assert_alike(
        trim_tables(context.model, place_on_mesh(small, context.mesh)), small, rtol=0, atol=0
    )
    assert small["head_item"]["bias"].shape == (ITEMS,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_devices": 0}, "model_devices=0 must be from 1 to 65536"),
        ({"model_devices": 2, "parallel": "pmap"}, "parallel='pmap'"),
        ({"model_devices": 2, "softmax_chunk": 10}, "softmax_chunk=10"),
    ],
)
def test_what_does_not_go_with_shared_tables_is_refused(changes, message):
    config = small_config()
    config.train.update(changes)
    with pytest.raises(ValueError, match=message):
        check_config(config)


def test_a_mesh_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(ValueError, match="model_devices=3 does not divide the 8 devices"):
        sharding.make_mesh(3)
    assert jnp.array_equal(sharding.make_mesh(2).devices.shape, (4, 2))
