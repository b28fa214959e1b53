"""Reports: the contents of a page, and the page in a browser."""

import contextlib
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from studies import CONFIGS, planned, study_of, write_ranks

from clickflax.batch import RESERVED
from clickflax.config.default import default, load, to_dict
from clickflax.data.store import open_dataset
from clickflax.runtime.files import read_json, write_json
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.study import gather, report
from clickflax.study.gather import gather_report, open_source
from clickflax.study.plan import cell_folder, cells_of, write_plan

USERS = 40


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "data"
    simulate(folder, Shop(sequences=USERS, items=30, mean_length=8.0, max_length=12))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory, shop):
    """The folder of a study with two configs and two seeds, with all files of its runs but models.

    Tests only read it.
    """
    out = tmp_path_factory.mktemp("study")
    evaluations = {"test": {"lists": True}, "few": {"negatives": 5}}
    published = {"shop": {"narrow": "a paper: .1"}}
    chance = np.random.default_rng(0)
    for cell in planned(out, path=shop, evaluations=evaluations, published=published):
        write_run(out, cell, open_dataset(shop), chance)
    return out


def write_run(out, cell, dataset, chance):
    """Writes the folder of a finished cell: the wide config has the better ranks."""
    wide = cell.config == "wide one"
    ranks = np.maximum(0, chance.integers(0, 12, USERS) - 4 * wide)
    write_ranks(out, cell, ranks.tolist(), 10.0 + 5 * wide)
    folder = cell_folder(out, cell)
    config = to_dict(cell.load())
    write_json(folder / "config.json", config)
    record = read_json(folder / "test.json") | {"config": config, "coverage@10": 0.5 + 0.1 * wide}
    record |= {"data": str(dataset.path), "fingerprint": dataset.fingerprint}
    write_json(folder / "test.json", record)
    write_json(folder / "test.negatives.5.json", record | {"ndcg@10": 0.75})
    last = np.asarray(dataset.offsets[1:]) - 1
    rows = {
        "example": np.arange(USERS),
        "sequence": np.arange(USERS),
        "target": np.asarray(dataset.columns["item"])[last],
        "rank": ranks.astype(np.float32),
        "history": last - np.asarray(dataset.offsets[:-1]),
        "end": last,
        "trained": chance.integers(0, 50, USERS),
    }
    for name in ("test", "test.negatives.5"):
        pq.write_table(pa.table(rows), folder / f"{name}.next_item.parquet")
    lists = {
        "example": np.repeat(np.arange(USERS), 5),
        "rank": np.tile(np.arange(5), USERS),
        "item": chance.integers(0, 30, 5 * USERS) + RESERVED,
    }
    pq.write_table(pa.table(lists), folder / "test.next_item.lists.parquet")
    lines = [{"step": s, "validation/ndcg@10": s / 10, "seconds": 2.0 * s} for s in (1, 2)]
    text = "".join(json.dumps(line) + "\n" for line in [{"step": 1, "loss": 3.0}, *lines])
    (folder / "metrics.jsonl").write_text(text)
    (folder / "vocab").mkdir()
    shutil.copy(dataset.vocabulary("item").path, folder / "vocab" / "item.parquet")


@pytest.fixture(scope="module")
def contents(study):
    """The contents of the report of the study."""
    return gather_report(open_source([study]))


def test_contents_have_no_nan(contents):
    assert json.loads(json.dumps(contents, allow_nan=False)) == contents


def test_a_report_has_a_table_for_each_evaluation(contents):
    assert [table["title"] for table in contents["tables"]] == ["shop", "shop, few"]
    assert contents["tables"][1]["rows"][0]["results"]["ndcg@10"]["mean"] == 0.75


def test_a_row_has_its_seeds_published_number_and_difference(contents):
    narrow, wide = contents["tables"][0]["rows"]
    assert narrow["published"] == "a paper: .1" and narrow["seeds"] == narrow["planned"] == 2
    difference = wide["results"]["ndcg@10"]["mean"] - narrow["results"]["ndcg@10"]["mean"]
    assert wide["results"]["ndcg@10"]["difference"] == pytest.approx(difference)


def test_runs_have_their_metrics_and_the_knobs_that_differ(contents):
    assert len(contents["runs"]) == 4
    assert contents["runs"][0]["knobs"] == {"model.width": "8"}
    assert contents["runs"][1]["metrics"]["coverage@10"] == pytest.approx(0.6)


def test_runs_have_their_learning_curve(contents):
    assert contents["runs"][0]["curve"] == {
        "name": "validation/ndcg@10",
        "step": [1, 2],
        "seconds": [2.0, 4.0],
        "value": [0.1, 0.2],
    }


