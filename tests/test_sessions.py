"""Sequences of several sessions: SEPs, conditions, targets of a session, and CLS."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from toy import layout, make_task, small_config

from clickflax.batch import CLS, MASK, NA, PAD, RESERVED, SEP, Batch
from clickflax.config import default
from clickflax.data import store
from clickflax.data.batches import Query, Windows, fill_rows
from clickflax.data.eval_batches import DeviceLayout, eval_batches
from clickflax.data.running_counts import count_matching
from clickflax.data.sessions import find_sessions
from clickflax.data.splits.baskets import split_baskets
from clickflax.data.splits.common import EventLog, SplitOptions
from clickflax.data.splits.labels import LABEL_SOURCES, LabelOptions
from clickflax.data.variables import Variable, describe_variables, find_column, read_columns
from clickflax.data.where import matches
from clickflax.evaluation.main import evaluate_run
from clickflax.inference import recommend
from clickflax.run.folder import load_run
from clickflax.run.targets import events_in_training, make_task_data
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.tasks.cloze import choose_masked
from clickflax.tasks.task import MAY_MASK, Masking
from clickflax.training.loop import train
from clickflax.training.setup import set_up

pytestmark = pytest.mark.usefixtures("optax_promotes")

HOUR = 3600 * 1_000_000
DAY = 24 * HOUR
SLOW = pytest.mark.slow
# Two users; a day lies between their visits. What they did: view, view, buy | view, buy | view and
# view | view.
OFFSETS = np.array([0, 6, 9])
NUMBER = [0, 0, 0, 1, 1, 2, 0, 0, 1]
TIME = np.array([0, 1, 2, 26, 27, 52, 0, 1, 26]) * HOUR
VIEW, BUY = RESERVED, RESERVED + 1
ACTION = [VIEW, VIEW, BUY, VIEW, BUY, VIEW, VIEW, VIEW, VIEW]
ITEM = np.arange(9) + RESERVED


def write(path, times=True):
    columns = {
        "item": ITEM.astype(np.int32),
        "action": np.array(ACTION, np.int32),
        "price": np.arange(9, dtype=np.float32),
        "visit": (np.array(NUMBER) + np.array([0] * 6 + [7] * 3) + RESERVED).astype(np.int32),
    }
    visits = [str(i) for i in range(9)]
    with store.new_dataset_folder(path) as folder:
        store.write_dataset(
            folder,
            source="toy",
            options={},
            offsets=OFFSETS,
            events=columns | ({"time": TIME} if times else {}),
            vocabularies={
                "item": pa.table({"token": [f"i{i}" for i in range(9)], "count": [1] * 9}),
                "action": pa.table({"token": ["view", "buy"], "count": [7, 2]}),
                "visit": pa.table({"token": visits, "count": [1] * 9}),
            },
            sequences=pa.table({"token": ["u", "v"]}),
            counts={},
        )
    return store.open_dataset(path)


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "toy").with_sessions("12h")


def options(validation="", test="", users=-1):
    return SplitOptions(users, validation, test)


def test_a_pause_or_another_value_of_a_variable_begins_a_session(data):
    for by in ("12h", "visit"):
        sessions = find_sessions(by, data.offsets, data.columns)
        assert sessions.number.tolist() == NUMBER
        assert sessions.position.tolist() == [0, 1, 2, 4, 5, 7, 8, 9, 11]
    assert data.session_bounds.tolist() == [0, 3, 5, 6, 8, 9]
    longer = find_sessions("25h", data.offsets, data.columns)
    assert longer.number.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("by", "message"),
    [("30", "data.chain=30 is not a time"), ("basket", "neither a pause .* nor one of .*'action'")],
)
def test_a_chain_of_nothing_is_an_error(data, by, message):
    with pytest.raises(ValueError, match=message):
        data.with_sessions(by)


def test_a_pause_needs_times(tmp_path):
    with pytest.raises(ValueError, match="'12h' is a pause, and this data set has no times"):
        write(tmp_path / "toy", times=False).with_sessions("12h")


def test_a_sep_stands_before_every_session_but_the_first(data):
    names = ("item", "action", "price", "session")
    columns = read_columns(data, describe_variables(data, names, {}, np.ones(9, bool)))
    at = [3, 6, 10]
    assert np.flatnonzero(columns["item"] == SEP).tolist() == at
    assert (columns["action"][at] == SEP).all() and np.isnan(columns["price"][at]).all()
    events = np.delete(columns["item"], at)
    assert events.tolist() == ITEM.tolist()
    assert (np.delete(columns["session"], at) - RESERVED).tolist() == NUMBER


def test_a_history_ends_with_the_sep_of_a_session_that_is_about_to_begin(data):
    windows = Windows(np.array([0, 0, 6, 3]), np.array([3, 4, 9, 3]))
    assert data.position_ranges(windows).stop.tolist() == [3, 5, 12, 4]
    assert data.position_ranges(windows, separator=True).stop.tolist() == [4, 5, 12, 4]
    assert data.position_ranges(windows).start.tolist() == [0, 0, 8, 4]


def test_events_are_selected_by_value_or_by_session(data):
    assert matches(data, "").all()
    assert np.flatnonzero(matches(data, "action=buy")).tolist() == [2, 4]
    assert matches(data, "action=buy|view").all()
    assert np.flatnonzero(matches(data, "session=-1")).tolist() == [5, 8]
    assert np.flatnonzero(matches(data, "session=-2")).tolist() == [3, 4, 6, 7]
    assert np.flatnonzero(matches(data, "session=1")).tolist() == [3, 4, 8]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("action", "not of the form action=buy"),
        ("action=buy&", "'' is not of the form action=buy"),
        ("action=cart", "'action' is never 'cart' .* one of \\['buy', 'view'\\]"),
        ("colour=red", "'colour' is not a categorical variable"),
        ("session=last", "not a number such as 0 or -1"),
        ("session=7", "no event of .* has 'session=7'"),
    ],
)
def test_a_condition_that_chooses_nothing_is_an_error(data, condition, message):
    with pytest.raises(ValueError, match=message):
        matches(data, condition)


def test_how_often_a_value_came_so_far_is_counted_in_each_sequence(data):
    found = read_columns(data, {"count.action=buy": Variable()})["count.action=buy"]
    events = np.delete(found, [3, 6, 10])
    np.testing.assert_allclose(np.expm1(events), [0, 0, 1, 1, 2, 2, 0, 0, 0], atol=1e-6)


def test_the_time_since_a_value_came_last_is_missing_before_it_came(data):
    found = read_columns(data, {"since.action=buy": Variable()})["since.action=buy"]
    hours = np.expm1(np.delete(found, [3, 6, 10]).astype(np.float64)) / 3600
    expected = [np.nan, np.nan, np.nan, 24, 25, 25, np.nan, np.nan, np.nan]
    np.testing.assert_allclose(hours, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("action", [1, 2, 1, 3, 2, 4, 1, 2, 3]),
        ("session", [1, 2, 3, 1, 2, 1, 1, 2, 1]),
        ("session&action=buy", [0, 0, 1, 0, 1, 0, 0, 0, 0]),
        ("action&session", [1, 2, 1, 1, 1, 1, 1, 2, 1]),
        ("action&session=0", [1, 2, 1, 2, 1, 2, 1, 2, 2]),
        ("item", [1] * 9),
    ],
)
def test_an_event_counts_those_of_its_own_value(data, condition, expected):
    assert count_matching(data, condition).count().tolist() == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("action", [-1, 0, -1, 1, 2, 3, -1, 6, 7]),
        ("session", [-1, 0, 1, -1, 3, -1, -1, 6, -1]),
        ("session&action=view", [-1, 0, 1, -1, 3, -1, -1, 6, -1]),
        ("session&action=buy", [-1] * 9),
    ],
)
def test_an_event_finds_the_last_one_before_of_its_own_value(data, condition, expected):
    assert count_matching(data, condition).last().tolist() == expected


def test_an_event_without_a_value_is_like_no_other(data):
    columns = {**data.columns, "action": np.array(ACTION, np.int32)}
    columns["action"][3] = NA
    found = count_matching(dataclasses.replace(data, columns=columns), "action")
    np.testing.assert_array_equal(found.count(), [1, 2, 1, np.nan, 2, 3, 1, 2, 3])
    assert found.last().tolist() == [-1, 0, -1, -1, 2, 1, -1, 6, 7]


@pytest.mark.parametrize(
    ("task", "variable"),
    [
        ("masked_action", "count.action=buy"),
        ("masked_action", "count.session&action=buy"),
        ("masked_action", "since.action"),
        ("masked_item", "count.item&action=buy"),
        ("returns", "count.action"),
        ("returns", "since.item&action=buy"),
    ],
)
def test_what_is_hidden_is_not_counted_for_others_to_read(data, task, variable):
    config = config_for(data, task)
    config.data.variables = ("item", "action", variable)
    config.label.back = "view"
    with pytest.raises(ValueError, match=f"'{variable}' reveals the targets of {task}"):
        make_task_data(config, data)
    config.tasks = ("next_action",)
    assert make_task_data(config, data)


def test_conditions_are_joined(data):
    assert np.flatnonzero(matches(data, "action=view&session=0")).tolist() == [0, 1, 6, 7]
    assert np.flatnonzero(matches(data, "session=-1&action=view|buy")).tolist() == [5, 8]


@pytest.mark.parametrize(("old", "new"), [("part=-1", "session=-1"), ("part=0", "session=0")])
def test_a_condition_of_0_1_0_means_the_same(data, old, new):
    assert np.array_equal(matches(data, old), matches(data, new))


def test_the_variables_of_0_1_0_are_those_of_today(data):
    names = ("{}", "count.{}", "count.{}&action=buy", "since.action&{}", "count.{}=0")
    old, new = ([name.format(word) for name in names] for word in ("part", "session"))
    for one, other in zip(old, new, strict=True):
        found, expected = find_column(data, one), find_column(data, other)
        assert found.size == expected.size
        assert np.array_equal(found.values, expected.values, equal_nan=True)


@pytest.mark.parametrize("name", ["session", "part"])
def test_a_variable_of_the_log_takes_precedence_over_the_number_of_the_session(data, name):
    columns = {**data.columns, name: data.columns["visit"]}
    vocabularies = {**data.vocabularies, name: data.vocabularies["visit"]}
    own = dataclasses.replace(data, columns=columns, vocabularies=vocabularies)
    assert find_column(own, name).values is data.columns["visit"]
    token = data.vocabularies["visit"].token(int(data.columns["visit"][4]))
    assert np.array_equal(matches(own, f"{name}={token}"), matches(data, f"visit={token}"))


def test_a_condition_on_sessions_needs_sessions(data):
    with pytest.raises(ValueError, match="needs sessions: set config.data.chain"):
        matches(data.with_sessions(""), "session=-1")


def config_for(data, task, **changed):
    c = default()
    c.tasks, c.data.path, c.data.chain = (task,), str(data.path), "12h"
    c.data.variables, c.data.position_from = ("item", "action"), "start"
    c.update_from_flattened_dict(changed)
    return c


def test_the_first_item_of_a_session_is_predicted_at_its_sep(data):
    config = config_for(data, "next_item", **{"data.split": "leave_one_out"})
    asked = make_task_data(config, data)["next_item"]
    label = asked.labels["next_item"]
    assert label[2] == SEP and label[3] == ITEM[3]  # no target after the last of a session
    assert asked.test.history.stop.tolist() == [7, 11]
    assert asked.test.targets.tolist() == [ITEM[5], ITEM[8]]


def test_only_what_is_asked_for_is_a_target(data):
    config = config_for(data, "next_item", task_where=("action=buy",))
    asked = make_task_data(config, data)["next_item"]
    label = asked.labels["next_item"]
    assert np.flatnonzero(label >= RESERVED).tolist() == [1, 4]
    assert asked.validation.targets.tolist() == [ITEM[4]] and len(asked.test) == 0
    assert asked.dropped["targets without a value, or not selected"] == 2  # of the test


def test_the_cloze_hides_no_sep_and_nothing_that_it_does_not_ask_for(data):
    config = config_for(data, "masked_item", task_where=("action=buy",))
    asked = make_task_data(config, data)["masked_item"]
    assert np.flatnonzero(asked.labels[MAY_MASK]).tolist() == [2, 5]
    asked = make_task_data(config_for(data, "masked_item"), data)["masked_item"]
    may = asked.labels[MAY_MASK] > 0
    assert np.flatnonzero(~may).tolist() == [3, 6, 10]
    segment = jnp.array([[1] * 8 + [2] * 4])
    for seed in range(20):
        for last, wanted in ((0.0, [3, 2]), (1.0, [1, 1])):
            hidden = choose_masked(
                jax.random.key(seed), segment, 0.5, last, jnp.asarray(may)[None]
            )[0]
            assert not (hidden & ~may).any()
            assert [int(hidden[:8].sum()), int(hidden[8:].sum())] == wanted
            if last:
                assert np.flatnonzero(hidden).tolist() == [7, 11]


def test_a_purchase_is_predicted_in_each_session_and_earlier_ones_are_read(data):
    found = LABEL_SOURCES["purchase"](data, LabelOptions("buy", "return", 0, ""))
    expected = [1, 1, np.nan, 1, np.nan, 0, 0, 0, 0]
    assert np.array_equal(found.label, expected, equal_nan=True)
    assert found.known.tolist() == [2, 2, 2, 4, 4, 5, 7, 7, 8]
    assert list(zip(*found.ranges, strict=True)) == [(0, 6), (6, 9)]


def log_of(data):
    return EventLog(data.offsets, ITEM, data.columns["time"], None, data.session_bounds)


def test_the_last_basket_is_the_test_and_the_one_before_it_the_validation(data):
    found = split_baskets("leave_one_out", log_of(data), options())
    assert list(zip(*found.train, strict=True)) == [(0, 3), (6, 8)]
    assert found.validation.history.stop.tolist() == [3]
    assert found.validation.targets.tolist() == ITEM[3:5].tolist()
    assert found.test.history.stop.tolist() == [5, 8]
    assert found.test.targets.tolist() == [ITEM[5], ITEM[8]]
    fewer = split_baskets("leave_one_out", log_of(data), options(users=0))
    assert fewer.train.stop.tolist() == [5, 8] and len(fewer.validation) == 0


def test_baskets_of_a_period_are_its_targets(data):
    found = split_baskets("time", log_of(data), options("1970-01-02", "1970-01-03"))
    assert list(zip(*found.train, strict=True)) == [(0, 3), (6, 8)]
    assert found.validation.history.stop.tolist() == [3, 8]
    assert found.validation.owner.tolist() == [0, 0, 1]
    assert found.test.targets.tolist() == [ITEM[5]]
    with pytest.raises(ValueError, match="does not split baskets: set one of"):
        split_baskets("sequence_time", log_of(data), options())


def test_a_basket_is_asked_for_at_its_sep_and_what_has_no_sep_is_no_target(data):
    asked = make_task_data(config_for(data, "basket"), data)["basket"]
    columns = {"item": data.with_separators(data.columns["item"])}
    windows = Windows(np.array([1, 8]), np.array([8, 12]))
    batch = fill_rows(
        columns,
        windows,
        np.zeros(2, int),
        1,
        layout(13, position_from="start"),
        labels=asked.labels,
    )
    question = make_task("basket").prepare(
        jax.random.key(0), jax.tree.map(jnp.asarray, batch), Masking(0.2, "mask", 0.0, 3, 9, ())
    )
    # Row: i1 i2 SEP i3 i4 SEP i5 | i6 i7 SEP i8
    assert np.flatnonzero(question.weights[0]).tolist() == [3, 4, 6, 10]
    assert question.positions[0, jnp.array([3, 4, 6, 10])].tolist() == [2, 2, 5, 9]
    assert question.targets[0, jnp.array([3, 4, 6, 10])].tolist() == [3, 4, 5, 8]


def test_cls_opens_every_window_and_has_the_label_of_the_last_event():
    columns = {"item": ITEM.astype(np.int32), "price": np.arange(9, dtype=np.float32)}
    windows = Windows(np.array([0, 6]), np.array([3, 8]))
    labels = {"label": np.arange(9, dtype=np.float32)}
    batch = fill_rows(
        columns,
        windows,
        np.zeros(2, int),
        1,
        layout(8, position_from="start", cls=True),
        labels=labels,
    )
    assert batch.variables["item"][0].tolist() == [CLS, *ITEM[:3], CLS, *ITEM[6:8], PAD]
    assert np.isnan(batch.variables["price"][0, [0, 4]]).all()
    assert batch.position[0].tolist() == [0, 1, 2, 3, 0, 1, 2, PAD]
    assert batch.labels["label"][0, :7].tolist() == [2, 0, 1, 2, 7, 6, 7]


def test_places_are_reserved_for_cls_and_for_mask():
    (asked,) = eval_batches(
        {"item": ITEM.astype(np.int32)},
        Windows(np.array([0]), np.array([9])),
        layout(5, cls=True),
        Query(MASK),
        DeviceLayout(1, 1, 1),
        seen=False,
    )
    assert asked.batch.variables["item"].ravel().tolist() == [CLS, *ITEM[6:], MASK]
    assert asked.last.ravel()[0] == 4


def row(at):
    item = jnp.array([[CLS, 7, 8, CLS, 9, PAD]])
    label = jnp.array([[1.0, jnp.nan, 1.0, 0.0, 0.0, jnp.nan]])
    segment = jnp.array([[1, 1, 1, 2, 2, 0]])
    batch = Batch({"item": item}, segment, segment, {"label": label})
    task = make_task("label", False, at)
    return task.prepare(jax.random.key(0), batch, Masking(0.2, "mask", 0.0, 1, 9, ()))


def test_a_label_is_asked_at_its_event_or_at_cls():
    assert row("event").weights[0].tolist() == [0, 0, 1, 0, 1, 0]
    assert row("cls").weights[0].tolist() == [1, 0, 0, 1, 0, 0]


def test_what_is_learned_of_variables_is_learned_of_events_and_not_of_seps(data):
    asked = make_task_data(config_for(data, "next_item"), data)
    trained = events_in_training(asked, data)
    assert trained.tolist() == [True] * 4 + [False] * 2 + [True] + [False] * 2
    assert describe_variables(data, ("price",), {}, trained)["price"].mean == pytest.approx(2.4)
    assert NA not in data.columns["action"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": ("basket",), "data.chain": ""}, "basket needs config.data.chain"),
        (
            {"tasks": ("basket",), "data.split": "sequence_time"},
            "does not split baskets: set one of",
        ),
        ({"task_where": ("session=0", "session=1")}, "must be one condition, or one for each"),
        ({"tasks": ("next_action",), "model.repeat": True}, "changes the scores of items"),
        ({"tasks": ("label",), "label.at": "cls"}, "set config.data.cls=True"),
        ({"tasks": ("basket",), "data.position_from": "end"}, "how many events are to come"),
        (
            {
                "tasks": ("label",),
                "label.at": "cls",
                "label.causal": False,
                "data.cls": True,
                "data.window": "random",
                "train.monitor": "auc",
            },
            "CLS has the label of the last event of a window",
        ),
        ({"label.at": "mean"}, "label.at='mean' is not one of"),
        (
            {
                "tasks": ("purchase",),
                "label.after": -1,
                "label.causal": False,
                "data.position_from": "start",
                "data.split": "time",
                "train.monitor": "auc",
            },
            "without config.data.chain",
        ),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(data, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        set_up(config_for(data, "next_item", **changed), tmp_path / "run")


def test_several_labels_of_a_sequence_are_too_many_for_one_cls(data, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("sequence,event,label\nu,0,1\nu,1,0\nv,0,1\n")
    changed = {"label.path": str(path), "label.at": "cls", "label.causal": False, "data.cls": True}
    changed |= {"data.split": "time", "data.validation_from": "1970-01-02"}
    changed |= {"data.test_from": "1970-01-03", "train.monitor": "auc"}
    with pytest.raises(ValueError, match="1 sequences have more than one label"):
        set_up(config_for(data, "label", **changed), tmp_path / "run")


def small(shop, task, **changed):
    """A small model of a simulated shop, in which another action begins a session."""
    c = small_config(layers=1)
    c.tasks, c.data.path, c.data.chain = (task,), str(shop), "action"
    c.data.variables, c.data.position_from = ("item", "action", "session"), "start"
    c.train.update({"batch_size": 64, "steps": 4, "eval_every": 2, "log_every": 2})
    c.update_from_flattened_dict(changed)
    return c


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "data"
    simulate(path, Shop(sequences=200, items=40, mean_length=6.0, max_length=12))
    return path


@pytest.mark.parametrize("steps_at_once", [1, pytest.param(2, marks=SLOW)])
def test_baskets_are_learned_evaluated_and_recommended(shop, tmp_path, steps_at_once):
    train(small(shop, "basket", **{"train.steps_at_once": steps_at_once}), tmp_path / "run")
    record = evaluate_run(tmp_path / "run", "test")
    data = store.open_dataset(shop).with_sessions("action")
    assert (
        record["users"] == (np.diff(np.searchsorted(data.session_bounds, data.offsets)) > 1).sum()
    )
    assert 0 < record["ndcg@10"] < 1
    (first,) = recommend.top_k(load_run(tmp_path / "run"), [["item-1", "item-2"]], k=3)
    assert len(first) == 3
    users = recommend.write_recommendations(
        load_run(tmp_path / "run"), None, None, tmp_path / "lists.parquet", 3, True, ()
    )
    assert users == 200


@pytest.mark.parametrize(
    ("task", "repeat"),
    [
        ("masked_item", False),
        pytest.param("basket", True, marks=SLOW),
        pytest.param("next_item", True, marks=SLOW),
        pytest.param("basket", False, marks=SLOW),
        pytest.param("masked_item", True, marks=SLOW),
        pytest.param("next_item", False, marks=SLOW),
    ],
)
def test_what_is_recommended_in_a_chain_is_what_was_evaluated(shop, tmp_path, task, repeat):
    changed = {"eval.filter_seen": False, "model.repeat": repeat}
    train(small(shop, task, **changed), tmp_path / "run")
    record = evaluate_run(tmp_path / "run", "test")
    run = load_run(tmp_path / "run")
    data = store.open_dataset(shop).with_sessions("action")
    test = make_task_data(run.config, data)[task].test
    columns = read_columns(data, run.variables)
    hits = np.zeros(len(test), bool)
    for lists in recommend.recommender_of(run).batches(columns, test.history, 10, False, ()):
        for example, items in zip(lists.example, lists.item, strict=True):
            hits[example] = np.isin(items, test.targets[test.owner == example]).any()
    assert record["hit_rate@10"] == pytest.approx(hits.mean())


@pytest.mark.parametrize(
    "task",
    [pytest.param("basket", marks=SLOW), "next_item", pytest.param("masked_item", marks=SLOW)],
)
def test_a_history_is_scored_as_the_row_that_it_is_in_training(shop, tmp_path, task):
    train(small(shop, task, **{"model.repeat": True}), tmp_path / "run")
    run = load_run(tmp_path / "run")
    head = {**run.params["head_item"], "repeat": {**run.params["head_item"]["repeat"]}}
    head["repeat"]["bias"] = jnp.array([0.5, 1.0, -0.7])
    run = dataclasses.replace(run, params={**run.params, "head_item": head})
    data = store.open_dataset(shop).with_sessions("action")
    history = make_task_data(run.config, data)[task].test.history
    history = Windows(history.start[:4], history.stop[:4])  # each length is compiled
    columns, asked = read_columns(data, run.variables), run.tasks[task]

    @jax.jit
    def last_scores(row):
        segment = jnp.ones_like(row["item"])
        position = jnp.arange(segment.shape[1])[None]
        inputs = (row, segment, position, asked.causal, False)
        hidden = run.model.apply({"params": run.params}, *inputs, method="encode")
        past = run.model.past(row, segment, asked.causal, None, "item")
        answers = run.model.apply({"params": run.params}, hidden, "item", past, method="answer")
        return answers.scores()[0, -1]

    for lists in recommend.recommender_of(run).batches(columns, history, 5, False, ()):
        for example, items, scores in zip(*lists, strict=True):
            window = slice(history.start[example], history.stop[example])
            end = [] if asked.query is None else [asked.query]
            row = {n: np.append(values[window], end)[None] for n, values in columns.items()}
            row = {
                n: jnp.asarray(values, jnp.int32)[:, -run.config.model.max_len :]
                for n, values in row.items()
            }
            expected = last_scores(row)
            np.testing.assert_allclose(scores, np.sort(expected)[::-1][:5], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(scores, expected[items - RESERVED], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chain", ["", "action"])
@pytest.mark.parametrize("task", ["next_item", "purchase", "basket", "next_action"])
def test_no_column_tells_what_comes_after_the_question(shop, chain, task):
    changed = {"data.chain": chain, "data.given": ("action",) if task != "basket" else ()}
    config = small(shop, task, **changed)
    if (task, chain) == ("basket", "") or task == "purchase" and chain == "action":
        return  # no baskets; and a session of one action has no event before its purchase
    config.data.variables = ("item", "action", "price", "gap", "hour")
    config.data.variables += ("count.action=cart", "since.action=view", "count.action=cart|view")
    config.data.variables += ("count.action", "since.action")
    if chain:
        config.data.variables += (
            "count.session",
            "count.session&action=view",
            "since.session&action=view",
        )
    config.data.split, config.data.validation_from = "time", "2025-02-15"
    config.data.test_from = "2025-03-01"
    data = store.open_dataset(shop).with_sessions(chain)
    trained = np.ones(data.events, bool)
    given = config.data.given if task.startswith("next_") else ()
    variables = describe_variables(data, tuple(config.data.variables), {}, trained, given)
    sequence, place = 3, 2  # what is asked at the third event of the fourth sequence
    here = data.offsets[sequence] + place
    later = slice(here + 1, data.offsets[sequence + 1])
    assert later.stop > later.start + 1
    columns = {name: np.array(values) for name, values in data.columns.items()}
    columns["item"][later] = columns["item"][later][::-1]
    columns["price"][later] += 7
    columns["time"][later] += DAY
    after = slice(here + 2, later.stop)  # the next action itself may be told
    columns["action"][after] = columns["action"][: later.stop - here - 2]
    other = dataclasses.replace(data, columns=columns).with_sessions("")
    if chain:  # the same sessions up to here
        other = dataclasses.replace(other, sessions=data.sessions)
    at = here if data.sessions is None else data.sessions.position[here]
    both = []
    for one in (data, other):
        asked = make_task_data(config, data)[task]
        both.append(
            {n: values[: at + 1] for n, values in asked.reads(read_columns(one, variables)).items()}
        )
    for name, values in both[0].items():
        np.testing.assert_array_equal(values, both[1][name], err_msg=name)


def test_there_are_no_sessions_to_count_in_without_a_chain(data):
    with pytest.raises(ValueError, match="'session&action=buy' needs sessions: set config"):
        read_columns(
            dataclasses.replace(data, sessions=None), {"count.session&action=buy": Variable()}
        )


def test_the_last_session_is_known_only_at_the_end(data):
    with pytest.raises(ValueError, match="known only at the end"):
        read_columns(data, {"count.session=-1": Variable()})


@pytest.mark.slow
@pytest.mark.parametrize("steps_at_once", [1, 2])
def test_a_purchase_is_told_at_cls_from_the_events_before_it(shop, tmp_path, steps_at_once):
    changed = {
        "label.after": -1,
        "label.causal": False,
        "label.at": "cls",
        "data.cls": True,
        "data.chain": "",
        "data.variables": ("item", "action"),
        "data.split": "sequence_time",
        "data.validation_from": "2025-02-15",
        "data.test_from": "2025-03-01",
        "train.monitor": "auc",
        "train.steps_at_once": steps_at_once,
    }
    config = small(shop, "purchase", **changed)
    result = train(config, tmp_path / "run")
    assert 0 < result["validation/auc"] < 1
    record = evaluate_run(tmp_path / "run", "test")
    labels = make_task_data(config, store.open_dataset(shop))["purchase"].test
    assert record["labels"] == len(labels) == len(labels.ranges.start)
