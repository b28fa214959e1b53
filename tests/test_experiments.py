"""Experiments: tables agree with the records, and the arithmetic of a step is right."""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from toy import layout

from clickflax.batch import RESERVED
from clickflax.config.check import check_config
from clickflax.config.default import differences, from_dict, load
from clickflax.data.batches import Windows, training_batches
from clickflax.study.plan import cells_of, load_study
from clickflax.study.results import Result, Row, Table
from clickflax.study.statistics import Difference, Spread
from clickflax.tasks.ranking_metrics import RANKING_METRICS
from experiments import calibration, models, objectives, simulated, speed, table
from experiments.fuzz import KINDS, fuzz, judge
from experiments.peers import common
from experiments.study import commits

MODULES = [path.stem for path in table.HERE.glob("[a-z]*.py")]


@pytest.mark.parametrize("name", MODULES)
def test_the_modules_of_experiments_are_in_their_package_only(name):
    assert importlib.util.find_spec(name) is None
    assert importlib.util.find_spec(f"experiments.{name}")


@pytest.mark.parametrize("words", [["experiments/table.py"], ["-m", "experiments.table"]])
def test_an_experiment_runs_as_a_file_and_as_a_module(words):
    root = str(table.HERE.parent)
    environment = os.environ | {"PYTHONPATH": root}  # as an editable installation has it
    command = [sys.executable, *words, "--help"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("usage: table.py"), done.stderr


@pytest.mark.parametrize("page", table.PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_records(page):
    assert table.with_tables(page) == page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "gflop"),
    [
        # Two sequences of 4 events in a row of 8, one layer of width 8, 10 items. Products of a
        # token with the weights: 4 x 8 x 8 in attention, 2 x 8 x 32 in the feed-forward layer.
        # Attention: 4 x 4 pairs a sequence, twice 8 products each, half of them when causal.
        ("sasrec", 6e-9 * (8 * (256 + 512) + 2 * 16 * 8 + 8 * 8 * 10)),
        # One event of each is hidden: 8 x 10 products for the scores, 8 x 8 for the dense layer.
        # For these two alone the queries, the output and the feed-forward layer are needed.
        ("bert4rec", 6e-9 * (8 * 128 + 2 * (128 + 512) + 2 * 4 * 16 + 2 * (8 * 10 + 8 * 8))),
    ],
)
def test_the_arithmetic_of_a_step_is_counted_as_by_hand(model, gflop, tmp_path):
    flags = argparse.Namespace(
        model=model, width=8, layers=1, heads=2, max_len=8, batch=2, overrides=[]
    )
    shifted = model == "sasrec"
    bounds = np.array([0, 4 + shifted, 8 + 2 * shifted])
    batches = training_batches(
        {"item": np.full(bounds[-1], RESERVED, np.int32)},
        {},
        Windows(bounds[:-1], bounds[1:]),
        layout(),
        window="last",
        stride=1,
        batch_size=2,
        shifted=shifted,
    )
    config = speed.config_for(flags, tmp_path)
    assert speed.step_gflop(config, batches, 10) == pytest.approx(gflop)


MODELS = sorted((table.HERE / "models").glob("*.[0-9]*.json"))


