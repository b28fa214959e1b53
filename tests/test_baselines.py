"""Baselines: hand-made features, rankings by counts, and the record of `clickflax baselines`."""

import importlib.util
import json

import numpy as np
import pytest
from toy import small_config

from clickflax.baselines import counts, registry
from clickflax.baselines.compare import compare_baselines, main
from clickflax.baselines.count_baselines import MARKOV, MARKOV_RECENT, OWN_COUNTS, POPULARITY
from clickflax.baselines.counts import CountRanking
from clickflax.baselines.feature_table import (
    FeatureTable,
    make_feature_table,
    read_event_columns,
    training_statistics,
)
from clickflax.baselines.features import (
    FOLDS,
    PRIOR,
    item_history_features,
    mean_labels,
    number_features,
    past_of_events,
    time_features,
    value_features,
)
from clickflax.baselines.label_models import fit_label_baseline
from clickflax.baselines.registry import BASELINES
from clickflax.baselines.trees import LEAVES, ROUNDS, fit_trees
from clickflax.batch import PAD, RESERVED
from clickflax.config.default import from_dict, to_dict
from clickflax.data.batches import Windows
from clickflax.data.splits.common import Examples
from clickflax.data.splits.labels import LabelExamples
from clickflax.data.store import open_dataset
from clickflax.evaluation.main import evaluate_run
from clickflax.run.targets import make_task_data
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.simulation.truth import load_truth
from clickflax.tasks.label_metrics import binary_metrics
from clickflax.training.loop import train

RANKINGS = {
    "popularity": POPULARITY,
    "markov": MARKOV,
    "markov_recent": MARKOV_RECENT,
    "own_counts": OWN_COUNTS,
}

R, MINUTE = RESERVED, 60_000_000
# Two sequences: items a b a c, views (0) and carts (1), a pause before the last event; then b b.
COLUMNS = {
    "item": np.array([0, 1, 0, 2, 1, 1], np.int32) + R,
    "action": np.array([0, 1, 1, 0, 0, 1], np.int32) + R,
    "time": np.array([0, 1, 3, 63, 70, 75], np.int64) * MINUTE,
}
PRICE = np.array([5.0, np.nan, 7.0, 3.0, 9.0, np.nan])
NAMES = {"action": ["view", "cart"]}
RANGES = Windows(np.array([0, 4]), np.array([4, 6]))
ALL = past_of_events(RANGES, np.ones(6, bool))[0]


def close(found, expected):
    return np.allclose(found, expected, rtol=1e-9, atol=0, equal_nan=True)


def test_values_are_counted_from_the_first_event_of_a_range_to_the_event():
    found = value_features(ALL, COLUMNS, NAMES)
    assert close(found["events"], [1, 2, 3, 4, 1, 2])
    assert close(found["action=cart"], [0, 1, 2, 2, 0, 1])
    assert close(found["action=cart_share"], [0, 1 / 2, 2 / 3, 2 / 4, 0, 1 / 2])
    assert close(found["action=view_since"], [0, 60, 180, 0, 0, 300])
    assert close(found["action=cart_since"], [np.nan, 0, 0, 3600, np.nan, 0])
    assert close(found["action_before"], [np.nan, 0, 1, 1, np.nan, 0])


def test_events_of_an_item_are_counted_within_its_range():
    found = item_history_features(ALL, COLUMNS, NAMES)
    assert close(found["distinct_items"], [1, 2, 2, 3, 1, 1])
    assert close(found["item_events"], [1, 1, 2, 1, 1, 2])
    assert close(found["item_action=cart"], [0, 1, 1, 0, 0, 1])


def test_counts_begin_again_after_a_pause_of_half_an_hour():
    found = time_features(ALL, COLUMNS, NAMES)
    assert close(found["seconds"], [0, 60, 180, 3780, 0, 300])
    assert close(found["gap"], [np.nan, 60, 120, 3600, np.nan, 300])
    assert close(found["visits"], [1, 1, 1, 2, 1, 1])
    assert close(found["visit_events"], [1, 2, 3, 1, 1, 2])
    assert close(found["visit_action=cart"], [0, 1, 2, 0, 0, 1])
    assert close(found["visit_seconds"], [0, 60, 180, 0, 0, 300])
    assert close(found["hour"], [0, 0, 0, 1, 1, 1])
    assert close(found["weekday"], [3] * 6)  # 1970 began on a Thursday
    assert time_features(ALL, {"item": COLUMNS["item"]}, NAMES) == {}


