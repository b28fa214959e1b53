"""The plan of a study: its cells, its files, and what it refuses."""

import pathlib

import numpy as np
import pytest
from studies import FILE, SMALL, study_of

from clickflax.batch import RESERVED
from clickflax.data.splits.common import EventLog, SplitOptions
from clickflax.data.splits.strategies import split_sequences
from clickflax.runtime.files import read_json, write_json
from clickflax.study import main as study_main
from clickflax.study import time_folds
from clickflax.study.main import main
from clickflax.study.plan import cells_of, check_study, load_study, read_plan, write_plan
from clickflax.tasks.label_metrics import EXTRA_NAMES, LABEL_METRICS, binary_metrics


def test_a_study_has_a_cell_for_every_config_data_set_and_seed():
    study = study_of(data={"a": ("data.path=a",), "b": ("data.path=b", "model.layers=1")})
    cells = cells_of(study)
    assert len({cell.name for cell in cells}) == len(cells) == 8
    assert [(c.seed, c.data, c.config) for c in cells[:3]] == [
        (0, "a", "narrow"),
        (0, "a", "wide one"),
        (0, "b", "narrow"),
    ]


def test_a_cell_has_the_changes_of_its_data_set_config_and_seed():
    study = study_of(data={"b": ("data.path=b", "model.layers=1")}, seeds=(5,))
    cell = cells_of(study)[1]
    config = cell.load()
    assert (config.model.width, config.model.layers, config.seed) == (16, 1, 5)
    assert config.data.path == "b"
    assert cell.name.startswith("wide_one.b.5.")


FOLDS = time_folds("shop", ("data.path=a",), ("2/6", "3/6", "4/6", "5/6"), "time_each")


def test_folds_are_named_by_the_period_of_their_test():
    assert list(FOLDS) == ["shop, 3/6 to 4/6", "shop, 4/6 to 5/6", "shop, 5/6 to its end"]


def test_the_tests_of_folds_in_time_are_adjacent():
    cells = cells_of(study_of(data=FOLDS, seeds=(0,)))
    offsets = np.arange(0, 61, 6)  # ten users of six events, all at different times
    chance = np.random.default_rng(0)
    times = np.sort(chance.permutation(60).reshape(10, 6)).ravel()
    log = EventLog(offsets, chance.integers(RESERVED, 20, 60), times)
    tested, train_stop = [], []
    for cell in cells[::2]:  # one of each fold
        data = cell.load().data
        options = SplitOptions(-1, data.validation_from, data.test_from, test_until=data.test_until)
        splits = split_sequences(data.split, log, options)
        assert len(splits.validation) and len(splits.train.start) == 10
        tested.append(len(splits.test))
        train_stop.append(splits.train.stop - offsets[:-1])
    pairs = zip(train_stop, train_stop[1:], strict=False)
    assert all((early <= late).all() for early, late in pairs)
    whole = SplitOptions(-1, "2/6", "3/6")
    assert sum(tested) == len(split_sequences("time_each", log, whole).test)


def test_a_fold_needs_two_moments():
    with pytest.raises(ValueError, match=r"moments=\('1/2',\): a fold needs two"):
        time_folds("shop", (), ("1/2",))


def test_the_name_of_a_cell_depends_on_its_config():
    names = {cell.name for cell in cells_of(study_of())}
    changed = cells_of(study_of(configs={"narrow": (FILE, *SMALL, "model.dropout=0.25")}))
    assert not {cell.name for cell in changed} & names


def test_the_seed_of_the_study_replaces_that_of_the_config():
    names = {cell.name for cell in cells_of(study_of())}
    changed = cells_of(study_of(configs={"narrow": (FILE, *SMALL, "seed=3")}))
    assert {cell.name for cell in changed} < names


