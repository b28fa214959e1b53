"""How the papers measure: candidates, and the named protocols."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from test_evaluate import COLUMNS, EXAMPLES, ITEM
from toy import ITEMS, evaluate, make_task, small_config, small_model

from clickflax.baselines.compare import compare_baselines
from clickflax.batch import RESERVED
from clickflax.config.check import check_config
from clickflax.config.default import default, override
from clickflax.config.protocols import PROTOCOLS, follow
from clickflax.data.batches import Windows
from clickflax.data.candidates import draw_candidates
from clickflax.data.splits.common import EventLog, Examples, SplitOptions
from clickflax.data.splits.strategies import split_sequences
from clickflax.data.store import open_dataset
from clickflax.evaluation.main import evaluate_run
from clickflax.evaluation.protocol import describe
from clickflax.evaluation.request import EvalRequest
from clickflax.model.heads import Answers
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.tasks.ranks import rank_among_candidates
from clickflax.training.loop import train

ALIKE = np.ones(RESERVED + ITEMS)


def several(users, history, targets):
    """So many examples with the same history and targets."""
    none = np.zeros(users, np.int64)
    windows = Windows(none, none + history)
    owner = np.repeat(np.arange(users), len(targets))
    return Examples(np.arange(users), windows, np.tile(np.array(targets), users), owner)


def lists(candidates):
    return np.split(candidates.items, candidates.offsets[1:-1])


@pytest.mark.parametrize("filter_seen", [False, True])
def test_candidates_are_distinct_and_neither_targets_nor_seen(filter_seen):
    found = draw_candidates(EXAMPLES, ITEM, ALIKE, 3, filter_seen)
    for i, mine in enumerate(lists(found)):
        seen = set(ITEM[EXAMPLES.history.start[i] : EXAMPLES.history.stop[i]])
        taken = {EXAMPLES.targets[i]} | (seen if filter_seen else set())
        left = set(range(RESERVED, RESERVED + ITEMS)) - taken
        assert len(set(mine)) == len(mine) == min(3, len(left))
        assert set(mine) <= left
    again = draw_candidates(EXAMPLES, ITEM, ALIKE, 3, filter_seen)
    assert np.array_equal(found.items, again.items)


def test_of_several_targets_each_brings_its_negatives():
    item = np.arange(RESERVED, RESERVED + 2, dtype=np.int32)
    found = draw_candidates(several(3, 2, [RESERVED + 5, RESERVED + 6]), item, ALIKE, 2, True)
    assert [len(mine) for mine in lists(found)] == [4, 4, 4]


def test_where_fewer_items_are_left_all_of_them_are_candidates():
    chance = ALIKE.copy()
    chance[RESERVED + 4 :] = 0  # never in training
    item = np.arange(RESERVED, RESERVED + 1, dtype=np.int32)
    found = draw_candidates(several(2, 1, [RESERVED + 2]), item, chance, 100, True)
    assert [sorted(mine) for mine in lists(found)] == [[RESERVED + 1, RESERVED + 3]] * 2


def test_negatives_that_were_drawn_of_all_are_left_out_where_they_were_seen():
    item = np.array([RESERVED, RESERVED + 1], np.int32)
    examples = several(200, 2, [RESERVED + 2])
    fewer = lists(draw_candidates(examples, item, ALIKE, 5, True, unseen=False))
    assert not {RESERVED, RESERVED + 1, RESERVED + 2} & set(np.concatenate(fewer))
    # Five of the items that are no target are drawn, two of which had been seen.
    left = np.mean([len(mine) for mine in fewer])
    assert left == pytest.approx(5 * (ITEMS - 3) / (ITEMS - 1), abs=0.15)
    assert {len(mine) for mine in fewer} == {3, 4, 5}


def test_candidates_are_drawn_as_often_as_their_chance_says():
    chance = np.zeros(RESERVED + ITEMS)
    chance[RESERVED : RESERVED + 3] = [1, 2, 7]
    item = np.array([RESERVED + 9], np.int32)
    found = draw_candidates(several(50_000, 1, [RESERVED + 9]), item, chance, 1, False)
    share = np.bincount(found.items - RESERVED, minlength=3) / 50_000
    np.testing.assert_allclose(share, [0.1, 0.2, 0.7], atol=0.01)
    # Two without replacement: item 2 first and item 1 then, or the other way round.
    pairs = lists(draw_candidates(several(50_000, 1, [RESERVED + 9]), item, chance, 2, False))
    both = np.mean([set(pair) == {RESERVED + 1, RESERVED + 2} for pair in pairs])
    assert both == pytest.approx(0.7 * 2 / 3 + 0.2 * 7 / 8, abs=0.01)


def test_a_place_among_candidates_counts_targets_and_negatives_and_nothing_else():
    scores = jnp.array([[5.0, 3, 3, 1, 4, 2], [0, 0, 0, 0, 0, 9]])
    answers = Answers(jnp.eye(2), jnp.pad(scores.T, ((RESERVED, 0), (0, 0))), None, RESERVED)
    targets, negatives = jnp.array([[1, 3], [5, -1]]), jnp.array([[2, 5, -1], [0, 1, 2]])
    places = rank_among_candidates(answers, jnp.zeros((0, 2), int), 0, targets, negatives)
    # Item 1 ties with item 2 and is above 3 and 5, which is above 3; then nobody is above 5.
    assert places.tolist() == [[0.5, 3.0], [0.0, jnp.inf]]


def test_among_all_other_items_a_place_is_that_in_the_whole_catalog():
    config = small_config()
    model, params = small_model()
    task = make_task("masked_item")
    whole = evaluate(config, model, task, params, COLUMNS, EXAMPLES).values
    config.eval.negatives = ITEMS
    among = evaluate(config, model, task, params, COLUMNS, EXAMPLES).values
    assert np.array_equal(whole, among)


# 5,000 users of four events each, the last 500 in the test file; the first events of all come
# first, then the second ones. Who has how many events to train on, and how many targets there are.
LEFT_OUT = {2: 5000}, 5000, 5000
MEASURED = {
    "turning_dross": LEFT_OUT,
    "replicability": ({2: 2048, 3: 2952}, 2048, 5000),
    "replicability_sampled": ({2: 2048, 3: 2952}, 2048, 5000),
    "gsasrec": ({2: 512, 3: 4488}, 512, 5000),
    "bert4rec": LEFT_OUT,
    # Of 20,000 events the first 13,333 are trained on, the last 3,334 asked.
    "uni50": ({2: 1667, 3: 3333}, 3333, 3334),
    "sr_gnn": ({4: 500}, 3 * 4000, 3 * 500),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_trains_on_and_asks_for_what_its_paper_does(name):
    config = follow(default(), name)
    check_config(config)
    log = EventLog(
        offsets=np.arange(0, 20_001, 4),
        item=np.tile(np.arange(4, dtype=np.int32), 5000) + RESERVED,
        time=np.arange(20_000).reshape(4, 5000).T.ravel(),
        source_split=(np.arange(5000) >= 4500).astype(np.int8) if name == "sr_gnn" else None,
    )
    options = SplitOptions(**{knob: config.data[knob] for knob in SplitOptions._fields})
    found = split_sequences(config.data.split, log, options)
    lengths, validated, tested = MEASURED[name]
    counted = np.bincount(found.train.stop - found.train.start)
    assert {n: int(counted[n]) for n in np.flatnonzero(counted)} == lengths
    assert len(found.validation.targets) == validated and len(found.test.targets) == tested
    # Every question has one target, and all that came before it as a history.
    for examples in (found.validation, found.test):
        assert np.array_equal(examples.owner, np.arange(len(examples)))
        assert np.array_equal(examples.history.start, log.start[examples.sequence])
        assert np.array_equal(log.item[examples.history.stop], examples.targets)


def test_recboles_protocol_ranks_what_a_user_had_in_the_test_in_one_list():
    # Two users had an event each day for twelve days; the last two are the test.
    items = np.arange(24, dtype=np.int32) + RESERVED
    log = EventLog(np.array([0, 12, 24]), items, np.arange(24) % 12)
    config = follow(default(), "uni50")
    options = SplitOptions(**{knob: config.data[knob] for knob in SplitOptions._fields})
    found = split_sequences(config.data.split, log, options)
    assert (found.train.stop - found.train.start).tolist() == [8, 8]
    assert found.test.owner.tolist() == [0, 0, 1, 1]
    assert (found.test.targets - RESERVED).tolist() == [10, 11, 22, 23]
    assert (found.test.history.stop - found.test.history.start).tolist() == [10, 10]


def test_a_protocol_that_is_not_known_is_refused_with_all_that_are():
    with pytest.raises(ValueError, match="'turning' is not one of the protocols .*'turning_dross'"):
        follow(default(), "turning")


@pytest.mark.parametrize(
    ("knobs_", "message"),
    [
        (["eval.drawn=popularity"], "eval.drawn='popularity' needs config.eval.negatives"),
        (
            ["eval.negatives=5", "tasks=purchase", "train.monitor=auc"],
            "is for tasks that rank",
        ),
        (["eval.unseen=False"], "eval.unseen=False needs config.eval.negatives and"),
        (["eval.negatives=5", "eval.drawn=popular"], "'popular' is not one of"),
    ],
)
def test_candidates_that_make_no_sense_are_refused(knobs_, message):
    with pytest.raises(ValueError, match=message):
        check_config(override(small_config(), [f"config.{knob}" for knob in knobs_]))


ELSEWHERE = {"data": "data/shop", "labels": "a.csv"}


def test_a_run_is_measured_in_another_way_and_says_so(tmp_path, optax_promotes):
    simulate(tmp_path / "data", Shop(sequences=60, items=40, mean_length=6.0, max_length=12))
    config = small_config(layers=1)
    config.data.path = str(tmp_path / "data")
    config.train.update({"batch_size": 32, "steps": 2, "eval_every": 1, "log_every": 1})
    config.eval.negatives = 5
    train(config, tmp_path / "run")  # it is validated among candidates, too
    assert jax.device_count() == 8
    few = evaluate_run(tmp_path / "run", "test")
    assert few["recall@10"] == 1.0  # of 6
    assert "ranked among 5 of 40 items that the user has not had, drawn uniformly" in describe(
        few["protocol"]
    )
    whole = evaluate_run(tmp_path / "run", "test", EvalRequest(negatives=0))
    assert whole["recall@10"] < 1 and "ranked among all 40 items" in describe(whole["protocol"])
    popular = evaluate_run(tmp_path / "run", "test", EvalRequest(drawn="popularity"))
    assert "drawn by popularity" in describe(popular["protocol"])
    with pytest.raises(ValueError, match="needs config.eval.negatives"):
        evaluate_run(tmp_path / "run", "test", EvalRequest(negatives=0, drawn="popularity"))
    names = {path.name for path in (tmp_path / "run").glob("test*.json")}
    assert names == {"test.json", "test.negatives.0.json", "test.popularity.json"}
    evaluate_run(tmp_path / "run", "test", EvalRequest(filter_seen=False, checkpoint="last"))
    assert (tmp_path / "run" / "test.no-filter-seen.last.json").is_file()
    assert re.fullmatch(
        r"\.data\.shop\.\w{6}\.labels\.a\.csv\.\w{6}", EvalRequest(**ELSEWHERE).suffix()
    )
    with pytest.raises(ValueError, match=r"--labels=a.csv needs a task .*'masked_item'"):
        evaluate_run(tmp_path / "run", "test", EvalRequest(labels="a.csv"))
    kept = json.loads((tmp_path / "run" / "test.json").read_text())
    assert kept["recall@10"] == few["recall@10"] and kept["protocol"]["filter_seen"]
    dataset = open_dataset(tmp_path / "data")
    rows = pq.read_table(tmp_path / "run" / "test.negatives.0.masked_item.parquet").to_pydict()
    hits = np.array(rows["rank"]) < 10
    assert hits.mean() == pytest.approx(whole["recall@10"])
    assert len(hits) == whole["users"] and rows["example"] == list(range(len(hits)))
    last = dataset.offsets[1:][rows["sequence"]] - 1
    assert rows["target"] == dataset.columns["item"][last].tolist()
    assert rows["history"] == (last - dataset.offsets[rows["sequence"]]).tolist()
    trained = [np.delete(dataset.columns["item"], last).tolist().count(t) for t in rows["target"]]
    before = dataset.columns["item"][last - 1]  # nobody trains on a validation item
    trained = [n - (before == t).sum() for n, t in zip(trained, rows["target"], strict=True)]
    assert rows["trained"] == trained


def test_lists_are_kept_and_described(tmp_path, optax_promotes):
    simulate(tmp_path / "data", Shop(sequences=60, items=40, mean_length=6.0, max_length=12))
    config = small_config(layers=1)
    config.data.path = str(tmp_path / "data")
    config.eval.cutoffs, config.train.monitor = (1, 5), "ndcg@5"
    config.train.update({"batch_size": 32, "steps": 2, "eval_every": 1, "log_every": 1})
    train(config, tmp_path / "run")
    features = open_dataset(tmp_path / "data").vocabulary("item").feature_names()[:1]
    record = evaluate_run(
        tmp_path / "run", "test", EvalRequest(lists=True, features=tuple(features), groups=True)
    )
    users = pq.read_table(tmp_path / "run" / "test.masked_item.users.parquet").to_pandas()
    assert users["examples"].sum() == record["examples"] and len(users) == record["users"]
    for metric in ("recall@5", "ndcg@1", "map@5"):  # each has one question
        assert users[metric].mean() == pytest.approx(record[metric])
    for told in record["groups"].values():
        share = np.array(told["targets"]) / record["examples"]
        assert share @ np.array(told["recall@5"]) == pytest.approx(record["recall@5"])
    rows = pq.read_table(tmp_path / "run" / "test.masked_item.lists.parquet").to_pandas()
    targets = pq.read_table(tmp_path / "run" / "test.masked_item.parquet").to_pandas()
    assert set(rows["rank"]) == set(range(5)) and len(rows) == 5 * record["examples"]
    both = rows.merge(targets[["example", "target", "rank"]], on="example")
    hit = both[both["item"] == both["target"]]
    assert np.array_equal(hit["rank_x"], hit["rank_y"])  # there are no ties
    assert len(hit) / record["examples"] == pytest.approx(record["recall@5"])
    assert record["coverage@5"] == rows["item"].nunique() / 40
    assert {"gini@1", "novelty@5", "popularity@5", "serendipity@5", "diversity@5"} < set(record)
    same = evaluate_run(
        tmp_path / "run", "test", EvalRequest(lists=True, reference=str(tmp_path / "run"))
    )
    assert same["intersection@5"] == 1.0
    with pytest.raises(ValueError, match="'colour' is not a feature of"):
        evaluate_run(tmp_path / "run", "test", EvalRequest(lists=True, features=("colour",)))
    with pytest.raises(ValueError, match="add --lists"):
        evaluate_run(tmp_path / "run", "test", EvalRequest(features=tuple(features)))
    with pytest.raises(ValueError, match="eval.negatives=5 ranks some"):
        evaluate_run(tmp_path / "run", "test", EvalRequest(lists=True, negatives=5))
    with pytest.raises(FileNotFoundError, match="test.json does not exist: --reference must be"):
        evaluate_run(tmp_path / "run", "test", EvalRequest(lists=True, reference=str(tmp_path)))
    kept = tmp_path / "run" / "test.negatives.0.masked_item.lists.parquet"
    evaluate_run(tmp_path / "run", "test", EvalRequest(lists=True, negatives=0))
    evaluate_run(tmp_path / "run", "test")  # of an evaluation without lists, there are none
    assert kept.is_file()  # those of another one stay
    with pytest.raises(FileNotFoundError, match="--lists. writes it"):
        evaluate_run(
            tmp_path / "run", "test", EvalRequest(lists=True, reference=str(tmp_path / "run"))
        )


@pytest.mark.parametrize("part", ["test", "validation"])
def test_baselines_among_all_that_is_left_are_those_over_the_catalog(part, tmp_path):
    simulate(tmp_path / "data", Shop(sequences=60, items=40, mean_length=6.0, max_length=12))
    config = small_config()
    config.data.update({"path": str(tmp_path / "data"), "split": "ratio", "test_share": 0.4})
    over_the_catalog = compare_baselines(config, part)
    config.eval.negatives = 40
    among = compare_baselines(config, part)
    assert among["protocol"]["candidates"] != over_the_catalog["protocol"]["candidates"]
    for way in ("popularity", "markov", "item_knn"):
        found, expected = (one["baselines"][way] for one in (among, over_the_catalog))
        assert found["ndcg@10"] == expected["ndcg@10"], way