def test_mean_and_maximum_ignore_missing_numbers():
    found = number_features(ALL, {"price": PRICE})
    assert close(found["price"], PRICE)
    assert close(found["price_mean"], [5, 5, 6, 5, 9, 9])
    assert close(found["price_max"], [5, 5, 7, 7, 9, 9])
    assert close(found["price_first"], [5, 5, 5, 5, 9, 9])


def test_the_past_of_an_event_starts_at_its_own_range():
    asked = np.array([False, False, True, False, False, True])
    past, source = past_of_events(Windows(np.array([1, 4]), np.array([3, 6])), asked)
    assert list(source) == [1, 2, 4, 5]
    columns = {name: values[source] for name, values in COLUMNS.items()}
    found = value_features(past, columns, NAMES)
    assert close(found["events"], [2, 2])
    assert close(found["action=cart"], [2, 1])
    assert close(item_history_features(past, columns, NAMES)["item_events"], [1, 2])


def test_the_rate_of_a_value_leaves_out_the_labels_of_its_own_fold():
    ids, label = np.array([6, 6, 6, 7]), np.array([1.0, 0.0, 1.0, 0.0])
    table = mean_labels(ids, label, np.array([0, 1, 1, 2]), 9)
    assert table.shape == (FOLDS + 1, 9)
    no = PRIOR / 2 / (1 + PRIOR)
    # Of all: 2 of 4 are yes, of item 6 it is 2 of 3, of item 8 nothing is known.
    assert close(table[FOLDS, [6, 7, 8]], [(2 + PRIOR / 2) / (3 + PRIOR), no, 1 / 2])
    # Without fold 1, 1 of 2: item 6 has one yes, item 7 one no.
    assert close(table[1, [6, 7]], [(1 + PRIOR / 2) / (1 + PRIOR), no])


# Training: a b, a b, a c, b c; then the history a b of an example that is not trained on.
ITEM = np.array([0, 1, 0, 1, 0, 2, 1, 2, 0, 1], np.int32) + R
TRAIN = Windows(np.arange(0, 8, 2), np.arange(2, 10, 2))
EVERY = np.ones(10, bool)
COUNTED = counts.count_training(
    ITEM, TRAIN, R + 5, EVERY
)  # a and b three times, c twice, d and e never


def rank_of(name, start, target, filter_seen=False):
    history = Windows(np.array([start]), np.array([10]))
    examples = Examples(np.array([0]), history, np.array([target + R]), np.array([0]))
    return counts.count_ranks(COUNTED, RANKINGS[name], ITEM, examples, filter_seen)[0]


def test_popular_items_rank_first_and_ties_share_their_mean_rank():
    assert list(COUNTED.popularity[R:]) == [3, 3, 2, 0, 0]
    assert [rank_of("popularity", 8, i) for i in range(5)] == [0.5, 0.5, 2, 3.5, 3.5]


def test_only_events_of_the_condition_are_counted():
    where = ITEM == R + 2  # c, after a and after b
    counted = counts.count_training(ITEM, TRAIN, R + 5, where)
    assert list(counted.popularity[R:]) == [0, 0, 2, 0, 0]
    assert counted.transitions.nnz == 2 and counted.transitions[R, R + 2] == 1


def test_seen_items_are_excluded_except_the_target():
    assert [rank_of("popularity", 8, i, True) for i in range(5)] == [0, 0, 0, 1.5, 1.5]


def test_transitions_from_the_last_item_rank_before_popularity():
    # b was followed by c alone; after that a and b are popular, and d and e are not.
    assert [rank_of("markov", 8, i) for i in range(5)] == [1.5, 1.5, 0, 3.5, 3.5]


def test_items_before_the_last_one_count_less():
    # c followed b always (1), and a in one case of three (0.6 / 3); b followed a in two of three.
    assert [rank_of("markov_recent", 8, i) for i in range(5)] == [2, 1, 0, 3.5, 3.5]
    assert [rank_of("markov_recent", 8, i, True) for i in range(5)] == [1, 1, 0, 1.5, 1.5]


