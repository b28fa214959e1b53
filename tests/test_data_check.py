"""A data set is checked before it is used: what has changed since it was prepared is named."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import small_config

import clickflax
from clickflax.data.check import open_checked
from clickflax.data.store import (
    new_dataset_folder,
    open_dataset,
    write_array,
    write_dataset,
    write_table,
)

ITEMS = {"token": ["b", "a", "c"], "count": [3, 1, 1]}


@pytest.fixture
def path(tmp_path):
    with new_dataset_folder(tmp_path / "toy") as folder:
        write_dataset(
            folder,
            source="toy",
            options={},
            offsets=np.array([0, 2, 5]),
            events={
                "item": np.array([6, 7, 6, 6, 8], np.int32),
                "time": np.arange(5),
                "price": np.array([1, 3, np.nan, 1, 3], np.float32),
                "tags": np.array([[6, 0], [5, 0], [6, 7], [7, 0], [5, 0]], np.int32),
            },
            vocabularies={
                "item": pa.table(ITEMS),
                "tags": pa.table({"token": ["x", "y"], "count": [2, 2]}),
            },
            sequences=pa.table({"token": ["u2", "u1"]}),
            counts={},
        )
    return tmp_path / "toy"


def change(path, **values):
    """Changes entries of dataset.json."""
    info = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps(info | values))


def test_a_data_set_as_it_was_prepared_passes(path):
    assert open_checked(path).events == 5
    change(path, checksums={})  # as versions before 0.2.0 wrote it
    info = json.loads((path / "dataset.json").read_text())
    del info["checksums"]
    (path / "dataset.json").write_text(json.dumps(info))
    assert open_checked(path).events == 5


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("events/item", np.array([6, 7, 6, 8, 6], np.int32), "toy: events/item.npy is not as"),
        ("events/price", np.ones(5, np.float32), "toy: events/price.npy is not as it was prepared"),
        ("offsets", np.array([0, 3, 5]), "toy: offsets.npy is not as it was prepared"),
        ("events/item", np.array([6, 7, 6, 8, 9], np.int32), "item.npy has the id 9; .* 0 to 8"),
        ("events/item", np.array([6, 7, 6, 8, -5], np.int32), "item.npy has the id -5"),
        ("events/tags", np.full((5, 2), 8, np.int32), "tags.npy has the id 8; its ids are 0 to 7"),
        ("offsets", np.array([0, 5, 5]), "offsets.npy: sequence 1 is from event 5 to 5"),
        ("offsets", np.array([0, 2, 4]), "offsets.npy goes from 0 to 4, not from 0 to 5"),
        ("offsets", np.array([0, 2, 3, 5]), r"offsets.npy has int64 .*\(4,\); dataset.json says"),
        ("events/item", np.arange(6, 11), r"item.npy has int64 .* says int32 and \(5,\)"),
        ("events/tags", np.full(5, 6, np.int32), r"tags.npy has int32 .*says int32 and \(5, 2\)"),
        ("part", np.array([0, 2], np.int8), "part.npy has the id 2; its ids are 0 to 1"),
    ],
)
def test_an_array_that_was_changed_is_named(path, name, values, message):
    write_array(path / f"{name}.npy", values)
    with pytest.raises(ValueError, match=message):
        open_checked(path)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("item", {**ITEMS, "token": ["b", "a", "d"]}, "vocab/item.parquet is not as it was"),
        ("item", {**ITEMS, "token": ["b", "a", "a"]}, "item.parquet has 1 tokens twice"),
        ("item", {**ITEMS, "token": ["b", None, "a"]}, "item.parquet, row 2: there is no 'token'"),
        ("item", {**ITEMS, "token": [1, 2, 3]}, "item.parquet: the column 'token' is int64"),
        ("item", {"token": ["b", "a", "c"]}, r"item.parquet has the columns \['token'\], not"),
        ("item", {"token": ["b"], "count": [1]}, "item.parquet has 1 tokens, not 3"),
        ("sequence", {"token": ["u2"]}, "sequence.parquet has 1 tokens, not 2"),
    ],
)
def test_a_vocabulary_that_was_changed_is_named(path, name, columns, message):
    write_table(path / "vocab" / f"{name}.parquet", pa.table(columns))
    with pytest.raises(ValueError, match=message):
        open_checked(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"variables": {"item": {"kind": "categorical"}}}, "variables.item.size is missing"),
        ({"variables": {"item": {"kind": "numeric"}}}, "variables.item.kind is 'numeric'"),
        ({"variables": []}, r"variables is \[\], not an object"),
        ({"events": "5"}, "events is '5', not a whole number"),
        ({"fingerprint": "../.."}, "fingerprint is '../..', not 64 hexadecimal digits"),
    ],
)
def test_another_shape_of_dataset_json_is_named(path, entries, message):
    change(path, **entries)
    with pytest.raises(ValueError, match=f"dataset.json: {message}"):
        open_dataset(path)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "", "a\0b"])
def test_the_name_of_a_variable_is_never_a_path(path, name):
    info = json.loads((path / "dataset.json").read_text())
    change(path, variables=info["variables"] | {name: {"kind": "numeric"}})
    with pytest.raises(ValueError, match="dataset.json: variables has the key .* name of a file"):
        open_dataset(path)


def test_an_array_of_objects_or_a_damaged_one_is_named(path):
    np.save(path / "offsets.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="offsets.npy is not an array of numbers"):
        open_dataset(path)
    np.save(path / "offsets.npy", np.array([0, 2, 5]))
    assert open_checked(path).sequences == 2
    whole = (path / "offsets.npy").read_bytes()
    (path / "offsets.npy").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"offsets.npy has 151 bytes, .*\(3,\) have 152"):
        open_dataset(path)


def test_every_verb_that_computes_notices_a_changed_column(path, tmp_path):
    write_array(path / "events" / "item.npy", np.array([6, 7, 6, 8, 6], np.int32))
    config = small_config()
    config.data.path = str(path)
    with pytest.raises(ValueError, match="events/item.npy is not as it was prepared"):
        clickflax.train(config, tmp_path / "run")
    from clickflax.baselines.compare import compare_baselines

    with pytest.raises(ValueError, match="events/item.npy is not as it was prepared"):
        compare_baselines(config, "test")


FILES = ["dataset.json", "offsets.npy", "events/item.npy", "events/tags.npy"]
FILES += ["vocab/item.parquet", "vocab/sequence.parquet"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), data=st.data())
def test_damaged_bytes_are_noticed_or_change_nothing(path, name, data):
    """A bit of dataset.json that is not checked, such as one of its source, changes no content."""
    file = pathlib.Path(path, name)
    whole = file.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    put = data.draw(st.binary(max_size=4))
    cut = data.draw(st.integers(0, 4))
    expected = open_checked(path)
    try:
        file.write_bytes(whole[:start] + put + whole[start + cut :])
        found = open_checked(path)
        assert found.fingerprint == expected.fingerprint
        assert found.vocabulary("item").tokens() == ["b", "a", "c"]
        assert found.ids("item").tolist() == [6, 7, 6, 6, 8]
    except ValueError as error:
        assert str(path) in str(error)
    except OSError as error:
        assert str(path) in str(error)
    finally:
        file.write_bytes(whole)