def test_a_config_file_that_changed_after_the_plan_is_refused(tmp_path):
    file = tmp_path / "config.py"
    text = f"import runpy\nget_config = runpy.run_path({str(FILE)!r})['get_config']\n"
    file.write_text(text)
    [cell, _] = cells_of(study_of(configs={"narrow": (file, *SMALL)}))
    assert cell.load().seed == 0
    file.write_text(
        text.replace("get_config =", "before =")
        + "def get_config():\n    c = before()\n    c.model.layers = 1\n    return c\n"
    )
    with pytest.raises(ValueError, match="has changed since"):
        cell.load()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": ()}, "seeds is empty, so that the study has no runs"),
        ({"configs": {}}, "configs is empty"),
        ({"seeds": (1, 2, 1)}, "seed 1 is given twice"),
        ({"baseline": "narow"}, "baseline='narow' does not exist; did you mean 'narrow'"),
        ({"published": {"shop": {"x": ""}}}, "'narrow', 'wide one'"),
        ({"data": {"shop": "data.path=data"}}, "must be a list: changes"),
        ({"metrics": "ndcg@10"}, "metrics='ndcg@10' must be a list"),
        ({"seeds": 3}, "seeds=3 must be a list or a tuple"),
        ({"seeds": ("a",)}, "seed 'a' must be a whole number"),
        ({"seeds": (True,)}, "seed True must be a whole number"),
        ({"metrics": (3,)}, "metric 3 must be a name"),
        ({"configs": {"A": pathlib.Path("a.py")}}, "must be a list: a file, then changes to it"),
        ({"configs": {"A": ()}}, r"configs\['A'\]=\(\) must be a list: a file"),
        ({"evaluations": ("test",)}, r"evaluations=\('test',\) must be a dictionary"),
        ({"evaluations": {"x": "lists"}}, r"evaluations\['x'\]='lists' must be a dictionary"),
        ({"evaluations": {"few": {"negativs": 5}}}, "did you mean 'negatives'"),
        ({"evaluations": {"a": {}, "b": {"lists": True}}}, "have the same record, test.json"),
        ({"evaluations": {"a": {"data": FILE}}}, "not JSON serializable"),
        ({"evaluations": {"a": {"features": ("genres",)}}}, "are about lists: add --lists"),
    ],
)
def test_a_study_that_is_not_valid_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        check_study(study_of(**changed), "here")


@pytest.mark.parametrize(
    ("metric", "settings", "nearest"),
    [
        ("ndgc@10", {}, "ndcg@10"),
        ("ndcg@7", {}, "ndcg@5"),
        ("ndcg@10", {"cutoffs": (5,)}, "ndcg@5"),
        ("covrage@10", {"lists": True}, "coverage@10"),
    ],
)
def test_a_metric_that_no_run_will_have_is_refused_before_training(metric, settings, nearest):
    study = study_of(metrics=(metric,), evaluations={"test": settings})
    with pytest.raises(ValueError, match=f"metrics='{metric}' .*did you mean '{nearest}'"):
        cells_of(study)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "a.csv"}, "needs a task with labels of a file"),
        ({"drawn": "popularity"}, "needs config.eval.negatives"),
        ({"given": ("action=buy",)}, "eval.given"),
    ],
)
def test_an_evaluation_that_no_run_can_do_is_refused_before_training(settings, message):
    with pytest.raises(ValueError, match=message):
        cells_of(study_of(evaluations={"test": settings}))


LISTS = {"test": {"lists": True, "features": ("genres",)}, "few": {"negatives": 5}}


@pytest.mark.parametrize("metric", ["coverage@10", "diversity@10", "map@5"])
def test_metrics_of_lists_are_accepted(metric):
    study = study_of(metrics=(metric,), evaluations=LISTS, seeds=(0,))
    assert [cell.config for cell in cells_of(study)] == list(study.configs)


@pytest.mark.parametrize("metric", ["cold/ndcg@10", "intersection@10"])
def test_metrics_that_need_item_features_or_a_reference_are_refused_without(metric):
    with pytest.raises(ValueError, match="does not exist"):
        cells_of(study_of(metrics=(metric,), evaluations=LISTS, seeds=(0,)))


