"""Small files of runs and studies with replaced values: an error with the file, or the result.

Values of JSON files are replaced by values of other kinds, so that the files still parse.
"""

import json
import pathlib
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from studies import finished, finished_labels

from clickflax.evaluation.record import read_record
from clickflax.run.folder import read_config, variables_of, vocabularies_of
from clickflax.study.plan import read_plan
from clickflax.study.results import make_tables
from clickflax.study.table import WRITERS, read_tables, tables_to_json

ROOT = pathlib.Path(__file__).resolve().parents[1]
OLD_RUN = ROOT / "tests" / "runs" / "0.1.0" / "next_item"
OTHER_KINDS = st.sampled_from(
    [None, True, -1, 0, 1.5, 10**30, float("nan"), "", "x", "../../x", "a\0", "\ud800", [], {}]
    + [[1], ["x"], [[]], {"x": 1}, {"": {}}, [{"a": None}]]
)
SAME_FOLDER = [HealthCheck.function_scoped_fixture]


def replace_one(value, draw):
    """Replaces a value somewhere in a JSON value, removes it, or gives it another key."""
    inner = (
        list(value)
        if isinstance(value, dict)
        else range(len(value) if isinstance(value, list) else 0)
    )
    if not len(inner) or draw(st.integers(0, 4)) == 0:
        return draw(OTHER_KINDS)
    key = draw(st.sampled_from(inner))
    changed = value.copy()
    if isinstance(value, dict) and draw(st.integers(0, 6)) == 0:
        one = changed.pop(key)
        return changed | ({} if draw(st.booleans()) else {"../../x": one})
    changed[key] = replace_one(value[key], draw)
    return changed


def read_or_named(path, draw, read):
    """Replaces a value of a JSON file, reads it, and restores it."""
    whole = path.read_bytes()
    try:
        path.write_text(json.dumps(replace_one(json.loads(whole), draw)))
        read()
    except (ValueError, OSError) as error:
        assert str(path.name) in str(error) or str(path.parent) in str(error), error
    finally:
        path.write_bytes(whole)


@settings(deadline=None, suppress_health_check=SAME_FOLDER, max_examples=150)
@given(data=st.data(), name=st.sampled_from(["config.json", "variables.json"]))
def test_a_value_replaced_in_a_run_is_named(tmp_path, data, name):
    run = tmp_path / "run"
    if not run.exists():
        shutil.copytree(OLD_RUN, run)

    def read():
        assert read_config(run).tasks
        assert all(one.size >= 0 for one in variables_of(run)[0].values())
        assert vocabularies_of(run)["item"].size

    read_or_named(run / name, data.draw, read)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The folders of two finished studies, one of rankings and one of labels."""
    out = tmp_path_factory.mktemp("studies")
    finished(out / "ranks")
    finished_labels(out / "labels")
    return out


@settings(deadline=None, max_examples=60)
@given(data=st.data(), name=st.sampled_from(["ranks", "labels"]), of_cell=st.booleans())
def test_a_value_replaced_in_a_study_is_named(studies, data, name, of_cell):
    out = studies / name
    path = next((out / "cells").glob("*/test.json")) if of_cell else out / "study.json"

    def read():
        study, cells = read_plan(out)
        assert make_tables(out, study._replace(metrics=study.metrics[:1]), cells)

    read_or_named(path, data.draw, read)


@settings(deadline=None, suppress_health_check=SAME_FOLDER, max_examples=150)
@given(data=st.data())
def test_a_value_replaced_in_tables_of_a_study_is_named(studies, tmp_path, data):
    path = tmp_path / "tables.json"
    if not path.exists():
        study, cells = read_plan(studies / "ranks")
        tables = make_tables(studies / "ranks", study, cells)
        path.write_text(tables_to_json(tables, list(study.metrics), study.baseline))

    def read():
        for write in WRITERS.values():
            assert write(*read_tables(path))

    read_or_named(path, data.draw, read)


def test_records_of_earlier_versions_are_read():
    paths = [*ROOT.glob("experiments/models/*.json"), *ROOT.glob("experiments/tasks/*.json")]
    records = [path for path in paths if path.name.split(".")[1].isdigit()]
    assert len(records) > 50
    for path in records:
        assert read_record(path)["environment"]["commit"]
