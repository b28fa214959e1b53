"""Asking with a condition: what may be told of the event that is asked for, and what may not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import layout, make_task, small_config

from clickflax.batch import MASK, NEXT_EVENT, RESERVED
from clickflax.data.batches import Windows, fill_rows, shift_left
from clickflax.data.splits.common import EventLog, SplitOptions
from clickflax.data.splits.strategies import by_each_event
from clickflax.data.store import open_dataset
from clickflax.data.variables import Variable, describe_variables, encode_value, read_columns
from clickflax.evaluation.main import evaluate_run
from clickflax.evaluation.request import EvalRequest
from clickflax.inference import recommend
from clickflax.run.folder import encode_condition, load_run
from clickflax.run.model import build_model
from clickflax.run.targets import hidden_conditions, make_task_data, mask_columns
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import ACTIONS, Shop, make_shop, simulate_visits
from clickflax.tasks.task import Masking
from clickflax.training.loop import train
from clickflax.training.setup import set_up
from clickflax.training.step import init_params

pytestmark = pytest.mark.usefixtures("optax_promotes")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "data"
    simulate(path, Shop(sequences=200, items=40, mean_length=6.0, max_length=12))
    return path


def config_for(shop, *tasks, **changed):
    c = small_config(layers=1)
    c.tasks, c.data.path = tasks, str(shop)
    c.data.variables, c.data.given = ("item", "action", "price"), ("action", "price")
    c.data.position_from = "start"
    c.train.update({"batch_size": 64, "steps": 4, "eval_every": 2, "log_every": 2})
    c.update_from_flattened_dict(changed)
    return c


def question(task, given):
    """200 rows of four events with the actions 6, 7, 6, 7 and the prices 1, 2, 3, 4."""
    columns = {
        "item": np.array([6, 7, 8, 9], np.int32),
        "action": np.array([6, 7, 6, 7], np.int32),
        "price": np.array([1, 2, 3, 4], np.float32),
    }
    columns |= {NEXT_EVENT + name: shift_left(columns[name]) for name in given}
    rows = np.arange(200)
    windows = Windows(np.zeros(200, int), np.full(200, 4))
    labels = {"next_item": shift_left(columns["item"])}
    batch = fill_rows(columns, windows, rows, 200, layout(4, position_from="start"), labels=labels)
    masking = Masking(0.5, "mask", 0.0, 2, 4, given)
    batch = jax.tree.map(jnp.asarray, batch)
    return make_task(task).prepare(jax.random.key(0), batch, masking)


def test_the_cloze_tells_half_of_what_is_given_and_nothing_else():
    inputs = question("masked_item", ("action",)).inputs
    hidden = np.asarray(inputs["item"] == MASK)
    assert hidden.sum() == 400
    assert np.isinf(np.asarray(inputs["price"])[hidden]).all()
    told = np.asarray(inputs["action"])[hidden]
    assert 150 < (told == MASK).sum() < 250
    assert set(told.tolist()) == {MASK, 6, 7}


def test_a_causal_model_is_told_half_of_what_comes_after():
    inputs = question("next_item", ("action", "price")).inputs
    action = np.asarray(inputs[NEXT_EVENT + "action"])
    price = np.asarray(inputs[NEXT_EVENT + "price"])
    assert set(action[:, 0].tolist()) == {MASK, 7}
    assert set(price[:, 0].tolist()) == {np.inf, 2.0}
    apart = (action[:, 0] == MASK) & np.isfinite(price[:, 0])
    assert 25 < apart.sum() < 75
    assert (np.asarray(inputs["action"]) == [6, 7, 6, 7]).all()


def test_of_the_event_after_is_read_what_it_has(shop):
    data = open_dataset(shop)
    trained = np.ones(data.events, bool)
    columns = read_columns(
        data, describe_variables(data, ("item", "price"), {"price": 4}, trained, ("price",))
    )
    assert np.array_equal(columns[NEXT_EVENT + "price"][:-1], columns["price"][1:])


def test_what_is_told_in_words_becomes_what_the_column_has(shop):
    actions = open_dataset(shop).vocabulary("action")
    assert encode_value("action", Variable(10), actions, "cart") == actions.ids(["cart"])[0]
    assert encode_value("price", Variable(mean=2.0, scale=4.0), None, "10") == 2.0
    assert encode_value("price", Variable(9, edges=(1.0, 5.0)), None, "5") == RESERVED + 2
    assert encode_value("hour", Variable(RESERVED + 24), None, "14") == RESERVED + 14
    with pytest.raises(ValueError, match="weekday=7 is not a whole number from 0 to 6"):
        encode_value("weekday", Variable(RESERVED + 7), None, "7")
    with pytest.raises(ValueError, match="'action' is never 'stolen'; it is one of"):
        encode_value("action", Variable(10), actions, "stolen")
    with pytest.raises(ValueError, match="price=dear is not a number"):
        encode_value("price", Variable(), None, "dear")


def test_nobody_is_told_the_answer_nor_what_comes_after_a_label(shop):
    config = config_for(
        shop,
        "next_item",
        "next_action",
        "masked_item",
        "purchase",
        **{
            "data.split": "time",
            "data.validation_from": "2025-02-15",
            "data.test_from": "2025-03-01",
        },
    )
    data = open_dataset(shop)
    asked = make_task_data(config, data)
    trained = np.ones(data.events, bool)
    variables = describe_variables(
        data, ("item", "action", "price"), {}, trained, ("action", "price")
    )
    columns = read_columns(data, variables)
    for name, hidden in {
        "next_item": set(),
        "next_action": {"next.action"},
        "masked_item": {"next.action", "next.price"},
        "purchase": {"next.action", "next.price"},
    }.items():
        seen = asked[name].reads(columns)
        assert {n for n in seen if n.startswith(NEXT_EVENT) and _says_nothing(seen[n])} == hidden
    config.eval.given = ("action=buy",)
    words = {
        name: encode_condition(config, one.task, variables, data.vocabularies)
        for name, one in asked.items()
    }
    buy = data.vocabulary("action").ids(["buy"])[0]
    assert words["next_item"] == {"next.action": buy, "next.price": np.inf}
    assert words["next_action"] == {"next.action": MASK, "next.price": np.inf}
    assert words["masked_item"] == words["purchase"] | {"action": buy}
    assert words["purchase"] == {"next.action": MASK, "next.price": np.inf}


def _says_nothing(values):
    return bool((values == MASK).all() if values.dtype.kind == "i" else np.isinf(values).all())


def test_every_event_of_a_period_is_a_question_about_what_came_before_it():
    offsets, day = np.array([0, 3, 5]), 24 * 3600 * 1_000_000
    log = EventLog(offsets, np.arange(5) + RESERVED, np.array([0, 1, 2, 1, 2]) * day)
    options = SplitOptions(-1, "1970-01-02", "1970-01-03")
    found = by_each_event(log, options)
    assert found.train.stop.tolist() == [1, 3]
    assert list(zip(*found.validation.history, strict=True)) == [(0, 1)]
    assert list(zip(*found.test.history, strict=True)) == [(0, 2), (3, 4)]
    assert found.test.targets.tolist() == [2 + RESERVED, 4 + RESERVED]
    assert found.dropped == {"events without a history": 1, "events after the test": 0}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["next_item", "masked_item"])
def test_a_condition_changes_the_answer_of_one_model(shop, tmp_path, task):
    train(config_for(shop, task), tmp_path / "run")
    run = load_run(tmp_path / "run")
    answers = [
        recommend.top_k(run, [["item-1", "item-2"]], k=5, given=given)[0]
        for given in ((), ("action=buy",), ("action=buy", "price=3"))
    ]
    scores = [[answer.score for answer in some] for some in answers]
    assert scores[0] != scores[1] != scores[2]
    records = [
        evaluate_run(tmp_path / "run", "test", EvalRequest(where="action=buy", given=given))
        for given in ((), ("action=buy",))
    ]
    bought = open_dataset(shop).vocabulary("action").ids(["buy"])[0]
    data = open_dataset(shop)
    last = data.columns["action"][data.offsets[1:] - 1]
    assert [record["users"] for record in records] == [(last == bought).sum()] * 2
    assert records[0]["protocol"]["given"] == []
    assert records[1]["protocol"]["where"] == "action=buy"
    assert records[0]["ndcg@10"] != records[1]["ndcg@10"]
    assert (tmp_path / "run" / "test.where.action=buy.given.action=buy.json").is_file()
    assert not (tmp_path / "run" / "test.json").is_file()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data.given": ("colour",)}, "data.given names 'colour'; it may name"),
        ({"data.given": ("item",)}, "data.given names 'item'; it may name"),
        ({"eval.given": ("action",)}, "'action' is not of the form action=buy"),
        ({"data.given": (), "eval.given": ("action=buy",)}, "with a variable of config.data.given"),
        ({"eval.given": ("action=buy", "action=cart")}, "names a variable twice"),
        ({"tasks": ("next_action",), "data.given": ("action",)}, "which these could condition"),
        ({"eval.given": ("action=stolen",)}, "'action' is never 'stolen'"),
    ],
)
def test_what_cannot_be_told_is_an_error(shop, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        set_up(config_for(shop, "next_item", **changed), tmp_path / "run")


def test_the_truth_conditioned_on_an_action_is_its_frequency():
    shop = Shop(sequences=40_000, items=12, tastes=2, thrift=2.0, seed=3)
    _, truth = make_shop(shop)
    visits = simulate_visits(shop, truth)
    first = visits.offsets[:-1]
    for given in ("cart", "buy"):
        answer = truth.next_items(np.zeros((1, 1), np.int32), next_action=given)[0]
        second = visits.item[first[visits.action[first] == ACTIONS.index(given)]]
        if given == "cart":
            share = np.bincount(second, minlength=12) / len(second)
            np.testing.assert_allclose(answer, share, atol=0.02)
        assert answer.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="next_action='view' is not one of"):
        truth.next_items(np.zeros((1, 1), np.int32), next_action="view")


@pytest.mark.slow
def test_recommend_and_evaluate_read_a_history_alike(shop, tmp_path):
    config = config_for(
        shop, "masked_item", "next_item", **{"train.monitor": "masked_item/ndcg@10"}
    )
    train(config, tmp_path / "run")
    run, data = load_run(tmp_path / "run"), open_dataset(shop)
    recommend.write_recommendations(run, None, None, tmp_path / "lists.parquet", 3, False, ())
    columns = read_columns(data, run.variables)
    asked = make_task_data(config, data)["masked_item"]
    assert recommend.recommender_of(run).task.head == "item"
    assert asked.hidden == hidden_conditions(run.config, run.tasks["masked_item"])
    seen = mask_columns(columns, asked.hidden)
    assert _says_nothing(seen["next.action"]) and not _says_nothing(columns["next.action"])


def test_a_hidden_item_cannot_be_read_from_another_variable_of_its_event():
    sizes = {"item": RESERVED + 4, "price": 0}
    model = build_model(small_config().model, sizes)
    columns = {"item": np.array([6, 7, 8, 9], np.int32), "price": np.ones(4, np.float32)}
    windows = Windows(np.array([0]), np.array([4]))
    batch = fill_rows(columns, windows, np.array([0]), 1, layout(position_from="start"))
    batch = jax.tree.map(jnp.asarray, batch)
    params = init_params(model, jax.random.key(0), batch)
    hide = make_task("masked_item").prepare

    def told(price):
        some = batch._replace(variables={**batch.variables, "price": price})
        asked = hide(jax.random.key(1), some, Masking(0.5, "mask", 0.0, 2, 4, ()))
        hidden = model.apply(
            {"params": params},
            asked.inputs,
            batch.segment,
            batch.position,
            False,
            False,
            asked.positions,
            method="encode",
        )
        scores = model.apply({"params": params}, hidden, "item", method="answer").scores()
        return scores.max(), asked.inputs["item"] == MASK

    there = jnp.where(batch.segment > 0, batch.variables["price"], 0.0)
    slope, hidden = jax.grad(told, has_aux=True)(there)
    assert hidden.sum() == 2
    assert (slope[hidden] == 0).all()
    assert (slope[0, :4][~hidden[0, :4]] != 0).all()
