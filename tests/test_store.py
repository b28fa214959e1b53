"""The data set on disk: what is written is read, half of one never exists, and errors say why."""

import errno
import json
import os
import pathlib
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickflax import batch as events
from clickflax.data import arrays, store

ITEMS = {"token": ["b", "a", "c"], "count": [3, 1, 1], "genres": [["x"], [], ["x", "y"]]}


def write(folder, **changes):
    parts = {
        "source": "toy",
        "options": {"k_core": 0},
        "offsets": np.array([0, 2, 5]),
        "events": {
            "item": np.array([6, 7, 6, 6, 8], dtype=np.int32),
            "time": np.array([0, 1, 2, 3, 4], dtype=np.int64),
            "price": np.array([1, 3, np.nan, 1, 3], dtype=np.float32),
        },
        "vocabularies": {"item": pa.table(ITEMS)},
        "sequences": pa.table({"token": ["u2", "u1"], "age": [30, None]}),
        "counts": {"read": 5, "dropped": {}, "kept": 5},
    }
    return store.write_dataset(folder, **{**parts, **changes})


@pytest.fixture
def path(tmp_path):
    with store.new_dataset_folder(tmp_path / "toy") as folder:
        write(folder)
    return tmp_path / "toy"


def test_what_is_written_is_read(path):
    data = store.open_dataset(path)
    assert (data.sequences, data.events, data.size("item")) == (2, 5, 3 + events.RESERVED)
    assert data.offsets.tolist() == [0, 2, 5]
    assert data.columns["item"].tolist() == [6, 7, 6, 6, 8]
    assert data.columns["time"].dtype == np.int64
    assert data.source_split is None
    assert data.info["items"] == 3
    assert data.info["options"] == {"k_core": 0}
    assert data.info["counts"]["read"] == 5
    assert data.fingerprint == data.info["fingerprint"]
    assert data.sequence_column("token") == ["u2", "u1"]
    assert data.sequence_column("age") == [30, None]
    assert data.sequence_column("height") is None


