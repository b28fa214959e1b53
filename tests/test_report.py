"""The page of a report: what it holds, and that a browser shows it."""

import contextlib
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_study import CONFIGS, pretend, study_of

from clickflax.batch import RESERVED
from clickflax.config.default import default, load, to_dict
from clickflax.data.store import open_dataset
from clickflax.runtime.files import read_json, write_json
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.study import gather, report
from clickflax.study.plan import cells_of, folder_of, write_plan

USERS = 40


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "data"
    simulate(folder, Shop(sequences=USERS, items=30, mean_length=8.0, max_length=12))
    return folder


@pytest.fixture
def studied(tmp_path, shop):
    """A study of two configs and two seeds with all that a run leaves behind, but a model."""
    asked = {"test": {"lists": True}, "few": {"negatives": 5}}
    study = study_of(shop, asked=asked, published={"shop": {"narrow": "a paper: .1"}})
    cells = cells_of(study)
    write_plan(tmp_path, study, cells)
    dataset, chance = open_dataset(shop), np.random.default_rng(0)
    last = np.asarray(dataset.offsets[1:]) - 1
    for cell in cells:
        wide = cell.config == "wide one"
        places = np.maximum(0, chance.integers(0, 12, USERS) - 4 * wide)
        pretend(tmp_path, cell, places.tolist(), 10.0 + 5 * wide)
        folder = folder_of(tmp_path, cell)
        config = to_dict(cell.load())
        write_json(folder / "config.json", config)
        record = read_json(folder / "test.json") | {
            "config": config,
            "coverage@10": 0.5 + 0.1 * wide,
        }
        record["data"] = str(shop)
        write_json(folder / "test.json", record)
        write_json(folder / "test.negatives.5.json", record | {"ndcg@10": 0.75})
        rows = {
            "question": np.arange(USERS),
            "sequence": np.arange(USERS),
            "target": np.asarray(dataset.columns["item"])[last],
            "place": places.astype(np.float32),
            "history": last - np.asarray(dataset.offsets[:-1]),
            "end": last,
            "trained": chance.integers(0, 50, USERS),
        }
        for name in ("test", "test.negatives.5"):
            pq.write_table(pa.table(rows), folder / f"{name}.next_item.parquet")
        lists = {
            "question": np.repeat(np.arange(USERS), 5),
            "place": np.tile(np.arange(5), USERS),
            "item": chance.integers(0, 30, 5 * USERS) + RESERVED,
        }
        pq.write_table(pa.table(lists), folder / "test.next_item.lists.parquet")
        lines = [{"step": s, "validation/ndcg@10": s / 10, "seconds": 2.0 * s} for s in (1, 2)]
        text = "".join(json.dumps(line) + "\n" for line in [{"step": 1, "loss": 3.0}, *lines])
        (folder / "metrics.jsonl").write_text(text)
        (folder / "vocab").mkdir()
        shutil.copy(dataset.vocabulary("item").path, folder / "vocab" / "item.parquet")
    return tmp_path, cells


def test_a_report_holds_what_the_runs_have_found(studied):
    out, cells = studied
    found = gather.told(gather.open_source([out]))
    json.dumps(found, allow_nan=False)
    assert [table["title"] for table in found["tables"]] == ["shop", "shop, few"]
    narrow, wide = found["tables"][0]["lines"]
    assert narrow["published"] == "a paper: .1" and narrow["seeds"] == narrow["planned"] == 2
    assert found["tables"][1]["lines"][0]["results"]["ndcg@10"]["mean"] == 0.75
    apart = wide["results"]["ndcg@10"]["mean"] - narrow["results"]["ndcg@10"]["mean"]
    assert wide["results"]["ndcg@10"]["apart"] == pytest.approx(apart)
    assert len(found["cells"]) == 4
    assert found["cells"][0]["knobs"] == {"model.width": "8"}  # the only one that differs
    assert found["cells"][1]["metrics"]["coverage@10"] == pytest.approx(0.6)
    curve = {
        "name": "validation/ndcg@10",
        "step": [1, 2],
        "seconds": [2.0, 4.0],
        "value": [0.1, 0.2],
    }
    assert found["cells"][0]["curve"] == curve