def test_own_counts_ranks_the_most_frequent_items_of_the_history_first():
    # The history c b c a b: b and c twice, and b is the more popular one; then a.
    assert [rank_of("own_counts", 5, i) for i in range(5)] == [2, 0, 1, 3.5, 3.5]


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("how", RANKINGS)
def test_ranks_are_those_of_a_count_over_the_whole_catalog(how, filter_seen, monkeypatch):
    monkeypatch.setattr(counts, "COUNTS_CHUNK", 3)
    chance = np.random.default_rng(0)
    item = (chance.integers(0, 9, 80) + R).astype(np.int32)
    item[chance.integers(0, 80, 6)] = RESERVED - 1  # no value
    starts = np.arange(0, 80, 10)
    counted = counts.count_training(item, Windows(starts, starts + 6), R + 12, np.ones(80, bool))
    owner = np.repeat(np.arange(8), 2)
    targets = chance.integers(0, 12, 16) + R
    targets[1::2] = R + (targets[::2] - R + 1) % 12
    examples = Examples(np.arange(8), Windows(starts, starts + 8), targets, owner)
    found = counts.count_ranks(counted, RANKINGS[how], item, examples, filter_seen)
    share = np.eye(R + 12) if RANKINGS[how].own else counted.transitions.toarray()
    for target, example, at in zip(targets, owner, found, strict=True):
        history = item[starts[example] : starts[example] + 8]
        scores = counted.popularity / 1e6
        for back, last in enumerate(history[::-1][: RANKINGS[how].last]):
            scores = scores + (RANKINGS[how].decay ** back * share[last] if last >= R else 0)
        mine = set(targets[owner == example])
        others = [i for i in range(R, R + 12) if not filter_seen or i not in set(history) - mine]
        own = scores[target]
        more = sum(scores[i] > own + 1e-9 for i in others)
        same = sum(abs(scores[i] - own) <= 1e-9 for i in others) - 1
        assert at == more + same / 2