def test_columns_are_mapped_and_cannot_be_written(path):
    column = store.open_dataset(path).columns["item"]
    assert isinstance(column, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1


def test_the_kind_of_a_variable_follows_from_its_type(path):
    variables = store.open_dataset(path).info["variables"]
    assert variables["item"] == {"kind": "categorical", "size": 9}
    assert variables["time"] == {"kind": "time"}
    assert variables["price"] == {"kind": "numeric", "mean": 2.0, "std": 1.0}


def test_the_first_token_has_the_first_id_after_the_reserved_ones(path):
    vocabulary = store.open_dataset(path).vocabulary("item")
    assert vocabulary.token(6) == vocabulary.tokens()[0] == "b"
    assert [vocabulary.token(id) for id in (events.PAD, events.NA)] == ["[PAD]", "[NA]"]
    assert vocabulary.ids(["c", "nobody", "b"]).tolist() == [8, events.UNK, 6]
    assert vocabulary.ids([]).dtype == np.int32
    assert vocabulary.column("genres") == [["x"], [], ["x", "y"]]
    assert vocabulary.column("title") is None
    with pytest.raises(ValueError, match="id 9 .* 0 to 8"):
        vocabulary.token(9)


def test_a_copied_vocabulary_opens_alone(path):
    vocabulary = store.open_vocabulary(path / "vocab" / "item.parquet")
    assert (vocabulary.size, vocabulary.ids(["a"]).tolist()) == (9, [7])
    with pytest.raises(FileNotFoundError, match="vocabulary .* does not exist"):
        store.open_vocabulary(path / "vocab" / "colour.parquet")


def test_an_unknown_variable_lists_the_categorical_ones(path):
    with pytest.raises(ValueError, match=r"'price' is not a categorical .*\['item'\]"):
        store.open_dataset(path).size("price")


def test_a_folder_that_is_not_there_or_not_a_data_set_says_so(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist.*clickflax prepare"):
        store.open_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no dataset.json"):
        store.open_dataset(tmp_path)
    (path / "dataset.json").write_text(json.dumps({"format": "clickflax data set 0"}))
    with pytest.raises(ValueError, match="format 'clickflax data set 0'.*Prepare it again"):
        store.open_dataset(path)


def test_nothing_is_left_of_a_writing_that_failed(tmp_path):
    with pytest.raises(RuntimeError), store.new_dataset_folder(tmp_path / "toy") as folder:
        write(folder)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_sentence_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(OSError, match="cannot write .*toy: no space left.*free some space"),
        store.new_dataset_folder(tmp_path / "toy") as folder,
    ):
        write(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_only_when_asked(path, tmp_path):
    with pytest.raises(FileExistsError, match="--overwrite"), store.new_dataset_folder(path):
        pass
    with store.new_dataset_folder(path, overwrite=True) as folder:
        write(folder, source="second")
        assert store.open_dataset(path).info["source"] == "toy"
    assert store.open_dataset(path).info["source"] == "second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["toy"]


def test_a_link_is_followed_and_stays_a_link(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    with store.new_dataset_folder(tmp_path / "link", overwrite=True) as folder:
        write(folder, source="second")
    assert (tmp_path / "link").is_symlink()
    assert store.open_dataset(path).info["source"] == "second"


def test_the_old_data_set_is_put_back_when_the_new_one_cannot_take_its_place(path, monkeypatch):
    replace = pathlib.Path.replace

    def fail(folder, target):
        if target == path and not folder.name.endswith(".old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(folder, target)

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises(OSError), store.new_dataset_folder(path, overwrite=True) as folder:
        write(folder, source="second")
    assert store.open_dataset(path).info["source"] == "toy"
    assert [entry.name for entry in path.parent.iterdir()] == ["toy"]


def test_an_old_data_set_that_cannot_be_removed_does_not_fail_the_new_one(path, monkeypatch):
    def fail(*args, **options):
        raise PermissionError

    monkeypatch.setattr(os, "rmdir", fail)
    with store.new_dataset_folder(path, overwrite=True) as folder:
        write(folder, source="second")
    assert store.open_dataset(path).info["source"] == "second"


def test_what_a_killed_writing_left_is_in_nobodys_way(tmp_path):
    (tmp_path / f".toy.{os.getpid()}.tmp").mkdir()
    with store.new_dataset_folder(tmp_path / "toy") as folder:
        write(folder)
    assert store.open_dataset(tmp_path / "toy").sequences == 2


def test_a_data_set_has_the_permissions_of_any_folder(path, tmp_path):
    (tmp_path / "other").mkdir()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_that_is_not_a_data_set_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(FileExistsError, match="not a data set"),
        store.new_dataset_folder(tmp_path, overwrite=True),
    ):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_the_fingerprint_follows_the_content_and_nothing_else(tmp_path):
    table = pa.table(ITEMS)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = write(tmp_path / "a")["fingerprint"]
    assert write(tmp_path / "a", source="other", options={})["fingerprint"] == first
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert write(tmp_path / "b", vocabularies={"item": pieces})["fingerprint"] == first
    renamed = {"item": pa.table({**ITEMS, "token": ["b", "a", "d"]})}
    assert write(tmp_path / "b", vocabularies=renamed)["fingerprint"] != first
    assert write(tmp_path / "b", offsets=np.array([0, 3, 5]))["fingerprint"] != first


def test_the_fingerprint_is_the_same_on_every_machine(tmp_path):
    (tmp_path / "a").mkdir()
    expected = "fbf8f742f5ef"
    assert write(tmp_path / "a")["fingerprint"].startswith(expected)


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    refused = {
        "events/item.npy has 1 values for 5": {"events": {"item": np.array([6], dtype=np.int32)}},
        "item.npy is missing": {"events": {}},
        "offsets start at 0": {"offsets": np.array([0, 5, 5])},
        "2 rows for 1 sequences": {"offsets": np.array([0, 5])},
        "item.npy is int64": {"events": {"item": np.array([6, 7, 6, 6, 8])}},
    }
    for number, (message, change) in enumerate(refused.items()):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ValueError, match=message):
            write(tmp_path / str(number), **change)


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.lists(st.integers(-9, 9), max_size=5), max_size=5))
def test_a_column_written_in_pieces_reads_as_one(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("pieces") / "x.npy"
    whole = [value for piece in pieces for value in piece]
    with arrays.array_writer(path, np.dtype(np.int64), (len(whole),)) as append:
        for piece in pieces:
            append(np.array(piece, dtype=np.int64))
    assert np.load(path).tolist() == whole


def test_a_column_of_another_length_than_meant_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="1 values were written, not 2"),
        arrays.array_writer(tmp_path / "x.npy", np.dtype(np.int32), (2,)) as append,
    ):
        append(np.zeros(1, dtype=np.int32))


def test_ten_million_events_open_in_milliseconds(tmp_path):
    with store.new_dataset_folder(tmp_path / "large") as folder:
        items = np.full(10_000_000, 6, dtype=np.int32)
        one = pa.table({"token": ["u"]})
        write(folder, offsets=np.array([0, len(items)]), events={"item": items}, sequences=one)
    start = time.perf_counter()
    data = store.open_dataset(tmp_path / "large")
    assert data.columns["item"][9_999_999] == 6
    assert time.perf_counter() - start < 0.1
