"""Studies: which runs they have, how they are run, and what their tables say."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickflax.batch import RESERVED
from clickflax.config.default import to_dict
from clickflax.data.splits.common import EventLog, SplitOptions
from clickflax.data.splits.strategies import split_sequences
from clickflax.run.folder import load_run
from clickflax.runtime.files import write_json
from clickflax.runtime.params import by_name
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.study import Study, cell, gather, paired, report, results, runner, table, time_folds
from clickflax.study import main as study_main
from clickflax.study.main import main
from clickflax.study.plan import cells_of, check_study, folder_of, load_study, read_plan, write_plan
from clickflax.tasks import label_metrics
from clickflax.tasks.label_metrics import binary_metrics
from clickflax.tasks.ranking_metrics import mean_metrics, ranking_metrics

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
SMALL = ("train.steps=2", "train.eval_every=2", "train.batch_size=16", "model.width=8")
SMALL += ("model.heads=1", "model.max_len=8", "train.log_every=1", "train.cpu_devices=1")
FILE = CONFIGS / "sasrec_ml100k.py"


def study_of(path="data", **changed):
    whole = {
        "question": "Do wide models know more?",
        "configs": {"narrow": (FILE, *SMALL), "wide one": (FILE, *SMALL, "model.width=16")},
        "data": {"shop": (f"data.path={path}",)},
        "seeds": (0, 1),
    }
    return Study(**{**whole, **changed})


def test_a_study_has_a_cell_for_every_config_data_set_and_seed():
    study = study_of(data={"a": ("data.path=a",), "b": ("data.path=b", "model.layers=1")})
    cells = cells_of(study)
    assert len({cell.name for cell in cells}) == len(cells) == 8
    assert [(c.seed, c.data, c.config) for c in cells[:3]] == [
        (0, "a", "narrow"),
        (0, "a", "wide one"),
        (0, "b", "narrow"),
    ]
    config = cells[3].load()
    assert (config.model.width, config.model.layers, config.seed) == (16, 1, 0)
    assert cells[3].name.startswith("wide_one.b.0.")


def test_the_tests_of_folds_in_time_follow_each_other_without_a_gap():
    folds = time_folds("shop", ("data.path=a",), ("2/6", "3/6", "4/6", "5/6"), "time_each")
    assert list(folds) == ["shop, 3/6 to 4/6", "shop, 4/6 to 5/6", "shop, 5/6 to its end"]
    cells = cells_of(study_of(data=folds, seeds=(0,)))
    offsets = np.arange(0, 61, 6)  # ten users of six events, at moments that are all different
    chance = np.random.default_rng(0)
    times = np.sort(chance.permutation(60).reshape(10, 6)).ravel()
    log = EventLog(offsets, chance.integers(RESERVED, 20, 60), times)
    tested, until = [], []
    for one in cells[::2]:  # one of each fold
        data = one.load().data
        assert data.path == "a"
        options = SplitOptions(-1, data.validation_from, data.test_from, test_until=data.test_until)
        parts = split_sequences(data.split, log, options)
        assert len(parts.validation) and len(parts.train.start) == 10
        tested.append(len(parts.test))
        until.append(parts.train.stop - offsets[:-1])
    assert all((early <= late).all() for early, late in zip(until, until[1:], strict=False))
    whole = SplitOptions(-1, "2/6", "3/6")
    assert sum(tested) == len(split_sequences("time_each", log, whole).test)
    with pytest.raises(ValueError, match=r"moments=\('1/2',\): a fold has two"):
        time_folds("shop", (), ("1/2",))


def test_a_cell_of_another_config_is_another_cell():
    names = {cell.name for cell in cells_of(study_of())}
    changed = {c.name for c in cells_of(study_of(configs={"narrow": (FILE, *SMALL, "seed=3")}))}
    assert changed < names  # the seed of the study counts
    changed = study_of(configs={"narrow": (FILE, *SMALL, "model.dropout=0.25")})
    assert not {cell.name for cell in cells_of(changed)} & names


def test_a_file_that_changed_after_the_plan_is_noticed(tmp_path):
    file = tmp_path / "config.py"
    text = f"import runpy\nget_config = runpy.run_path({str(FILE)!r})['get_config']\n"
    file.write_text(text)
    [one, _] = cells_of(study_of(configs={"narrow": (file, *SMALL)}))
    assert one.load().seed == 0
    file.write_text(
        text.replace("get_config =", "was =")
        + "def get_config():\n    c = was()\n    c.model.layers = 1\n    return c\n"
    )
    with pytest.raises(ValueError, match="has changed since"):
        one.load()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": ()}, "seeds is empty, so that the study has no cells"),
        ({"configs": {}}, "configs is empty"),
        ({"seeds": (1, 2, 1)}, "seed 1 is there twice"),
        ({"baseline": "narow"}, "baseline='narow' is not there; did you mean 'narrow'"),
        ({"published": {"shop": {"x": ""}}}, "'narrow', 'wide one'"),
        ({"data": {"shop": "data.path=data"}}, "must be a list: changes"),
        ({"metrics": "ndcg@10"}, "metrics='ndcg@10' must be a list"),
        ({"seeds": 3}, "seeds=3 must be a list or a tuple"),
        ({"seeds": ("a",)}, "seed 'a' must be a whole number"),
        ({"seeds": (True,)}, "seed True must be a whole number"),
        ({"metrics": (3,)}, "metric 3 must be a name"),
        ({"configs": {"A": pathlib.Path("a.py")}}, "must be a list: a file, then changes to it"),
        ({"configs": {"A": ()}}, r"configs\['A'\]=\(\) must be a list: a file"),
        ({"asked": ("test",)}, r"asked=\('test',\) must be a dictionary"),
        ({"asked": {"x": "lists"}}, r"asked\['x'\]='lists' must be a dictionary"),
        ({"asked": {"few": {"negativs": 5}}}, "did you mean 'negatives'"),
        ({"asked": {"a": {}, "b": {"lists": True}}}, "have the same record, test.json"),
        ({"asked": {"a": {"data": FILE}}}, "not JSON serializable"),
        ({"asked": {"a": {"features": ("genres",)}}}, "are about lists: add --lists"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        check_study(study_of(**changed), "here")


@pytest.mark.parametrize(
    ("metric", "asked", "nearest"),
    [
        ("ndgc@10", {}, "ndcg@10"),
        ("ndcg@7", {}, "ndcg@5"),
        ("ndcg@10", {"cutoffs": (5,)}, "ndcg@5"),
        ("covrage@10", {"lists": True}, "coverage@10"),
    ],
)
def test_a_metric_that_no_run_will_have_is_refused_before_any_is_trained(metric, asked, nearest):
    with pytest.raises(
        ValueError, match=f"metrics='{metric}' is not there; did you mean '{nearest}'"
    ):
        cells_of(study_of(metrics=(metric,), asked={"test": asked}))


def test_what_no_run_can_be_asked_is_refused_before_any_is_trained():
    for asked, why in (
        ({"labels": "a.csv"}, "needs a task with labels of a file"),
        ({"drawn": "popularity"}, "needs config.eval.negatives"),
        ({"given": ("action=buy",)}, "eval.given"),
    ):
        with pytest.raises(ValueError, match=why):
            cells_of(study_of(asked={"test": asked}))


def test_metrics_of_lists_labels_and_of_several_tasks_are_known():
    asked = {"test": {"lists": True, "features": ("genres",)}, "few": {"negatives": 5}}
    for metric in ("coverage@10", "diversity@10", "map@5"):
        cells_of(study_of(metrics=(metric,), asked=asked))
    with_features = {"narrow": (FILE, *SMALL, "data.variables=item,item.genres")}
    cells_of(study_of(metrics=("cold/ndcg@10",), configs=with_features))
    for metric in ("cold/ndcg@10", "intersection@10"):  # without features, or a reference
        with pytest.raises(ValueError, match="is not there"):
            cells_of(study_of(metrics=(metric,), asked=asked))
    both = ('tasks=("next_item","purchase")', "train.monitor=purchase/auc")
    both += ("data.split=sequence_time",)
    both += ("data.validation_from=2020-01-01", "data.test_from=2020-02-01")
    configs = {"both": (FILE, *SMALL, *both, "data.position_from=start")}
    for metric in ("next_item/ndcg@10", "purchase/auc", "purchase/precision@recall=0.5"):
        cells_of(study_of(metrics=(metric,), configs=configs))
    told = binary_metrics(np.array([0.2, 0.7]), np.array([0.0, 1.0]), 0.5)
    assert set(told) == {
        *label_metrics.LABEL_METRICS["binary"],
        *label_metrics.EXTRA_NAMES["binary"],
    }


def test_a_checkout_that_no_commit_has_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "study.py"
    file.write_text("from clickflax.study import Study\n")
    monkeypatch.setattr(study_main, "checkout_state", lambda: {"commit": "abc", "dirty": True})
    words = ["run", str(file), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="changes that are not committed.*--allow-dirty"):
        main(words)
    with pytest.raises(ValueError, match="no function get_study"):
        main([*words, "--allow-dirty"])
    monkeypatch.setattr(study_main, "checkout_state", lambda: {"commit": "abc", "dirty": False})
    with pytest.raises(ValueError, match="no function get_study"):
        main(words)
    with pytest.raises(ValueError, match="--workers=0: there must be one or more"):
        main([*words, "--workers", "0"])


def test_a_plan_is_read_as_it_was_written(tmp_path):
    asked = {"bought": {"where": "action=buy", "cutoffs": (5,)}}
    study = study_of(asked=asked, metrics=("recall@5",), seeds=range(2))
    write_plan(tmp_path, study, cells_of(study))
    found, cells = read_plan(tmp_path)
    assert found.asked == study.asked and found.seeds == [0, 1] and cells == cells_of(study)


def test_a_file_without_a_study_is_refused(tmp_path):
    (tmp_path / "a.py").write_text("get_study = lambda: 3\n")
    with pytest.raises(ValueError, match="returned 3, not a Study"):
        load_study(tmp_path / "a.py")
    (tmp_path / "b.py").write_text("")
    with pytest.raises(ValueError, match="no function get_study"):
        load_study(tmp_path / "b.py")
    (tmp_path / "d.py").write_text("def get_study():\n    return 1 / 0\n")
    with pytest.raises(ValueError, match=r"d\.py, line 2: ZeroDivisionError"):
        load_study(tmp_path / "d.py")
    with pytest.raises(FileNotFoundError, match=r"a\.py.*b\.py"):
        load_study(tmp_path / "c.py")
    with pytest.raises(FileNotFoundError, match="not the folder of a study"):
        read_plan(tmp_path)


def pretend(out, one, places, seconds=10.0):
    """A cell that was run, whose targets stand at these places."""
    folder = folder_of(out, one)
    folder.mkdir(parents=True)
    owner = np.arange(len(places))
    metrics = mean_metrics(ranking_metrics(np.array(places, np.float64), owner, len(places), (10,)))
    write_json(folder / "config.json", {"tasks": ["next_item"], "train": {"steps": 4}})
    rows = {"question": owner, "sequence": owner, "place": np.array(places, np.float32)}
    rows["target"] = owner + 7
    pq.write_table(pa.table(rows), folder / "test.next_item.parquet")
    environment = {"commit": "abc", "started": "now"}
    more = {"train_seconds": seconds, "environment": environment, "config": to_dict(one.load())}
    write_json(folder / "test.json", {**metrics, **more})
    write_json(folder / "answered.json", {"test": {}})


def pretended(tmp_path, **changed):
    """A study of two seeds; the wide model puts the target before where the narrow one does."""
    study = study_of(**changed)
    cells = cells_of(study)
    write_plan(tmp_path, study, cells)
    places = np.random.default_rng(0).integers(0, 20, 200)
    for one in cells:
        wide = one.config == "wide one"
        pretend(tmp_path, one, np.maximum(0, places - 3 * wide) + one.seed)
    return tmp_path, cells


def test_a_table_has_means_over_seeds_and_differences_over_users(tmp_path):
    out, cells = pretended(tmp_path, published={"shop": {"wide one": "a paper: .1"}})
    study, planned = read_plan(out)
    assert planned == cells and study.baseline == "narrow"
    [found] = results.results(out, study, planned)
    narrow, wide = found.lines
    seeds = wide.values["ndcg@10"]
    assert len(seeds) == 2 and wide.knobs["model.width"] == 16 and "seed" not in wide.knobs
    result = wide.results["ndcg@10"]
    assert result.seeds.mean == pytest.approx(np.mean(seeds))
    assert result.apart.mean == pytest.approx(
        result.seeds.mean - narrow.results["ndcg@10"].seeds.mean
    )
    assert 0 < result.apart.low < result.apart.mean < result.apart.high and result.p < 0.01
    assert narrow.results["ndcg@10"].apart is None
    text = table.WRITERS["md"]([found], study.metrics, study.baseline)
    apart = f"{result.apart.mean:+.4f} [{result.apart.low:+.4f}, {result.apart.high:+.4f}]"
    assert "|  | recall@10 | Δ recall@10 | ndcg@10 | Δ ndcg@10 | seeds | published | tr" in text
    assert "| wide one | " in text and f"* | {apart} | 2 | a paper: .1 | 10 s |" in text
    deviation = result.seeds.deviation
    assert f"{result.seeds.mean:.4f} ± {result.seeds.half:.4f} ({deviation:.4f})*" in text
    assert "difference from narrow for the same users" in text
    assert "Paired t-tests find the same." in text
    tex = table.WRITERS["latex"]([found], study.metrics, study.baseline)
    assert rf"$^{{*}}$ & {apart} & 2 & a paper: .1 & 10 s \\" in tex
    assert r"\begin{tabular}{lrrrrrll}" in tex and r"$\Delta$ ndcg@10" in tex
    told = table.WRITERS["json"]([found], study.metrics, study.baseline)
    apart = json.loads(told)["tables"][0]["lines"][1]["results"]["ndcg@10"]["apart"]
    assert apart["mean"] == result.apart.mean
    # A t-test that finds otherwise is named.
    sure = result._replace(apart=result.apart._replace(p_t=0.03))
    other = [wide._replace(results={"ndcg@10": sure}), wide._replace(results={"ndcg@10": sure})]
    other[1] = other[1]._replace(config="wider")  # two tests: neither is sure any more
    twice = found._replace(lines=[narrow, *other])
    told_otherwise = table.WRITERS["md"]([twice], ["ndcg@10"], study.baseline)
    assert "otherwise for ndcg@10 of wide one (shop, p = 0.06), ndcg@10 of wid" in told_otherwise
    (tmp_path / "table.json").write_text(told)
    again = table.read_tables(tmp_path / "table.json")
    assert table.WRITERS["md"](*again) == text and table.WRITERS["json"](*again) == told


def pretend_labels(out, one, told, label):
    """A cell that was run, which has told these probabilities of a purchase."""
    folder = folder_of(out, one)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"tasks": ["purchase"], "train": {"steps": 4}})
    rows = {"sequence": np.arange(len(label)) // 2, "event": np.arange(len(label))}
    pq.write_table(
        pa.table({**rows, "label": label, "told": told}), folder / "test.purchase.parquet"
    )
    more = {"train_seconds": 1.0, "environment": {"commit": "abc", "started": "now"}}
    more["config"] = to_dict(one.load())
    write_json(folder / "test.json", {**binary_metrics(told, label, 0.5), **more})


def test_labels_are_compared_too_and_a_lower_loss_is_better(tmp_path):
    purchase = ("tasks=('purchase',)", "data.variables=('item', 'action')", "train.monitor=auc")
    purchase += ("data.position_from=start",)
    study = study_of(
        data={"shop": ("data.path=data", *purchase)}, metrics=("auc", "log_loss", "f1")
    )
    cells, chance = cells_of(study), np.random.default_rng(0)
    label = (chance.random(400) < 0.4).astype(np.float64)
    write_plan(tmp_path, study, cells)
    study, cells = read_plan(tmp_path)
    for one in cells:
        noise = chance.normal(size=400) / (2 if one.config == "wide one" else 1)
        pretend_labels(tmp_path, one, 1 / (1 + np.exp(-(2 * label - 1 + noise))), label)
    [found] = results.results(tmp_path, study, cells)
    narrow, wide = found.lines
    for metric in ("auc", "log_loss"):
        one = wide.results[metric]
        away = one.seeds.mean - narrow.results[metric].seeds.mean
        assert one.apart.mean == pytest.approx(away)
        assert one.apart.low < one.apart.mean < one.apart.high and one.p < 0.01
    assert wide.results["log_loss"].apart.mean < 0 < wide.results["auc"].apart.mean
    assert wide.results["f1"].apart is None  # its threshold is the run's own
    text = table.WRITERS["md"]([found], study.metrics, study.baseline)
    assert "|  | auc | Δ auc | log_loss | Δ log_loss | f1 | seeds |" in text
    assert text.count(")* |") == 2 and ")† |" not in text and "t-test" not in text
    told = table.WRITERS["json"]([found], study.metrics, study.baseline)
    (tmp_path / "table.json").write_text(told)
    assert table.WRITERS["md"](*table.read_tables(tmp_path / "table.json")) == text
    # What cannot be compared says why, and does not keep the others from it.
    path = folder_of(tmp_path, cells[0]) / "test.purchase.parquet"
    rows = pq.read_table(path)
    alone = rows.set_column(0, "sequence", pa.array(np.zeros(len(label), int)))
    for changed, why in (
        (rows.drop_columns("sequence"), "do not tell whose the labels are"),
        (alone, "its labels are of one sequence"),
        (rows.set_column(2, "label", pa.array(1 - label)), "its seeds were asked of different"),
    ):
        pq.write_table(changed, path)
        [found] = results.results(tmp_path, study, cells)
        assert why in found.strangers[0] and len(found.lines[1].values["auc"]) == 2
    # A class is what was told, without its probability.
    assert paired.per_label([path], "log_loss") is not None
    pq.write_table(rows.set_column(3, "told", pa.array(label.astype(int))), path)
    assert paired.per_label([path], "log_loss") is None
    assert paired.per_label([path], "accuracy").value == 1


def test_a_config_that_is_not_asked_for_a_metric_has_none_and_no_reason(tmp_path):
    out, cells = pretended(tmp_path)
    study, planned = read_plan(out)
    for one in cells:
        if one.config == "wide one":
            shutil.rmtree(folder_of(out, one))
            label = np.arange(10.0) % 2
            pretend_labels(out, one, label * 0.5 + 0.2, label)
    [found] = results.results(out, study._replace(metrics=("ndcg@10", "auc")), planned)
    assert not found.strangers
    assert np.isnan(found.lines[1].results["ndcg@10"].seeds.mean)
    assert found.lines[1].results["auc"].seeds.mean == 1 and found.lines[1].results["auc"].p


def test_what_is_missing_is_said(tmp_path):
    out, cells = pretended(tmp_path)
    study, planned = read_plan(out)
    with pytest.raises(ValueError, match="'ndcg@1O' is not there; did you mean 'ndcg@10'"):
        results.results(out, study._replace(metrics=("ndcg@1O",)), planned)
    for one in cells[1:]:
        (folder_of(out, one) / "test.json").unlink()
    study, planned = read_plan(out)
    found = results.results(out, study, planned)
    text = table.WRITERS["md"](found, study.metrics, study.baseline)
    assert "| 1 of 2 | 10 s |" in text and "| wide one |  |  | 0 of 2 |  |" in text


def test_the_questions_of_a_user_are_one_draw(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = {"question": [0, 1, 1, 2], "sequence": [4, 4, 4, 7], "place": [0.0, 1.0, 20.0, 3.0]}
    rows["target"] = [9, 8, 7, 9]
    pq.write_table(pa.table(rows), path)
    users = paired.users_in(path, paired.ranked("recall@2"))
    # Questions have 1, 1/2 and 0: the first two are one user's, whose share is that of the mean.
    assert users.value.tolist() == [1.5 * 2 / 3, 0.0]
    assert users.value.mean() == pytest.approx(0.5)


def test_a_metric_of_a_ranking_is_known_by_its_name():
    assert paired.ranked("ndcg@10") == (None, "ndcg@10", 10)
    assert paired.ranked("next_item/ndcg@10") == ("next_item", "ndcg@10", 10)
    for other in ("auc", "precision@recall=0.5", "coverage@10", "cold/ndcg@10", "a/cold/map@5"):
        assert paired.ranked(other) is None


def test_models_that_were_asked_of_others_are_not_compared(tmp_path):
    out, cells = pretended(tmp_path)
    for one in cells:
        if one.config == "wide one":
            path = folder_of(out, one) / "test.next_item.parquet"
            rows = pq.read_table(path).to_pydict()
            pq.write_table(pa.table({**rows, "target": rows["target"][::-1]}), path)
    study, planned = read_plan(out)
    [found] = results.results(out, study, planned)
    assert (
        found.strangers == ["wide one: asked of others than narrow"]
        and found.lines[1].results["ndcg@10"].apart is None
    )
    text = table.WRITERS["md"]([found], study.metrics, study.baseline)
    assert "shop: not compared: wide one: asked of others than narrow." in text
    folder = folder_of(out, cells[1])
    (folder / "test.next_item.parquet").unlink()
    [found] = results.results(out, study, planned)
    assert found.strangers == [f"wide one: cells/{cells[1].name} has no test.next_item.parquet"]


def test_models_that_were_asked_to_rank_others_are_not_compared(tmp_path):
    out, cells = pretended(tmp_path)
    for one in cells:
        path = folder_of(out, one) / "test.json"
        few = "100 of all" if one.config == "wide one" else "all"
        told = {"history": one.config, "candidates": few, "filter_seen": True}
        write_json(path, {**json.loads(path.read_text()), "protocol": told})
    study, planned = read_plan(out)
    [found] = results.results(out, study, planned)
    why = "asked otherwise than narrow: candidates '100 of all', not 'all'"
    assert found.strangers == [f"wide one: {why}"]
    assert found.lines[1].results["ndcg@10"].apart is None
    source = gather.open_source([out])
    assert {one.config for one in source.alike("shop")} == {"narrow"} and len(source.cells) == 4


def test_a_file_that_has_no_tables_is_refused_by_name(tmp_path):
    for text, why in (("{", "is not valid JSON"), ("[]", "has no tables"), ("{}", "has no tables")):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=f"other.json {why}"):
            table.read_tables(tmp_path / "other.json")


def test_a_metric_that_only_some_are_asked_for_is_blank_elsewhere(tmp_path):
    asked = {"test": {}, "lists": {"lists": True, "negatives": 0}}
    out, cells = pretended(tmp_path, asked=asked, metrics=("ndcg@10", "coverage@10"))
    for one in cells:
        folder = folder_of(out, one)
        record = json.loads((folder / "test.json").read_text()) | {"coverage@10": 0.25}
        write_json(folder / "test.negatives.0.json", record)
    study, planned = read_plan(out)
    plain, listed = results.results(out, study, planned)
    assert np.isnan(plain.lines[0].values["coverage@10"]).all()
    assert listed.lines[0].values["coverage@10"] == [0.25, 0.25]


def test_a_file_of_a_run_that_is_cut_is_named(tmp_path):
    out, cells = pretended(tmp_path)
    study, planned = read_plan(out)
    folder = folder_of(out, cells[0])
    rows = folder / "test.next_item.parquet"
    rows.write_bytes(rows.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"test\.next_item\.parquet is no whole Parquet file"):
        results.results(out, study, planned)
    record = folder / "test.json"
    record.write_text(record.read_text()[:50])
    with pytest.raises(ValueError, match=r"test\.json is not valid JSON"):
        results.results(out, study, planned)
    lines = folder / "metrics.jsonl"
    lines.write_text('{"step": 1, "a": 2}\n{"step": 2, "a": 3}\n{"step": 3, "a')
    assert gather.curve(folder, "a")["step"] == [1, 2]  # the third is just being written
    lines.write_text('{"step": 1, "a": 2}\n{"step": 2, \n{"step": 3, "a": 4}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2, is no JSON"):
        gather.curve(folder, "a")


def test_a_metric_that_could_not_be_told_is_blank(tmp_path):
    out, cells = pretended(tmp_path)
    path = folder_of(out, cells[0]) / "test.json"
    write_json(path, json.loads(path.read_text()) | {"auc": None})
    study, planned = read_plan(out)
    found = results.results(out, study._replace(metrics=("auc",)), planned)
    assert "| narrow |  | 2 |" in table.WRITERS["md"](found, ("auc",), study.baseline)
    told = table.WRITERS["json"](found, ("auc",), study.baseline)
    assert json.loads(told)["tables"][0]["lines"][0]["values"]["auc"] == [None, None]


def test_workers_share_what_there_is(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 4, 5, 6})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [place.cores for place in runner.places(2)] == [(2, 3), (4, 5, 6)]
    assert [place.accelerators for place in runner.places(4)] == [("0",), ("1",), ("0",), ("1",)]


def test_the_board_knows_how_far_a_cell_is_and_when_all_ends(tmp_path, monkeypatch):
    out, cells = pretended(tmp_path)
    for one in cells[2:]:
        (folder_of(out, one) / "answered.json").unlink()
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    board = runner.Board(out, study_of(), cells, 1)
    assert board.count() == "2 of 4 done" and board.time_left() == ""
    board.now(cells[2], "running")
    clock[0] += 30.0
    lines = [{"step": 1, "loss": 2.0}, {"step": 2}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3'
    (folder_of(out, cells[2]) / "metrics.jsonl").write_text(text)
    assert board.share(cells[2]) == 0.5  # of 4 steps; the third is half written
    assert board.time_left() == "about 0:01:30 left"  # 30 s of this one, 60 s of the next
    # Another process has the last one: half of the 90 s is its own.
    board.now(cells[3], "elsewhere")
    assert board.time_left() == "about 0:00:45 left" and board.elsewhere() == [cells[3]]
    answered = folder_of(out, cells[0]) / "answered.json"
    for state in ("elsewhere", ""):  # noticed, or not yet
        board.now(cells[3], state)
        shutil.copy(answered, folder_of(out, cells[3]))
        assert board.elsewhere() == [] and board.count() == "3 of 4 done, 1 running"
        (folder_of(out, cells[3]) / "answered.json").unlink()
    board.now(cells[3], "")
    row = board.told(cells[:1] + cells[2:3], "ndcg@10")
    assert row[:3] == ("1/2", "50%", "") and 0 < float(row[3]) < 1
    board.now(cells[2], "failed", "no room")
    assert board.time_left() == ""  # how long a failure took tells nothing
    assert board.count() == "2 of 4 done, 1 failed" and board.words[cells[2]] == "no room"


STUDY = """
from clickflax.study import Study
SMALL = {small!r}
def get_study():
    return Study(
        question="Do wide models know more?",
        configs={{"narrow": ({file!r}, *SMALL), "wide": ({file!r}, *SMALL, "model.width=16")}},
        data={{"shop": ("data.path={path}",)}},
        seeds=(0,),
        asked={{"test": {{"lists": True}}}},
    )