def test_metrics_of_cold_items_are_accepted_with_item_features():
    configs = {"narrow": (FILE, *SMALL, "data.variables=item,item.genres")}
    cells = cells_of(study_of(metrics=("cold/ndcg@10",), configs=configs))
    assert {cell.config for cell in cells} == {"narrow"}


def test_metrics_of_several_tasks_have_the_names_of_their_tasks():
    both = ('tasks=("next_item","purchase")', "train.monitor=purchase/auc")
    both += ("data.split=sequence_time", "data.position_from=start")
    both += ("data.validation_from=2020-01-01", "data.test_from=2020-02-01")
    metrics = ("next_item/ndcg@10", "purchase/auc", "purchase/precision@recall=0.5")
    cells = cells_of(study_of(metrics=metrics, configs={"both": (FILE, *SMALL, *both)}))
    assert {cell.config for cell in cells} == {"both"}


def test_labels_have_the_metrics_that_a_study_may_name():
    metrics = binary_metrics(np.array([0.2, 0.7]), np.array([0.0, 1.0]), 0.5)
    assert set(metrics) == {*LABEL_METRICS["binary"], *EXTRA_NAMES["binary"]}


@pytest.fixture
def run_words(tmp_path):
    """The arguments of `clickflax study run` for a file without a study."""
    file = tmp_path / "study.py"
    file.write_text("from clickflax.study import Study\n")
    return ["run", str(file), "--out", str(tmp_path / "out")]


def set_checkout(monkeypatch, dirty):
    monkeypatch.setattr(study_main, "checkout_state", lambda: {"commit": "abc", "dirty": dirty})


def test_uncommitted_changes_are_refused(run_words, monkeypatch):
    set_checkout(monkeypatch, dirty=True)
    with pytest.raises(ValueError, match=r"uncommitted changes.*--allow-dirty"):
        main(run_words)


@pytest.mark.parametrize(("dirty", "flags"), [(True, ["--allow-dirty"]), (False, [])])
def test_the_file_is_read_with_a_clean_checkout_or_allow_dirty(
    run_words, monkeypatch, dirty, flags
):
    set_checkout(monkeypatch, dirty)
    with pytest.raises(ValueError, match="no function get_study"):
        main([*run_words, *flags])


def test_a_study_needs_a_worker(run_words):
    with pytest.raises(ValueError, match="--workers=0 must be at least 1"):
        main([*run_words, "--workers", "0"])


def test_a_plan_is_read_as_it_was_written(tmp_path):
    evaluations = {"bought": {"where": "action=buy", "cutoffs": (5,)}}
    study = study_of(evaluations=evaluations, metrics=("recall@5",), seeds=range(2))
    cells = cells_of(study)
    write_plan(tmp_path, study, cells)
    found, found_cells = read_plan(tmp_path)
    assert found.evaluations == study.evaluations and found.seeds == [0, 1]
    assert found.baseline == "narrow" and found_cells == cells


def test_a_plan_of_earlier_versions_has_another_name_for_its_evaluations(tmp_path):
    study = study_of(evaluations={"few": {"negatives": 5}})
    write_plan(tmp_path, study, [])
    plan = read_json(tmp_path / "study.json")
    plan["asked"] = plan.pop("evaluations")
    write_json(tmp_path / "study.json", plan)
    assert read_plan(tmp_path)[0].evaluations == study.evaluations


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("get_study = lambda: 3\n", "returned 3, not a Study"),
        ("", "no function get_study"),
        ("def get_study():\n    return 1 / 0\n", r"a\.py, line 2: ZeroDivisionError"),
    ],
)
def test_a_file_without_a_study_is_refused(tmp_path, text, message):
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_study(tmp_path / "a.py")


def test_a_missing_file_lists_those_beside_it(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("")
    with pytest.raises(FileNotFoundError, match=r"a\.py.*b\.py"):
        load_study(tmp_path / "c.py")


def test_a_folder_without_a_plan_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the folder of a study"):
        read_plan(tmp_path)
