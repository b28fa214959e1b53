"""Compatibility: runs and data sets that earlier releases wrote open, answer and resume today.

tests/runs/ has a folder for each release, with what that release answered in `answers.json`. Each
release adds one, with its own code and environment:

    python tests/runs/make.py tests/runs/VERSION

A folder is never made anew. If a change breaks one of these tests, mend the change.
"""

import json
import pathlib
import shutil

import jax
import pytest
from runs.make import HISTORY, machine

import clickflax
from clickflax.config.default import override
from clickflax.runtime import sharding

RUNS = pathlib.Path(__file__).resolve().parent / "runs"
RELEASES = sorted(path.parent.name for path in RUNS.glob("*/answers.json"))


@pytest.fixture(params=RELEASES)
def release(request, tmp_path, monkeypatch):
    """Answers of a release; a copy of its folder is the working directory, one device the mesh."""
    all_devices = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: all_devices(devices=jax.devices()[:1]))
    folder = shutil.copytree(RUNS / request.param, tmp_path / request.param)
    monkeypatch.chdir(folder)  # config.data.path of the runs is relative
    return json.loads((folder / "answers.json").read_text(encoding="utf-8"))


def alike(values, release):
    """The values to the last digit; on another machine, sums of floats may be rounded otherwise."""
    return values if release["machine"] == machine() else pytest.approx(values, rel=1e-4)


def test_the_first_release_is_among_them():
    assert "0.1.0" in RELEASES


@pytest.mark.parametrize("name", ["next_item", "purchase"])
def test_an_old_run_has_the_metrics_that_its_release_measured(release, name):
    expected = release[name]["metrics"]
    record = clickflax.evaluate(name, "test")
    assert {metric: record[metric] for metric in expected} == alike(expected, release)


def test_an_old_run_recommends_what_its_release_recommended(release):
    expected = release["next_item"]["recommendations"]
    with pytest.warns(UserWarning, match="action, price, tags"):
        (best,) = clickflax.top_k(clickflax.load("next_item"), [HISTORY], k=5)
    assert [(one.item, one.title) for one in best] == [(e["item"], e["title"]) for e in expected]
    assert [one.score for one in best] == alike([one["score"] for one in expected], release)


@pytest.mark.usefixtures("optax_promotes")
@pytest.mark.parametrize("name", ["next_item", "purchase"])
def test_an_old_run_resumes_as_in_its_release(release, name):
    expected = release[name]["resumed"]
    flags = [f"config.train.steps={expected['step']}", "config.train.cpu_devices=0"]
    result = clickflax.train(override(clickflax.load(name).config, flags), name)
    assert result["step"] == expected["step"]
    assert result["best_step"] == expected["best_step"]
    lines = map(json.loads, pathlib.Path(name, "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses == alike(expected["losses"], release)