def test_groups_partition_the_targets_and_their_mean_is_the_metric(contents):
    [history, trained] = contents["groups"]
    assert "events before the target" in history["title"]
    for group in (history, trained):
        share = np.array(group["targets"]) / USERS
        assert share.sum() == 1 and len(group["bins"]) == len(share)
        for row in contents["tables"][0]["rows"]:
            mean = (share * group["configs"][row["config"]]).sum()
            assert mean == pytest.approx(row["results"]["ndcg@10"]["mean"])


def test_users_have_their_history_their_target_and_the_list_of_each_config(contents, shop):
    dataset = open_dataset(shop)
    items = dataset.vocabulary("item")
    titles = items.column("title") or items.tokens()
    assert len(contents["users"]) == gather.SHOWN_USERS
    for user in contents["users"]:
        sequence = int(re.fullmatch(r"shop: user (\d+), example \1", user["name"])[1])
        events = dataset.columns["item"][dataset.offsets[sequence] : dataset.offsets[sequence + 1]]
        names = [titles[i - RESERVED] for i in events]
        assert user["history"] == names[:-1][::-1] and user["targets"] == names[-1:]
        assert [model["config"] for model in user["models"]] == ["narrow", "wide one"]
        for model in user["models"]:
            assert len(model["items"]) == 5
            assert all(one["hit"] == (one["title"] == names[-1]) for one in model["items"])


def run_folders(study, count=2):
    """The folders of the first runs of the study."""
    return [cell_folder(study, cell) for cell in cells_in(study)[:count]]


def cells_in(study):
    return open_source([study]).cells


def test_folders_of_runs_are_shown_as_a_study(study):
    folders = run_folders(study)
    contents = gather_report(open_source(folders))
    names = [folder.name for folder in folders]
    assert [row["config"] for row in contents["tables"][0]["rows"]] == names
    assert contents["baseline"] == names[0] and contents["planned"] == 2


def test_runs_of_the_same_name_are_refused(study):
    folder = run_folders(study)[0]
    with pytest.raises(ValueError, match=f"{folder.name} and .* have the same name"):
        open_source([folder, folder])


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        open_source([tmp_path])


def test_a_run_that_is_not_evaluated_is_refused(tmp_path):
    write_json(tmp_path / "config.json", to_dict(default()))
    with pytest.raises(FileNotFoundError, match="is not evaluated: .clickflax evaluate"):
        open_source([tmp_path])


def test_a_study_without_records_is_refused(tmp_path):
    write_plan(tmp_path, study_of(), cells_of(study_of()))
    with pytest.raises(ValueError, match="nothing to report"):
        gather_report(open_source([tmp_path]))


def test_a_title_does_not_end_the_script(contents):
    changed = contents | {"question": "</script><b>&"}
    text = report.make_page(changed)
    assert "<title>&lt;/script&gt;&lt;b&gt;&amp;</title>" in text
    data = re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(data) == json.loads(json.dumps(changed))


@pytest.fixture(scope="module")
def label_run(tmp_path_factory):
    """The folder of a run with binary labels, one of whose metrics is undefined; tests read it."""
    folder = tmp_path_factory.mktemp("labels") / "run"
    folder.mkdir()
    config = to_dict(load(CONFIGS / "purchase_simulated.py"))
    bins = [{"labels": 5, "prediction": p, "yes": p / 2, "least": p, "most": p} for p in (0.2, 0.6)]
    record = {"auc": 0.7, "average_precision": None, "log_loss": 0.4, "reliability": bins}
    more = {"data": "data", "fingerprint": "0" * 64, "train_seconds": 3.0}
    more |= {"environment": {"commit": "abc"}, "config": config}
    write_json(folder / "config.json", config)
    write_json(folder / "test.json", record | more)
    (folder / "metrics.jsonl").write_text("")
    return folder


def test_a_run_with_labels_has_its_reliability(label_run):
    contents = gather_report(open_source([label_run]))
    assert contents["metrics"] == ["auc", "average_precision"]
    [run] = contents["runs"]
    assert [bin["prediction"] for bin in run["reliability"]["purchase"]] == [0.2, 0.6]


def test_a_run_with_labels_has_no_groups_and_no_users(label_run):
    contents = gather_report(open_source([label_run]))
    assert not contents["groups"] and not contents["users"]


def test_an_undefined_metric_is_null(label_run):
    contents = gather_report(open_source([label_run]))
    [row] = contents["tables"][0]["rows"]
    assert row["results"]["average_precision"]["mean"] is None


def test_a_report_names_metrics_of_which_lower_is_better(label_run):
    source = open_source([label_run])
    assert gather_report(source)["lower_is_better"] == []
    source = source._replace(study=source.study._replace(metrics=("log_loss",)))
    assert gather_report(source)["lower_is_better"] == ["log_loss"]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