"""


def environment():
    """What a command of another process is given: its programs are compiled once for the tests."""
    return {**os.environ, "JAX_ENABLE_X64": "0"}


def study_verb(*words):
    return [sys.executable, "-m", "clickflax.cli", "study", *map(str, words)]


def test_a_study_is_run_once_goes_on_where_it_was_and_tells_of_failures(tmp_path):
    simulate(tmp_path / "data", Shop(sequences=40, items=20, mean_length=6.0, max_length=12))
    file, out = tmp_path / "study.py", tmp_path / "out"
    file.write_text(STUDY.format(small=SMALL, file=str(FILE), path=tmp_path / "data"))
    cells = cells_of(load_study(file))
    # Another process has the second cell.
    write_plan(out, load_study(file), cells)
    with cell.lock_of(out, cells[1]):
        done = subprocess.run(
            study_verb("run", file, "--out", out, "--allow-dirty"),
            env=environment(),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0 and "1 of 2 done, 1 elsewhere" in done.stdout, done.stderr
    record = folder_of(out, cells[0]) / "test.json"
    written = record.stat().st_mtime_ns
    assert json.loads(record.read_text())["environment"]["devices"] == {"cpu": 1}
    assert list(folder_of(out, cells[0]).rglob("projector_config.pbtxt"))  # as `train` leaves it
    # A failure is told, and stops nothing; it is tried again.
    folder_of(out, cells[1]).write_text("in the way")
    done = subprocess.run(
        study_verb("run", file, "--out", out, "--allow-dirty", "--workers", 2),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and f"failed {cells[1].name}: " in done.stderr
    folder_of(out, cells[1]).unlink()
    process = subprocess.Popen(
        study_verb("run", file, "--out", out, "--allow-dirty"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline().startswith(f"running {cells[1].name}")
    process.send_signal(signal.SIGTERM)  # ended with its cell, which nobody has then
    assert "stopped" in process.communicate(timeout=60)[1] and process.returncode == 143
    assert not cell.is_taken(out, cells[1])
    assert main(["run", str(file), "--out", str(out), "--allow-dirty"]) == 0
    assert record.stat().st_mtime_ns == written
    assert main(["table", str(out)]) == 0
    # A report finds in the runs all that it shows.
    told = gather.told(gather.open_source([out]))
    assert len(told["cells"]) == 2 and len(told["groups"]) == 2
    assert {cell["config"] for cell in told["cells"]} == {"narrow", "wide"}
    for user in told["users"]:
        assert len(user["models"]) == 2 and all(model["items"] for model in user["models"])
        assert user["history"] and user["targets"]
    report.main([str(out), "--out", str(tmp_path / "report.html")])
    assert "Do wide models know more?" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_processes_that_share_a_study_never_run_a_cell_twice(tmp_path):
    simulate(tmp_path / "data", Shop(sequences=40, items=20, mean_length=6.0, max_length=12))
    file, out = tmp_path / "study.py", tmp_path / "out"
    text = STUDY.format(small=SMALL, file=str(FILE), path=tmp_path / "data")
    file.write_text(text.replace("seeds=(0,)", "seeds=(0, 1)"))
    started = [
        subprocess.Popen(
            study_verb("run", file, "--out", out, "--allow-dirty"),
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)  # at once, as the tasks of a Slurm array
    ]
    said = [process.communicate(timeout=600)[1].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    ended = [line for lines in said for line in lines if line.startswith(("done ", "elsewhere "))]
    assert len(ended) >= 4 and all(lines for lines in said)
    for one in cells_of(load_study(file)):
        # What the process of a cell has said: it began once, and was never gone on with.
        log = (out / "logs" / f"{one.name}.txt").read_text()
        assert log.count("a new run") == 1 and "resumed" not in log
        assert (folder_of(out, one) / "test.json").is_file()


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_to_the_runs_of_one_that_was_not(tmp_path):
    simulate(tmp_path / "data", Shop(sequences=40, items=20, mean_length=6.0, max_length=12))
    file = tmp_path / "study.py"
    small = (*SMALL, "train.steps=40", "train.eval_every=4")
    file.write_text(STUDY.format(small=small, file=str(FILE), path=tmp_path / "data"))
    words = ["run", file, "--allow-dirty", "--out"]
    subprocess.run(study_verb(*words, tmp_path / "whole"), env=environment(), check=True)
    cells, kills = cells_of(load_study(file)), 0
    chance = random.Random(0)
    while True:
        # in a group of its own, which dies as one, as that of a machine that loses its power
        process = subprocess.Popen(
            study_verb(*words, tmp_path / "killed"), env=environment(), start_new_session=True
        )
        try:
            process.wait(chance.uniform(3, 12))
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode == 0 and kills
    for one in cells:
        ours, theirs = (
            by_name(load_run(folder_of(tmp_path / name, one), "last").params)
            for name in ("killed", "whole")
        )
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
