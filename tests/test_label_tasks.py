"""Label tasks from the log to the record: what is learned, told, and never seen."""

import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from toy import small_config

from clickflax.config.default import from_dict, to_dict
from clickflax.data.store import open_dataset
from clickflax.data.variables import read_columns
from clickflax.evaluation.evaluator import label_rows, make_evaluator
from clickflax.evaluation.main import evaluate_run
from clickflax.evaluation.request import EvalRequest
from clickflax.inference import recommend
from clickflax.inference.predictor import make_predictor
from clickflax.run.folder import load_run
from clickflax.run.targets import make_task_data
from clickflax.runtime import sharding
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.tasks.label_metrics import LABEL_METRICS
from clickflax.training.loop import train
from clickflax.training.setup import set_up

pytestmark = pytest.mark.usefixtures("optax_promotes")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A simulated shop of 40 items."""
    path = tmp_path_factory.mktemp("shop") / "data"
    simulate(path, Shop(sequences=300, items=40, mean_length=6.0, max_length=12))
    return path


NO_MOMENTS = {"data.validation_from": "", "data.test_from": ""}


def config_for(shop, *tasks, **label):
    c = small_config(layers=1)
    c.data.path, c.tasks = str(shop), tasks
    c.data.variables = ("item", "action", "price", "gap", "hour", "item.category")
    c.data.quantiles, c.model.widths = ("price=4",), ("hour=2",)
    c.data.split, c.data.position_from = "time", "start"
    c.data.validation_from, c.data.test_from = "2025-02-15", "2025-03-01"
    c.train.update({"batch_size": 64, "steps": 4, "eval_every": 2, "log_every": 2})
    c.train.monitor = "auc" if len(tasks) == 1 else f"{tasks[0]}/auc"
    c.label.update(label)
    return from_dict(to_dict(c))


def leaves(params):
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(params)}


@pytest.mark.parametrize("chain", ["", "3m"])
def test_rows_of_labels_tell_whose_they_are(shop, chain):
    config, dataset = config_for(shop, "purchase"), open_dataset(shop).with_sessions(chain)
    assert (dataset.length > dataset.events) == bool(chain)  # with a SEP between sessions
    asked = make_task_data(config, dataset)["purchase"]
    rows = label_rows(asked, "test", np.zeros(len(asked.test)), dataset.sequence_starts)
    begins = np.append(dataset.sequence_starts, dataset.length)
    assert len(set(rows["sequence"])) > 10
    assert (begins[rows["sequence"]] <= rows["event"]).all()
    assert (rows["event"] < begins[rows["sequence"] + 1]).all()


@pytest.mark.parametrize(
    "label",
    [
        {},
        pytest.param({"after": -1, "causal": False}, marks=pytest.mark.slow),
        pytest.param({"after": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_purchase_is_learned_validated_and_told(shop, tmp_path, label):
    config = config_for(shop, "purchase", **label)
    result = train(config, tmp_path / "run")
    assert 0 < result["validation/auc"] < 1
    with pytest.raises(ValueError, match=r"--cutoffs applies to ranking tasks only; .*'purchase'"):
        evaluate_run(tmp_path / "run", "test", EvalRequest(cutoffs=(5,)))
    record = evaluate_run(tmp_path / "run", "test")
    assert set(LABEL_METRICS["binary"]) < set(record)
    assert record["labels"] == len(make_task_data(config, open_dataset(shop))["purchase"].test)
    assert record["protocol"]["label"]["after"] == label.get("after", 0)
    bins, count = record["reliability"], record["labels"]
    assert sum(b["labels"] for b in bins) == count
    assert sum(b["labels"] * b["yes"] for b in bins) == pytest.approx(count * record["yes"])
    error = sum(b["labels"] * abs(b["prediction"] - b["yes"]) for b in bins) / count
    assert error == pytest.approx(record["calibration_error"])
    rows = pq.read_table(tmp_path / "run" / "test.purchase.parquet").to_pydict()
    yes, told = np.array(rows["label"]), np.array(rows["prediction"])
    loss = -np.log(np.where(yes == 1, told, 1 - told)).mean()
    assert loss == pytest.approx(record["log_loss"]) and len(yes) == count
    metrics = {name: value for name, value in record.items() if isinstance(value, float)}
    assert "reliability" not in {*metrics, *result}
    assert record == {
        key: value
        for key, value in json.loads((tmp_path / "run" / "test.json").read_text()).items()
        if key in record
    }
    with pytest.raises(ValueError, match="nothing to recommend"):
        recommend.top_k(load_run(tmp_path / "run"), [["item-1"]], k=2)


def test_every_event_of_a_long_range_is_predicted_from_half_a_window_or_more(shop, tmp_path):
    config = config_for(shop, "purchase")
    config.model.max_len = 3
    context, state = set_up(config, tmp_path / "run")
    evaluator = context.evaluators["purchase"]
    part = evaluator.data.test
    assert (part.ranges.stop - part.ranges.start).max() > 3
    p = evaluator.evaluate(state.params, "test").values
    assert p.shape == (len(part),)
    assert np.isfinite(p).all()
    # Whatever lies in a batch: of two windows that hold an event, that with more of its past.
    one_by_one = evaluator.predictor._replace(batch_size=1)
    alone = make_evaluator(one_by_one, evaluator.data, context.data.schema.columns, config)
    np.testing.assert_allclose(alone.evaluate(state.params, "test").values, p, atol=1e-5)


@pytest.mark.slow
def test_labels_of_a_file_are_learned_as_numbers_and_must_be_of_their_kind(shop, tmp_path):
    dataset = open_dataset(shop)
    tokens, lengths = dataset.sequence_column("token"), np.diff(dataset.offsets)
    assert tokens is not None
    rows = [f"{token},{length}" for token, length in zip(tokens, lengths, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["sequence,label", *rows]))
    config = config_for(shop, "label", path=str(tmp_path / "labels.csv"), kind="number")
    config.train.monitor = "rmse"
    result = train(config, tmp_path / "run")
    assert result["validation/rmse"] > 0
    assert {"mae", "rmse", "labels"} <= set(evaluate_run(tmp_path / "run", "test"))
    config.label.kind, config.train.monitor = "classes", "accuracy"
    with pytest.raises(ValueError, match="whole numbers from 0 to 1; .* are not, such as"):
        set_up(config, tmp_path / "classes")
    config.label.classes = 20
    train(config, tmp_path / "classes")
    (tmp_path / "labels.csv").write_text("\n".join(["sequence,label", *rows[:-1]]))
    with pytest.raises(ValueError, match="labels.csv has changed since"):
        train(config, tmp_path / "classes")
    assert 0 <= evaluate_run(tmp_path / "classes", "test")["accuracy"] <= 1
    (tmp_path / "labels.csv").write_text("\n".join(["sequence,label", f"{tokens[0]},1"]))
    config.label.kind, config.train.monitor = "binary", "auc"
    config.label.classes = 2  # the default
    config.data.validation_from = config.data.test_from = "2026-01-01"
    with pytest.raises(ValueError, match="all labels to train on are 1"):
        set_up(config, tmp_path / "same")


@pytest.mark.slow
def test_a_run_reads_numbers_as_the_run_that_it_starts_from(shop, tmp_path):
    config = config_for(shop, "next_item")
    config.data.split, config.train.monitor = "leave_one_out", "ndcg@10"
    config.update_from_flattened_dict(NO_MOMENTS)
    train(config, tmp_path / "first")
    other = config_for(shop, "purchase")
    other.init.run, other.init.skip = str(tmp_path / "first"), ("head_*",)
    _, state = set_up(other, tmp_path / "second")
    first = load_run(tmp_path / "first")
    assert json.loads((tmp_path / "second" / "variables.json").read_text()) == json.loads(
        (tmp_path / "first" / "variables.json").read_text()
    )
    tables = (leaves(params["embedder"]) for params in (first.params, state.params))
    one, two = tables
    assert all(np.array_equal(one[name], two[name]) for name in one)


def predictions(config, params, columns, data, model, constants):
    predictor = make_predictor(config, model, data.task, sharding.make_mesh(), constants, {})
    evaluator = make_evaluator(predictor, data, columns, config)
    return evaluator.evaluate(sharding.replicate(params, predictor.mesh), "test").values


def test_no_answer_depends_on_anything_that_comes_later(shop, tmp_path):
    config = config_for(shop, "purchase")
    train(config, tmp_path / "run")
    run, dataset = load_run(tmp_path / "run"), open_dataset(shop)
    columns, asked = (
        read_columns(dataset, run.variables),
        make_task_data(config, dataset)["purchase"],
    )
    before = predictions(config, run.params, columns, asked, run.model, run.constants)
    events = np.flatnonzero(np.isfinite(asked.test.label))
    owner = np.searchsorted(dataset.offsets, events, side="right")
    fourth = events == dataset.offsets[owner - 1] + 3
    assert fourth.any()
    chance = np.random.default_rng(0)
    for name, values in columns.items():  # from the fourth event of every sequence on
        later = np.arange(len(values)) - np.repeat(dataset.offsets[:-1], np.diff(dataset.offsets))
        columns[name] = np.where(later >= 3, chance.permutation(values), values)
    after = predictions(config, run.params, columns, asked, run.model, run.constants)
    earlier = events < dataset.offsets[owner - 1] + 3
    assert np.array_equal(before[earlier], after[earlier])
    assert not np.array_equal(before[fourth], after[fourth])


def test_a_return_is_not_told_by_its_action(shop):
    config, dataset = config_for(shop, "returns"), open_dataset(shop)
    asked = make_task_data(config, dataset)["returns"]
    back, buy = dataset.vocabulary("action").ids(["return", "buy"])
    assert (dataset.columns["action"] == back).any()
    assert not (asked.columns["action"] == back).any()
    label = asked.labels["returns"]
    some = np.isfinite(label)
    assert (asked.columns["action"][some] == buy).all()
    assert np.array_equal(label[some] == 1, dataset.columns["action"][some] == back)


TASKS = ("purchase", "next_item", "masked_action", "returns")


@pytest.mark.slow
def test_several_tasks_share_a_model_and_every_parameter_changes_in_a_step(shop, tmp_path):
    config = config_for(shop, *TASKS)
    config.task_weights = (1.0, 0.5, 2.0, 1.0)
    config.optim.warmup_steps, config.optim.weight_decay, config.optim.eps = 0, 0.0, 1e-30
    context, state = set_up(config, tmp_path / "run")
    before = leaves(state.params)
    state, metrics = context.steps(state, 0, 1)
    after = leaves(state.params)
    same = {name for name in before if np.array_equal(before[name], after[name])}
    # A number that is cut into quantiles, a gap and an hour are never hidden outside the Cloze
    # task, and nothing is missing here but the first gap.
    assert not {name for name in same if "instead" not in name}
    total = sum(
        w * metrics[f"loss/{t}"][0] for w, t in zip(config.task_weights, TASKS, strict=True)
    )
    assert float(metrics["loss"][0]) == pytest.approx(float(total), rel=1e-5)


@pytest.mark.slow
def test_several_tasks_are_validated_and_evaluated(shop, tmp_path):
    config = config_for(shop, "purchase", "next_item")
    config.data.split = "sequence_time"
    result = train(config, tmp_path / "run")
    assert result["validation/purchase/auc"] is not None
    record = evaluate_run(tmp_path / "run", "test")
    assert {"purchase/auc", "purchase/labels", "next_item/ndcg@10", "next_item/users"} <= set(
        record
    )
    assert len(recommend.top_k(load_run(tmp_path / "run"), [["item-1"]], k=2)[0]) == 2


@pytest.mark.slow
def test_several_tasks_are_resumed_and_train_many_steps_of_a_dispatch(shop, tmp_path):
    longer = config_for(shop, "purchase", "next_item")
    longer.data.split = "sequence_time"
    train(longer, tmp_path / "run")
    longer.train.steps = 6
    train(longer, tmp_path / "run")
    longer.train.steps_at_once = 2
    train(longer, tmp_path / "many")
    runs = [load_run(tmp_path / name, "last") for name in ("run", "many")]
    one, many = (leaves(run.params) for run in runs)
    for name, values in one.items():
        np.testing.assert_allclose(values, many[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data.position_from": "end"}, "would tell purchase how many .*'start'"),
        (NO_MOMENTS | {"data.split": "leave_one_out"}, "holds out items; labels need"),
        ({"label.buy": "bought"}, "no action 'bought'"),
        ({"train.monitor": "ndcg@10"}, r"'ndcg@10' is not one of \['auc'"),
        ({"tasks": ("label",), "label.kind": "text"}, r"\['binary', 'classes', 'number'\]"),
        ({"label.kind": "classes"}, "kind='classes' is for label; config.tasks=.'purchase'"),
        ({"label.back": "returned"}, "label.back='returned' is for returns"),
        ({"label.classes": 3}, "label.classes=3 is for label"),
        (
            {"tasks": ("label",), "label.kind": "number", "label.positive": 2.0},
            "positive=2.0 is for labels of the kind 'binary'; now config.label.kind='num",
        ),
        (
            {"tasks": ("next_item",), "train.monitor": "ndcg@10", "label.share": 0.5},
            "share=0.5 is for .*purchase.*; config.tasks=.'next_item'",
        ),
        ({"tasks": ("purchase", "next_item"), "train.monitor": "auc"}, "'purchase/auc'"),
        ({"tasks": ("masked_price",), "train.monitor": "ndcg@10"}, "'price' is not a categorical"),
        (
            {"label.causal": False},
            "config.label.causal=False: purchase would read",
        ),
        (
            {"tasks": ("returns",), "label.causal": False},
            "False: returns would read",
        ),
        ({"data.validation_users": 5}, "validation_users=5 is for tasks that rank items"),
        ({"task_weights": (1.0, 2.0)}, "must be one number, or one for each"),
        ({"data.validation_from": "2024-01-01"}, "no label is left to train on"),
    ],
)
def test_what_makes_no_sense_says_so_before_anything_is_written(shop, tmp_path, changed, message):
    config = config_for(shop, "purchase")
    config.update_from_flattened_dict(changed)
    with pytest.raises(ValueError, match=message):
        set_up(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_smaller_share_of_labels_is_a_subset_of_a_larger_one(shop):
    dataset, told, ranges, tests = open_dataset(shop), {}, {}, set()
    for share in (1.0, 0.5, 0.1):
        asked = make_task_data(config_for(shop, "purchase", share=share), dataset)["purchase"]
        told[share] = np.isfinite(asked.labels["purchase"])
        ranges[share] = len(asked.train.start)
        tests.add(len(asked.test))
    assert [ranges[0.5], ranges[0.1]] == [round(share * ranges[1.0]) for share in (0.5, 0.1)]
    assert (told[0.1] <= told[0.5]).all() and (told[0.5] <= told[1.0]).all()
    assert len(tests) == 1