def browser_page(folders, tmp_path, width=1200):
    """The page of folders in a browser."""
    report.main([*map(str, folders), "--out", str(tmp_path / "report.html")])
    return opened(tmp_path / "report.html", width)


@contextlib.contextmanager
def opened(file, width=1200):
    """A page in a browser without a network; its console must stay empty."""
    from playwright.sync_api import sync_playwright

    messages = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, offline=True)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(f"file://{file}")
        page.wait_for_selector("body[data-drawn=yes]")
        yield page
        browser.close()
    assert messages == []


@needs_browser
def test_a_browser_shows_a_single_run_with_labels(label_run, tmp_path):
    with browser_page([label_run], tmp_path) as page:
        assert page.locator("#reliability .scatterlayer .trace").count() == 2  # with the diagonal
        assert page.locator("#users, #groups, #differences").count() == 0
        row = page.locator("#tables tbody tr").inner_text().split()
        assert row == ["run", "0.7000", "1", "3", "s"]


@needs_browser
def test_a_browser_shows_data_sets_one_by_one_or_together(label_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(label_run, other)
    for name in ("config.json", "test.json"):
        values = json.loads((other / name).read_text())
        values.get("config", values)["data"]["path"] = "data/elsewhere"
        write_json(other / name, values)
    with browser_page([label_run, other], tmp_path) as page:
        points = page.locator("#pairs .scatterlayer .point")
        assert points.count() == 1
        page.locator("#pairs select").last.select_option("all data sets")
        assert points.count() == 2
        page.locator("#pairs select").last.select_option("elsewhere")
        assert points.count() == 1


@needs_browser
@pytest.mark.parametrize("width", [1200, pytest.param(390, marks=pytest.mark.slow)])
def test_a_browser_shows_all_sections_without_a_network(study, tmp_path, width):
    with browser_page([study], tmp_path, width) as page:
        for section in ("differences", "curves", "pairs", "groups"):
            assert page.locator(f"#{section} .main-svg").count() >= 1
        assert page.locator("#curves .scatterlayer .trace").count() == 4  # a line for each run
        # Nothing is wider than the screen.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # The same page is used, as starting a browser takes seconds.
        check_sorting(page.locator("#tables table").first)
        check_choices(page)


HOSTILE = [
    "<!--<script>x</script> [b] :smile: '; DROP TABLE x; -- $(id) =1+1",
    '<b>&lt; %{x} {0} %s ${x}</b><img src=x onerror=alert(1)>" onerror=alert(1) ../../x',
]


@needs_browser
def test_a_browser_shows_hostile_names_as_they_are(study, tmp_path):
    contents = json.dumps(gather_report(open_source([study])))
    for name, hostile in zip(["wide one", "narrow"], HOSTILE, strict=True):
        contents = contents.replace(json.dumps(name), json.dumps(hostile))
    file = tmp_path / "hostile.html"
    file.write_text(report.make_page(json.loads(contents)), encoding="utf-8")
    with opened(file) as page:
        cells = page.locator("#tables table").first.locator("tbody tr td:first-child")
        assert set(cells.all_inner_texts()) == set(HOSTILE)
        legend = page.locator("#curves .legendtext").all_text_contents()
        assert set(legend) == set(HOSTILE)
        assert page.locator("img").count() == 0


def check_sorting(table):
    """A click on a metric sorts the rows by it, the highest first; another click reverses them."""
    button = table.locator("th button", has_text="ndcg@10")
    for expected in (["narrow", "wide one"], ["wide one", "narrow"], ["narrow", "wide one"]):
        assert table.locator("tbody tr td:first-child").all_inner_texts() == expected
        button.click()


def check_choices(page):
    """Axes, colours and users can be chosen."""
    page.locator("#curves select").first.select_option("seconds")
    assert "seconds of training" in page.locator("#curves").inner_text()
    page.locator("#pairs select").last.select_option("model.width")
    assert page.locator("#pairs .scatterlayer .trace").count() == 2
    page.locator("#users select").select_option(index=3)
    assert "History, newest first" in page.locator("#users").inner_text()


def test_many_configs_differ_in_colour_and_form_or_dash():
    script = (report.PAGE / "page.js").read_text(encoding="utf-8")
    values = {
        name: re.search(rf"const {name} = \[(.*?)\];", script)[1].split(",")
        for name in ("COLOURS", "FORMS", "DASHES")
    }
    sizes = {name: len(set(some)) for name, some in values.items()}
    assert sizes["COLOURS"] == len(values["COLOURS"])
    assert len({(i % sizes["COLOURS"], i % sizes["FORMS"]) for i in range(24)}) == 24
    assert len({(i % sizes["COLOURS"], i % sizes["DASHES"]) for i in range(24)}) == 24
