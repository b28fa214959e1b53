"""Logs and data sets at URLs, and tables of a warehouse."""

import filecmp
import json
import multiprocessing

import duckdb
import fsspec
import pytest
from logs import UIT, prepared, sequences

from clickflax.data import remote
from clickflax.data.store import open_dataset
from clickflax.preparation.main import main, prepare
from clickflax.preparation.options import Options, parse_columns

LOG = "u,i,t\n" + "".join(f"{n % 7},{n * n % 11},{n}\n" for n in range(200))


@pytest.fixture
def url(tmp_path, monkeypatch):
    """A place in memory, and a cache of its own."""
    monkeypatch.setenv("CLICKFLAX_CACHE", str(tmp_path / "cache"))
    place = "memory://bucket"
    yield place
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_a_data_set_at_a_url_has_the_files_of_one_in_a_folder(tmp_path, url, monkeypatch):
    monkeypatch.setattr(remote, "PIECE", 100)  # so that files have several
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/log.csv", LOG.encode())
    options = Options(columns=parse_columns(UIT), k_core=2)
    prepare("log", f"{url}/log.csv", f"{url}/shop", options)
    (tmp_path / "log.csv").write_text(LOG)
    prepare("log", tmp_path / "log.csv", tmp_path / "shop", options)
    data = open_dataset(f"{url}/shop")
    assert data.path.parent == tmp_path / "cache"
    for path in (tmp_path / "shop").rglob("*.*"):
        name = path.relative_to(tmp_path / "shop")
        if name.name != "dataset.json":  # it names the log
            assert filecmp.cmp(path, data.path / name, shallow=False), name
    found = files.find("/bucket/shop")
    assert sum("item.npy" in path for path in found) == -(-(data.events * 4 + 128) // 100)


def test_a_data_set_is_fetched_once(tmp_path, url):
    data = prepared(tmp_path, LOG)
    remote.publish(data.path, f"{url}/shop")
    first = remote.fetch(f"{url}/shop")
    fsspec.filesystem("memory").rm(f"/bucket/shop/{data.fingerprint}", recursive=True)
    assert remote.fetch(f"{url}/shop") == first


def test_a_data_set_at_a_url_is_replaced_with_overwrite_only(tmp_path, url):
    remote.publish(prepared(tmp_path, LOG).path, f"{url}/shop")
    other = prepared(tmp_path, "u,i,t\n1,a,1\n1,b,2\n")
    with pytest.raises(FileExistsError, match="memory://bucket/shop exists.*--overwrite"):
        remote.publish(other.path, f"{url}/shop")
    remote.publish(other.path, f"{url}/shop", overwrite=True)
    assert sequences(open_dataset(f"{url}/shop")) == {"1": ["a", "b"]}
    kept = fsspec.filesystem("memory").ls("/bucket/shop", detail=False)
    assert sorted(path.rpartition("/")[2] for path in kept) == [
        *sorted([other.fingerprint, "dataset.json"])
    ]


def test_a_file_list_at_a_url_cannot_name_files_elsewhere(tmp_path, url):
    data = prepared(tmp_path, LOG)
    remote.publish(data.path, f"{url}/shop")
    files = fsspec.filesystem("memory")
    told = f"/bucket/shop/{data.fingerprint}/files.json"
    files.pipe_file(told, json.dumps({"../../../away": 3}).encode())
    with pytest.raises(ValueError, match="has the key '../../../away', which is not the path"):
        remote.fetch(f"{url}/shop")
    files.pipe_file("/bucket/shop/dataset.json", b'{"fingerprint": "../.."}')
    for call in (remote.fetch, lambda place: remote.publish(data.path, place, overwrite=True)):
        with pytest.raises(ValueError, match="shop/dataset.json: fingerprint is"):
            call(f"{url}/shop")


def test_a_damaged_data_set_at_a_url_is_an_error(tmp_path, url):
    data = prepared(tmp_path, LOG)
    remote.publish(data.path, f"{url}/shop")
    files = fsspec.filesystem("memory")
    piece = f"/bucket/shop/{data.fingerprint}/events/item.npy.00000"
    files.pipe_file(piece, files.cat_file(piece)[:-1] + b"?")
    with pytest.raises(ValueError, match="memory://bucket/shop is damaged"):
        open_dataset(f"{url}/shop")
    files.rm("/bucket/shop/dataset.json")
    with pytest.raises(FileNotFoundError, match="has no dataset.json"):
        open_dataset(f"{url}/shop")
    assert not list((tmp_path / "cache").glob("?" * 64))


def _fetch(url):
    return str(remote.fetch(url))


def test_processes_of_a_machine_fetch_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setenv("CLICKFLAX_CACHE", str(tmp_path / "cache"))
    data = prepared(tmp_path, LOG)
    place = (tmp_path / "bucket" / "shop").as_uri()
    remote.publish(data.path, place)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        [found] = set(pool.map(_fetch, [place] * 8))
    assert open_dataset(found).fingerprint == data.fingerprint


def test_errors_name_the_url_of_a_log(url):
    fsspec.filesystem("memory").pipe_file("/bucket/log.csv", b"u,i,t\n1,a,x\n")
    options = Options(columns=parse_columns(UIT))
    with pytest.raises(ValueError, match=r"^memory://bucket/log.csv, line 2: time does not parse"):
        prepare("log", f"{url}/log.csv", f"{url}/shop", options)
    with pytest.raises(FileNotFoundError, match="memory://bucket/none.csv does not exist"):
        prepare("log", f"{url}/none.csv", f"{url}/shop", options)
    with pytest.raises(ValueError, match="never://bucket/log.csv: .*never"):
        prepare("log", "never://bucket/log.csv", f"{url}/shop", options)


def test_a_warehouse_table_is_read_in_order_of_time(tmp_path, capsys):
    with duckdb.connect(tmp_path / "shop.duckdb") as con:
        rows = "(2, 'b', 3, 0.5), (1, 'c', 2, 1.5), (1, 'a', 1, 2.5)"
        con.execute(f"CREATE TABLE events AS SELECT * FROM (VALUES {rows}) AS t(u, i, t, price)")
    engine = f"duckdb://{tmp_path / 'shop.duckdb'}"
    words = ["log", "--raw", "events", "--engine", engine, "--columns", UIT + ",price=price"]
    main([*words, "--out", str(tmp_path / "out")])
    data = open_dataset(tmp_path / "out")
    assert sequences(data) == {"1": ["a", "c"], "2": ["b"]}
    assert data.columns["price"].tolist() == [2.5, 1.5, 0.5]
    assert json.loads((data.path / "dataset.json").read_text())["options"]["raw"] == "events"
    with pytest.raises(ValueError, match=r"events has no column 'w' for item; it has \['u'"):
        main(["log", "--raw", "events", "--engine", engine, "--columns", "sequence=u,item=w",
              "--out", str(tmp_path / "other")])  # fmt: skip
    with pytest.raises(ValueError, match="duckdb://.*none"):
        main(["log", "--raw", "none", "--engine", engine, "--columns", UIT,
              "--out", str(tmp_path / "other")])  # fmt: skip
    with pytest.raises(ValueError, match="the rows of events have no order: name the col"):
        main(["log", "--raw", "events", "--engine", engine, "--columns", "sequence=u,item=i",
              "--out", str(tmp_path / "other")])  # fmt: skip
    with pytest.raises(ValueError, match="reads a table: the source must be log, not pairs"):
        main(["pairs", "--raw", "events", "--engine", engine, "--out", str(tmp_path / "other")])
    with pytest.raises(ValueError, match="--engine=spark is not one of .*'pyspark'"):
        Options(engine="spark")
