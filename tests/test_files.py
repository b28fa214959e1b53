"""Files that are written whole or not at all."""

import json
import multiprocessing
import pathlib
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from clickflax.runtime.files import atomic, read_json, write_json, write_parquet


def write_many(path, number):
    """Writes a file of this number, again and again."""
    for _ in range(50):
        write_json(path, [number] * 20_000)


@pytest.mark.parametrize("kind", [threading.Thread, multiprocessing.get_context("spawn").Process])
def test_a_reader_sees_one_whole_file_while_several_write_it(tmp_path, kind):
    path = tmp_path / "a.json"
    write_json(path, [0] * 20_000)
    writers = [kind(target=write_many, args=(path, number)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        values = read_json(path)
        assert len(values) == 20_000
        assert len(set(values)) == 1
        seen |= set(values)
    for writer in writers:
        writer.join()
    assert read_json(path)[0] in (1, 2)
    assert seen & {1, 2}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"kept": 1})
    with pytest.raises(KeyError), atomic(path) as partial:
        partial.write_text("half")
        raise KeyError
    with pytest.raises(TypeError):
        write_json(path, {"kept": {2}})  # JSON has no sets
    assert read_json(path) == {"kept": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_nothing_is_at_the_path_until_all_is_written(tmp_path):
    path = tmp_path / "a.txt"
    with atomic(path) as partial:
        assert partial.parent == tmp_path
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_json_and_parquet_come_back_as_they_were_written(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, None, "c"]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, None, "c"]}
    write_parquet(tmp_path / "a.parquet", {"b": np.arange(3), "c": np.array([0.5, 1.0, 2.0])})
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert table == {"b": [0, 1, 2], "c": [0.5, 1.0, 2.0]}


def test_a_file_that_is_missing_or_cut_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.json does not exist: .*clickflax train"):
        read_json(tmp_path / "a.json")
    path = pathlib.Path(tmp_path / "b.json")
    path.write_text('{"half": ')
    with pytest.raises(ValueError, match="b.json is not valid JSON .*Restore it from a backup"):
        read_json(path)