def test_groups_share_out_the_targets_and_their_mean_is_the_metric(studied):
    out, _ = studied
    found = gather.told(gather.open_source([out]))
    [history, trained] = found["groups"]
    assert "events before the target" in history["title"]
    for group in (history, trained):
        share = np.array(group["targets"]) / USERS
        assert share.sum() == 1 and len(group["bins"]) == len(share)
        for line in found["tables"][0]["lines"]:
            mean = (share * group["lines"][line["config"]]).sum()
            assert mean == pytest.approx(line["results"]["ndcg@10"]["mean"])


def test_users_have_their_history_what_came_next_and_every_list(studied, shop):
    out, _ = studied
    found = gather.told(gather.open_source([out]))
    dataset = open_dataset(shop)
    items = dataset.vocabulary("item")
    titles = items.column("title") or items.tokens()
    assert len(found["users"]) == gather.PEOPLE
    for user in found["users"]:
        sequence = int(re.fullmatch(r"shop: user (\d+), question \1", user["name"])[1])
        events = dataset.columns["item"][dataset.offsets[sequence] : dataset.offsets[sequence + 1]]
        names = [titles[i - RESERVED] for i in events]
        assert user["history"] == names[:-1][::-1] and user["targets"] == names[-1:]
        assert [model["config"] for model in user["models"]] == ["narrow", "wide one"]
        for model in user["models"]:
            assert len(model["items"]) == 5
            assert all(one["hit"] == (one["title"] == names[-1]) for one in model["items"])


def test_runs_are_shown_as_if_they_were_a_study(studied):
    out, cells = studied
    folders = [folder_of(out, cell) for cell in cells[:2]]
    found = gather.told(gather.open_source(folders))
    assert [line["config"] for line in found["tables"][0]["lines"]] == [c.name for c in cells[:2]]
    assert found["baseline"] == cells[0].name and found["planned"] == 2
    with pytest.raises(ValueError, match=f"{cells[0].name} and .* have the same name"):
        gather.open_source([folders[0], folders[0]])


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        gather.open_source([tmp_path])
    write_json(tmp_path / "config.json", to_dict(default()))
    with pytest.raises(FileNotFoundError, match="has not been evaluated: .clickflax evaluate"):
        gather.open_source([tmp_path])
    study = study_of()
    write_plan(tmp_path / "study", study, cells_of(study))
    with pytest.raises(ValueError, match="nothing to show"):
        gather.told(gather.open_source([tmp_path / "study"]))


def test_a_title_ends_no_script(studied):
    out, _ = studied
    found = gather.told(gather.open_source([out])) | {"question": "</script><b>&"}
    text = report.page(found)
    assert "<title>&lt;/script&gt;&lt;b&gt;&amp;</title>" in text
    data = re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(data) == json.loads(json.dumps(found))


@pytest.fixture
def told_labels(tmp_path):
    """The folder of a run that was asked for labels, one of whose metrics could not be told."""
    config = to_dict(load(CONFIGS / "purchase_simulated.py"))
    bins = [{"labels": 5, "told": t, "yes": t / 2, "least": t, "most": t} for t in (0.2, 0.6)]
    record = {"auc": 0.7, "average_precision": None, "log_loss": 0.4, "reliability": bins}
    more = {"train_seconds": 3.0, "environment": {"commit": "abc"}, "config": config}
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.json", config)
    write_json(tmp_path / "run" / "test.json", record | more)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    return tmp_path / "run"