def test_a_decay_of_zero_keeps_the_last_item_only():
    history = Windows(np.array([0]), np.array([10]))
    row = counts.history_weights(ITEM, history, CountRanking(5, 0.0), R + 5).toarray()[0]
    assert list(row) == [0] * R + [0, 1, 0, 0, 0]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A simulated shop of 40 items."""
    path = tmp_path_factory.mktemp("shop") / "data"
    simulate(path, Shop(sequences=3000, items=40, mean_length=6.0, max_length=12))
    return path


def config_for(shop, *tasks, **label):
    c = small_config(layers=1)
    c.data.path, c.tasks = str(shop), tasks
    c.data.variables = ("item", "action", "item.category")
    c.data.split, c.data.position_from = "sequence_time", "start"
    c.data.validation_from, c.data.test_from = "2025-02-15", "2025-03-01"
    c.train.update({"batch_size": 64, "steps": 1, "eval_every": 1, "log_every": 1})
    c.train.monitor = "auc" if len(tasks) == 1 else f"{tasks[0]}/auc"
    c.label.update(label)
    return from_dict(to_dict(c))


def best_auc(shop, config):
    """The AUC of the true probabilities of the shop."""
    dataset, truth = open_dataset(shop), load_truth(shop)
    part = make_task_data(config, dataset)["purchase"].test
    events = np.flatnonzero(np.isfinite(part.label))
    start = dataset.offsets[np.searchsorted(dataset.offsets, events, side="right") - 1]
    column = start[:, None] + np.arange(12)
    known = column <= events[:, None]
    rows = {
        name: np.where(known, dataset.columns[name][np.where(known, column, 0)], PAD)
        for name in ("item", "action")
    }
    return binary_metrics(truth.purchase(rows["item"], rows["action"]), part.label[events], 0.5)[
        "auc"
    ]


def test_trees_find_what_there_is_to_find_and_no_more(shop):
    config = config_for(shop, "purchase")
    record = compare_baselines(config, "test")
    found = record["baselines"]
    best = best_auc(shop, config)
    assert best > 0.7
    assert found["constant"]["auc"] == 0.5
    for name in ("trees", "linear"):
        assert 0.6 < found[name]["auc"] < best + 0.02
        assert found[name]["log_loss"] < found["constant"]["log_loss"]
    assert "item.category_rate" in record["features"]
    assert record["environment"]["versions"]["scikit-learn"]


def keep_baselines(monkeypatch, *names):
    """Leaves these baselines only."""
    kept = {name: BASELINES[name] for name in names}
    monkeypatch.setattr(registry, "BASELINES", kept)


def test_features_that_are_left_out_are_not_used(shop, monkeypatch):
    keep_baselines(monkeypatch, "constant")
    config = config_for(shop, "purchase")
    every = compare_baselines(config, "test")["features"]
    record = compare_baselines(config, "test", ["*_rate*", "gap"])
    assert record["without"] == ["*_rate*", "gap"]
    assert record["features"] == [n for n in every if "_rate" not in n and n != "gap"]
    assert len(record["features"]) < len(every) - 1
    for without, error in [
        (["colour_*"], "--without colour_\\* matches no feature of events, "),
        (["*"], "leaves no feature"),
    ]:
        with pytest.raises(ValueError, match=error):
            compare_baselines(config, "test", without)
    config.tasks, config.train.monitor = ("next_item",), "ndcg@10"
    with pytest.raises(ValueError, match="rank items without features"):
        compare_baselines(config, "test", ["gap"])


def test_labels_counts_and_protocol_are_those_of_evaluate(tmp_path, optax_promotes, monkeypatch):
    simulate(tmp_path / "data", Shop(sequences=200, items=40, mean_length=6.0, max_length=12))
    keep_baselines(monkeypatch, "constant", "markov")
    config = config_for(tmp_path / "data", "purchase", "next_item")
    train(config, tmp_path / "run")
    of_run = evaluate_run(tmp_path / "run", "test")
    record = compare_baselines(config, "test")
    for key in ("purchase/labels", "next_item/users", "next_item/targets_never_trained_on"):
        assert record[key] == of_run[key]
    for key in ("purchase/dropped", "next_item/dropped", "purchase/protocol", "fingerprint"):
        assert record[key] == of_run[key]
    assert record["next_item/protocol"].keys() == of_run["next_item/protocol"].keys()
    assert record["purchase/baselines"]["constant"]["yes"] == of_run["purchase/yes"]
    (bin,) = record["purchase/baselines"]["constant"]["reliability"]  # one prediction for all
    assert bin["labels"] == record["purchase/labels"]
    assert bin["yes"] == pytest.approx(of_run["purchase/yes"])
    metrics = {key.removeprefix("next_item/") for key in of_run if "next_item/ndcg@" in key}
    assert metrics < record["next_item/baselines"]["markov"].keys()


def test_features_do_not_depend_on_anything_that_comes_later(shop):
    config, dataset = config_for(shop, "purchase"), open_dataset(shop)
    data = make_task_data(config, dataset)["purchase"]
    events = read_event_columns(dataset, data, tuple(config.data.variables))
    test = data.test
    statistics = training_statistics(events, test, "binary")
    before = make_feature_table(events, statistics, test, trained=False)
    chance = np.random.default_rng(0)
    position = np.arange(dataset.events) - dataset.offsets[events.sequence]
    order = np.where(position >= 3, chance.permutation(dataset.events), np.arange(dataset.events))
    changed = events._replace(
        ids={name: values[order] for name, values in events.ids.items()},
        numbers={name: values[order] for name, values in events.numbers.items()},
        time={"time": events.time["time"] + np.where(position >= 3, 7777 * MINUTE, 0)},
    )
    after = make_feature_table(changed, statistics, test, trained=False)
    earlier = position[np.flatnonzero(np.isfinite(test.label))] < 3
    assert earlier.any() and not earlier.all()
    for name, values in before.columns.items():
        # Cumulative sums run over all ranges, so that the last digit may differ.
        np.testing.assert_allclose(values[earlier], after.columns[name][earlier], rtol=1e-6)
    assert not np.array_equal(before.matrix()[~earlier], after.matrix()[~earlier], equal_nan=True)


def test_a_return_does_not_leak_through_its_action(shop):
    config, dataset = config_for(shop, "returns"), open_dataset(shop)
    data = make_task_data(config, dataset)["returns"]
    events = read_event_columns(dataset, data, ())
    back, buy = dataset.vocabulary("action").ids(["return", "buy"])
    assert (dataset.columns["action"] == back).any()
    assert not (events.ids["action"] == back).any()
    statistics = training_statistics(events, data.test, "binary")
    table = make_feature_table(events, statistics, data.test, trained=False)
    assert (table.columns["action"] == buy - RESERVED).all()
    assert "action" not in table.varying()


def table_of(x, label):
    return FeatureTable({"x": np.array(x, np.float32)}, (), np.array(label, np.float64))


@pytest.mark.parametrize("name", ["linear", "trees"])
def test_every_label_baseline_predicts_numbers_and_classes(name):
    x = np.arange(400) % 2
    train_on, rest = table_of(x, 2 * x), table_of(x[:50], 2 * x[:50])
    numbers = fit_label_baseline(BASELINES[name].fit, "number", 4, train_on, rest).predict(
        rest.matrix()
    )
    np.testing.assert_allclose(numbers, rest.label, atol=0.1)
    classes = fit_label_baseline(BASELINES[name].fit, "classes", 4, train_on, rest).predict(
        rest.matrix()
    )
    assert not classes[:, [1, 3]].any()  # classes without training labels
    np.testing.assert_allclose(classes[:, 2], x[:50], atol=0.1)


@pytest.mark.parametrize(("kind", "metric"), [("number", "rmse"), ("classes", "log_loss")])
def test_labels_of_a_file_are_predicted_as_numbers_or_classes(tmp_path, monkeypatch, kind, metric):
    keep_baselines(monkeypatch, "constant", "linear")
    shop = tmp_path / "data"
    simulate(shop, Shop(sequences=300, items=40, mean_length=6.0, max_length=12))
    lengths = np.diff(open_dataset(shop).offsets)
    rows = [f"session-{s},{length},1" for s, length in enumerate(lengths, start=1)]
    (tmp_path / "labels.csv").write_text("\n".join(["sequence,label,weight", *rows]))
    path = str(tmp_path / "labels.csv")
    more = {"classes": 13} if kind == "classes" else {}
    config = config_for(shop, "label", path=path, kind=kind, **more)
    config.train.monitor = metric
    record = compare_baselines(config, "test")
    # The label, the number of events, is itself a feature.
    found = record["baselines"]
    assert "events" in record["features"]
    assert found["linear"][metric] < 0.9 * found["constant"][metric]
    assert {"item_rate5", "item_rate6"} <= set(record["features"]) or kind == "number"


def test_the_first_hyperparameter_is_taken_without_a_validation():
    x = np.arange(400) % 4
    choice = fit_label_baseline(fit_trees, "binary", 2, table_of(x, x // 2), table_of([], []))
    assert choice.chosen == {"leaves": LEAVES[0], "trees": ROUNDS // 5}
    assert choice.threshold == 0.5


def test_only_label_baselines_need_scikit_learn(shop, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name)
    )
    config = config_for(shop, "purchase")
    with pytest.raises(ValueError, match=r"pip install 'clickflax\[baselines\]'"):
        compare_baselines(config, "test")
    config.tasks, config.train.monitor = ("next_item",), "ndcg@10"
    record = compare_baselines(config, "validation")
    assert record["baselines"]["markov"]["ndcg@10"] > record["baselines"]["popularity"]["ndcg@10"]


def test_the_command_prints_a_table_and_writes_its_record(shop, tmp_path, capsys):
    (tmp_path / "config.py").write_text(
        "from clickflax.config import default\n\n\ndef get_config():\n    return default()\n"
    )
    out = tmp_path / "records" / "shop.json"
    flags = [f"--config={tmp_path / 'config.py'}", "--out", str(out)]
    main([*flags, f"--config.data.path={shop}", "--config.eval.cutoffs=5,10"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["markov", "5"] for line in lines)
    kept = json.loads(out.read_text())
    printed = json.loads(lines[-1])
    assert kept.pop("config")["data"]["path"] == str(shop)
    assert kept == printed
    assert printed["users"] == printed["protocol"]["filter_seen"] * 3000
    with pytest.raises(ValueError, match="config.data.path is empty"):
        main(flags)


def test_a_feature_table_has_all_labels_in_the_order_of_events(shop):
    config, dataset = config_for(shop, "purchase"), open_dataset(shop)
    data = make_task_data(config, dataset)["purchase"]
    events = read_event_columns(dataset, data, ())
    label = np.where(np.isfinite(data.test.label), np.arange(dataset.events), np.nan)
    test = LabelExamples(data.test.ranges, label)
    statistics = training_statistics(events, test, "number")
    table = make_feature_table(events, statistics, test, trained=True)
    assert list(table.label) == list(label[np.isfinite(label)])