def config_of(run):
    changed = [f"config.{knob}" for knob in run.changed]
    changed += [f"config.eval.{knob}={value}" for knob, value in run.candidates.items()]
    return load(models.CONFIGS / f"{run.config}.py", changed)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_record_of_a_model_is_of_its_config_as_it_is(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    config = config_of(models.all_runs()[path.name.split(".")[0]])
    different = differences(from_dict(record["config"]), config)
    assert different.keys() <= {"config.data.path", "config.seed"}
    assert not record["environment"]["dirty"]


@pytest.mark.parametrize("name", models.all_runs())
def test_every_run_of_a_model_is_accepted(name):
    check_config(config_of(models.all_runs()[name]))


@pytest.mark.parametrize("name", simulated.RUNS)
def test_every_run_on_the_simulated_shop_has_a_config_that_is_accepted(name):
    config, changes = simulated.RUNS[name]
    check_config(load(config, [f"config.{change}" for change in changes]))


STUDIES = [path for path in sorted(table.HERE.glob("*.py")) if "get_study" in path.read_text()]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_cell_of_a_study_is_accepted(path):
    study = load_study(path)
    cells = cells_of(study)
    assert len(cells) == len(study.configs) * len(study.data) * len(study.seeds)
    for cell in cells:
        names = {f"{name}@{k}" for k in cell.load().eval.cutoffs for name in RANKING_METRICS}
        assert set(study.metrics) <= names


def test_of_several_rounds_the_fastest_counts():
    lines = [{"step_s": 4, "rate": 1, "recommend_users_per_s": 9}]
    lines += [{"step_s": 2, "rate": 2, "recommend_users_per_s": 7}]
    found = speed.fastest(lines, "rate")
    assert found == {"step_s": 2, "rate": 2, "recommend_users_per_s": 9, "rounds": [1, 2]}
    assert "recommend_users_per_s" not in speed.fastest([{"rate": 1}], "rate")


BINS = [
    {"labels": 30, "prediction": 0.1, "yes": 0.2, "least": 0.1, "most": 0.1},
    {"labels": 10, "prediction": 0.3, "yes": 0.3, "least": 0.2, "most": 0.4},
]


def test_the_strip_spreads_the_labels_of_a_bin_over_its_range_of_probabilities():
    share = calibration.spread(BINS, 0.4)  # 40 columns of 0.01
    assert share[10] == 0.75 and share[:10].sum() == share[11:20].sum() == 0
    np.testing.assert_allclose(share[20:], 0.25 / 20)
    assert calibration.spread(BINS, 0.3).sum() == pytest.approx(0.75 + 0.25 / 2)


def test_the_reliability_of_every_task_of_a_run_is_drawn(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(FileNotFoundError, match="clickflax evaluate --run="):
        calibration.curves(run, "test")
    (run / "test.json").write_text('{"ndcg@10": 0.5}')
    with pytest.raises(ValueError, match="no task of the run has binary labels"):
        calibration.curves(run, "test")
    record = {"purchase/reliability": BINS, "purchase/calibration_error": 0.075}
    (run / "test.json").write_text(json.dumps(record))
    found = calibration.curves(run, "test")
    assert found == {"run purchase": {"bins": BINS, "error": 0.075}}
    assert calibration.limit(found) == 0.4
    calibration.plot(found, tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def compared(data, mean, p):
    """A table of the study of objectives, as far as its answer needs one."""
    spread = Spread(0.1 + mean, 0.01, 0.01)
    difference = Difference(mean, mean - 0.01, mean + 0.01, p, p)
    results = {
        "SASRec": Result(spread, None, float("nan")),
        "BERT4Rec": Result(spread, difference, p),
    }
    rows = [
        Row(config, "", {}, [1.0, 2.0], {}, [], {objectives.METRIC: result})
        for config, result in results.items()
    ]
    return Table(data, "test", rows, 2, [])


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (
            ((0.02, 0.001), (0.03, 0.01)),
            "Yes, after as many steps. By NDCG@10 it is +0.0200",
        ),
        (((-0.02, 0.001), (-0.03, 0.01)), "Not after as many steps: it is behind."),
        (((-0.02, 0.001), (0.03, 0.2)), "it is ahead in 0 and behind in 1 of 2."),
    ],
)
def test_the_question_of_the_study_of_objectives_is_answered_by_its_tables(found, verdict):
    tables = [compared(f"data {i}", *one) for i, one in enumerate(found)]
    text = objectives.answer(tables)
    assert text.startswith(objectives.QUESTION) and verdict in text
    assert "(data 1): means over 2 seeds" in text
    empty = tables[0].rows[1]._replace(results={})
    with pytest.raises(ValueError, match="data 0: BERT4Rec is not compared yet"):
        objectives.answer([tables[0]._replace(rows=[tables[0].rows[0], empty])])


def test_a_record_without_a_commit_has_none_in_the_table():
    known = {"environment": {"commit": "0123456789abcdef", "resumed": [{"commit": None}]}}
    assert commits([known, {"environment": {"commit": None}}]) == "0123456"


USERS, ITEMS = np.array([7, 3, 7, 3, 7]), np.array([1, 2, 2, 1, 3])


def test_events_of_a_peer_are_counted_for_each_user_in_order(tmp_path):
    path = tmp_path / "sequences.txt"
    np.savetxt(path, np.stack([USERS, ITEMS], 1), "%d")
    users, items = common.read_events(str(path))
    assert users.tolist() == USERS.tolist() and items.tolist() == ITEMS.tolist()
    assert common.positions(users).tolist() == [0, 0, 1, 1, 2]
    assert common.in_order(users).tolist() == [7, 3]


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([7] * 10 + [3] * 9, range(10, 29), "2 users have .9, 10. items each"),
        ([7] * 10 + [3] * 10, [1, *range(10, 29)], "1 recommended items are among those"),
    ],
)
def test_recommendations_of_a_peer_are_ten_unseen_items_a_user(users, items, message):
    with pytest.raises(ValueError, match=message):
        common.check_lists(USERS, ITEMS, np.array(users), np.array(items), 2)
    lists = np.repeat([7, 3], 10), np.arange(10, 30)
    common.check_lists(USERS, ITEMS, *lists, count=2)


def test_a_record_of_a_peer_says_what_it_was_made_with(tmp_path, capsys):
    parser = common.parser_of("Times.")
    path = tmp_path / "records" / "peer.json"
    flags = parser.parse_args(["--data", "RAW/ml-1m/sequences.txt", "--record", str(path)])
    common.report(flags, "peer", ("numpy",), {"step_s": 0.5})
    record = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == record
    assert record["peer"] == f"peer {np.__version__}" and record["step_s"] == 0.5
    assert record["config"]["data"] == "ml-1m" and record["config"]["batch"] == 128
    assert record["environment"].keys() == {
        *("started", "commit", "dirty", "versions", "cpu", "cores")
    }


def test_steps_that_warm_up_do_not_count():
    assert common.median_step([0.0, 5.0, 9.0, 10.0, 12.0], skip=2) == 1.5
    with pytest.raises(ValueError, match="leave no step: raise --steps"):
        common.median_step([0.0, 5.0, 9.0], skip=2)


@pytest.mark.parametrize("kind", ["whole_log", "damaged_log", "damaged_source", "any_knob"])
def test_random_inputs_are_read_right_or_refused_in_words(kind):
    record = fuzz({kind: KINDS[kind]}, seed=1, first=0, inputs=12, seconds=60.0)
    assert record["inputs"] == 12 == sum(record["kinds"][kind].values())
    assert record["listed"] == []


def test_what_ends_in_a_traceback_or_in_the_words_of_a_library_is_a_failure(tmp_path):
    def raises(error):
        def kind(chance, folder):
            raise error

        return judge(kind, random.Random(0), tmp_path)[0]

    assert raises(ValueError("log.csv, line 3: 2 fields, not 3.")) == "refused"
    assert raises(KeyError("format")) == "failure"
    assert raises(ValueError("Binder Error: no such column")) == "failure"
    assert judge(lambda *_: "a row is not counted", random.Random(0), tmp_path)[0] == "failure"
    assert judge(lambda *_: None, random.Random(0), tmp_path)[0] == "right"