def test_a_run_of_labels_has_its_reliability_and_no_users(told_labels):
    found = gather.told(gather.open_source([told_labels]))
    assert found["metrics"] == ["auc", "average_precision"] and found["lower"] == []
    [cell] = found["cells"]
    assert [bin["told"] for bin in cell["reliability"]["purchase"]] == [0.2, 0.6]
    [line] = found["tables"][0]["lines"]
    assert line["results"]["average_precision"]["mean"] is None
    assert not found["groups"] and not found["users"]


def test_a_lower_error_is_better(told_labels):
    source = gather.open_source([told_labels])
    source = source._replace(study=source.study._replace(metrics=("log_loss",)))
    assert gather.told(source)["lower"] == ["log_loss"]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def shown(folders, place, width=1200):
    """The page of folders in a browser without a network; nothing may be on its console."""
    from playwright.sync_api import sync_playwright

    report.main([*map(str, folders), "--out", str(place / "report.html")])
    said = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, offline=True)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"file://{place / 'report.html'}")
        page.wait_for_selector("body[data-drawn=yes]")
        yield page
        browser.close()
    assert said == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_browser_shows_a_single_run_of_labels(told_labels, tmp_path):
    with shown([told_labels], tmp_path) as page:
        assert page.locator("#reliability .scatterlayer .trace").count() == 2  # with the diagonal
        assert page.locator("#users, #groups, #differences").count() == 0
        assert page.locator("#tables tbody tr").inner_text().split() == [
            "run",
            "0.7000",
            "1",
            "3",
            "s",
        ]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_browser_shows_data_sets_one_by_one_or_together(told_labels, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(told_labels, other)
    for name in ("config.json", "test.json"):
        told = json.loads((other / name).read_text())
        told.get("config", told)["data"]["path"] = "data/elsewhere"
        write_json(other / name, told)
    with shown([told_labels, other], tmp_path) as page:
        points = page.locator("#pairs .scatterlayer .point")
        assert points.count() == 1
        page.locator("#pairs select").last.select_option("all data sets")
        assert points.count() == 2
        page.locator("#pairs select").last.select_option("elsewhere")
        assert points.count() == 1


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_the_page_without_a_network(studied, tmp_path, width):
    with shown([studied[0]], tmp_path, width) as page:
        for section in ("differences", "curves", "pairs", "groups"):
            assert page.locator(f"#{section} .main-svg").count() >= 1
        assert page.locator("#curves .scatterlayer .trace").count() == 4  # a line for each run
        first = page.locator("#tables table").first
        assert first.locator("tbody tr td:first-child").all_inner_texts() == ["narrow", "wide one"]
        first.locator("th button", has_text="ndcg@10").click()
        assert first.locator("tbody tr td:first-child").all_inner_texts() == ["wide one", "narrow"]
        first.locator("th button", has_text="ndcg@10").click()
        assert first.locator("tbody tr td:first-child").all_inner_texts() == ["narrow", "wide one"]
        page.locator("#curves select").first.select_option("seconds")
        assert "seconds of training" in page.locator("#curves").inner_text()
        page.locator("#pairs select").last.select_option("model.width")
        assert page.locator("#pairs .scatterlayer .trace").count() == 2
        page.locator("#users select").select_option(index=3)
        assert "What they had" in page.locator("#users").inner_text()
        # Nothing is wider than the screen.
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_no_two_of_many_configs_look_alike():
    script = (report.PAGE / "page.js").read_text(encoding="utf-8")
    looks = {
        name: re.search(rf"const {name} = \[(.*?)\];", script)[1].split(",")
        for name in ("COLOURS", "FORMS", "DASHES")
    }
    sizes = {name: len(set(values)) for name, values in looks.items()}
    assert sizes["COLOURS"] == len(looks["COLOURS"])
    assert len({(i % sizes["COLOURS"], i % sizes["FORMS"]) for i in range(24)}) == 24
    assert len({(i % sizes["COLOURS"], i % sizes["DASHES"]) for i in range(24)}) == 24
