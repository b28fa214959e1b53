"""The Spark engine writes the bytes that the DuckDB engine writes."""

import filecmp
import json
import os
import pathlib
import shutil

import duckdb
import pytest

pytest.importorskip("pyspark", reason="the extra `spark` is not installed")
if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
    pytest.skip("Spark needs Java", allow_module_level=True)

from logs import UIT, accounts_for_every_row, sequences, write_parquet  # noqa: E402

from clickflax.data.store import open_dataset  # noqa: E402
from clickflax.preparation.engines.spark_values import json_list_values, json_row  # noqa: E402
from clickflax.preparation.main import prepare  # noqa: E402
from clickflax.preparation.options import Options, parse_columns  # noqa: E402


def same(tmp_path, source, raw, **options):
    """Prepares the same files with both engines, compares every byte, and returns the data set."""
    if "columns" in options:
        options["columns"] = parse_columns(options["columns"])
    duckdb_out = tmp_path / "duckdb"
    spark_out = tmp_path / "pyspark"
    for out in (duckdb_out, spark_out):
        prepare(source, raw, out, Options(engine=out.name, **options), overwrite=True)
    names = sorted(path.relative_to(duckdb_out) for path in duckdb_out.rglob("*.*"))
    assert names == sorted(path.relative_to(spark_out) for path in spark_out.rglob("*.*"))
    for name in names:
        if name.name == "dataset.json":
            ours = json.loads((duckdb_out / name).read_text())
            assert ours == json.loads((spark_out / name).read_text())
        assert filecmp.cmp(duckdb_out / name, spark_out / name, shallow=False), name
    return open_dataset(spark_out)


def prepare_spark(tmp_path, text, **options):
    """A log in a file, prepared by Spark."""
    (tmp_path / "log.csv").write_text(text)
    spark_options = Options(columns=parse_columns(UIT), engine="pyspark", **options)
    prepare("log", tmp_path / "log.csv", tmp_path / "out", spark_options)


@pytest.mark.slow
def test_text_with_quotes_encodings_and_bad_rows(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "a.csv").write_text(
        "\ufeffu,i,t,p,g,c\n"
        'ann,"x, ""1""",2020-01-01 10:00:00,1.5,new|red|new,0.25\n'
        "\n"
        "bob,y,2020-01-01T09:00:00Z,1e2,,7\n"
        "ann,ü,2020-01-01,,red,\n"
        "bob,x,2020-01-02 00:00:00.25+02,nan, ,1e-3\n"
        "too,few\n"
        "ann,y,2020,1,,\n"
        "ann,y,2020-01-03,1d,,\n"
        ",y,2020-01-03,2,,\n"
        'ann,"",2020-01-03,2,,\n'
        "one,too,many,of,all,of,them\n" + "x," * 30 + "far too many\n"
        'ann,"a",2020/01/03 10:00,2,5" | 6",\n'
        "ann,a,2020-01-03 10,2,,\n"
        "bob,5\" pipe,2020-01-05,-.5,a|b,'q'\n",
        encoding="utf-8",
    )
    (folder / "b.csv").write_text("u,i,t,p,g,c\ncat,y,2019-12-31,inf,b,3\ncat,Z,2019-12-31,2,b,3\n")
    data = same(
        tmp_path,
        "log",
        folder,
        columns=UIT + ",price=p:numeric,tags=g:several,colour=c",
        on_bad_rows="skip",
        time_zone="Europe/Berlin",
    )
    assert accounts_for_every_row(data)
    assert data.info["counts"]["dropped"] == {
        "malformed line": 3,
        "no item": 1,
        "no sequence": 1,
        "price is not a number": 2,
        "time does not parse": 2,
    }
    assert sequences(data)["bob"] == ["y", "x", '5" pipe']


@pytest.mark.slow
def test_parquet_with_many_types(tmp_path, monkeypatch):
    folder = tmp_path / "log"
    folder.mkdir()
    rows = """
        SELECT (n * 7919 % 13)::DOUBLE AS u, n * 104729 % 31 AS i,
            TIMESTAMP '2020-01-01' + to_seconds(n * 7 % 100) AS t,
            n / 8 AS p, [n % 3, n % 5] AS g, n % 2 = 0 AS b, DATE '2020-01-01' + (n % 4)::INT AS d,
            (n % 7 / 4)::DECIMAL(6, 2) AS m, n % 11 / 1e4 AS f,
            [1e-5, 1.5e-7, 1.25e19, 'inf', -2.5e-5, 12345678.125, 5e-301][n % 7 + 1]::DOUBLE AS x
        FROM range({}, {}) AS rows(n)
    """
    write_parquet(folder / "b.parquet", rows.format(200, 500))
    write_parquet(folder / "a.parquet", rows.format(0, 200))
    columns = (
        UIT
        + ",price=p,tags=g,flag=b,day=d,amount=m:categorical,share=f:categorical,odd=x:categorical"
    )
    items = tmp_path / "items.parquet"
    write_parquet(
        items,
        "SELECT n AS i, 'title ' || n AS \"the.title\", "
        "CASE WHEN n % 3 > 0 THEN n + (1::BIGINT << 60) END AS big, "
        "CASE n % 4 WHEN 1 THEN 'nan'::DOUBLE WHEN 2 THEN n / 4 END AS price, "
        "['a', 'b'] AS tags FROM range(40) AS rows(n)",
    )
    # a path that does not say it from the top
    monkeypatch.chdir(folder)
    data = same(tmp_path, "log", pathlib.Path("../log"), columns=columns, items=items, k_core=2)
    assert data.info["variables"]["tags"]["kind"] == "several"
    assert "0.0001" in data.vocabulary("share").tokens()
    odd = set(data.vocabulary("odd").tokens())
    assert {"1e-05", "12345678.125"} <= odd and "inf" not in odd
    assert data.vocabulary("item").column("the.title")


@pytest.mark.slow
def test_lines_of_json(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"u": 1, "i": "a", "t": 1.5e9, "g": ["x", 2, null, 1.50]}\n'
        "\n"
        '{"i": "b", "u": 1, "t": 1500000001, "g": "x|z"}\n'
        '{"u": 1, "i": [3, 4.50, {"a": 1e3}], "t": 1500000002, "g": [[1], "y"]}\n'
        '{"u": 1, "i": "c", "t": 15000\n'
        '{"u": 2.0, "i": "a", "t": 1500000000, "g": []} trailing\n'
        '{"u": 2.0, "i": true, "t": "1500000000", "g": null}\n'
        '{"u": "2", "i": "b", "t": 1500000000.25}\n'
    )
    data = same(tmp_path, "log", path, columns=UIT + ",tags=g:several", on_bad_rows="skip")
    nested = "'i' is an object or an array: several values need :several in --columns"
    assert data.info["counts"]["dropped"] == {"malformed JSON": 2, nested: 1}
    assert [row["line"] for row in data.info["counts"]["bad_rows"]] == [4, 5, 6]


@pytest.mark.slow
def test_times_by_a_pattern_and_a_text_of_another_time_zone(tmp_path):
    with pytest.raises(ValueError, match="--time-format='%d.%q': 'q' is a bad directive"):
        prepare_spark(tmp_path, "u,i,t\n1,a,1\n", time_format="%d.%q")
    (tmp_path / "log.tsv").write_text(
        "u\ti\tt\n1\ta\t01.02.2020 03:04\n1\tb\t2020-02-01\n1\tb\t01.07.2020 00:00\n"
    )
    options = {"time_format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin"}
    data = same(tmp_path, "log", tmp_path / "log.tsv", columns=UIT, on_bad_rows="skip", **options)
    assert data.info["counts"]["first_time"] == "2020-02-01T02:04:00Z"
    assert data.info["counts"]["last_time"] == "2020-06-30T22:00:00Z"


@pytest.mark.slow
def test_lines_of_sequences_and_of_sessions(tmp_path):
    lines = "".join(f"{u} " + " ".join(str(u * k % 7) for k in range(1, 5)) + "\n" for u in (3, 1))
    (tmp_path / "sequences.txt").write_text(lines + "\n  \n2 5\n")
    same(tmp_path, "sequences", tmp_path / "sequences.txt")
    (tmp_path / "train.txt").write_text("1 2 3\n\n2 3\n")
    (tmp_path / "test.txt").write_text("3 1\n")
    raw, test = tmp_path / "train.txt", tmp_path / "test.txt"
    assert same(tmp_path, "sessions", raw, test=test).source_split.tolist() == [0, 0, 1]


@pytest.mark.slow
def test_a_file_of_several_blocks_keeps_its_order(tmp_path, monkeypatch):
    # the blocks of a file are read apart, and by size: here the last file has most of them
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path / "conf"))
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "spark-defaults.conf").write_text(
        "spark.master local[2]\nspark.sql.files.maxPartitionBytes 4096\n"
        "spark.sql.files.openCostInBytes 1\nspark.sql.shuffle.partitions 4\n"
    )
    folder = tmp_path / "log"
    folder.mkdir()
    for name, begin, end in (("a", 0, 100), ("b", 100, 100), ("c", 100, 3000)):
        duckdb.connect().execute(
            f"COPY (SELECT n % 7 AS u, n * 104729 % 1000 AS i FROM range({begin}, {end}) AS r(n)) "
            f"TO '{folder / name}.csv' (FORMAT csv, HEADER)"
        )
    data = same(tmp_path, "log", folder, columns="sequence=u,item=i")
    items = data.vocabulary("item").tokens()
    first = [items[id - 6] for id in data.columns["item"][:4]]
    assert first == [str(n * 104729 % 1000) for n in (0, 7, 14, 21)]


@pytest.mark.slow
def test_a_quote_that_is_not_closed_is_an_error_with_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"log.csv, line 3: a quote is opened and not closed"):
        prepare_spark(tmp_path, 'u,i,t\n1,a,1\n1,"b,2\n1,c,3\n')
    with pytest.raises(ValueError, match=r"log.csv, line 2: a quote is opened and not closed"):
        prepare_spark(tmp_path, 'u,i,t\n1,"a" b,1\n1,"b",2\n')
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_movielens_1m_is_the_same_byte_for_byte(tmp_path, shared_data):
    assert same(tmp_path, "ml-1m", shared_data("ml-1m")).events == 999_611


def test_json_that_is_nested_too_deeply_is_malformed():
    assert json_row({"a": "a"}, (), "[" * 100_000) == [None, "malformed JSON"]
    assert json_list_values("[" * 100_000) is None
    wanted = {"a": "a", "b": "b"}
    assert json_row(wanted, ("a",), '{"a": [1.0, "x"]}') == ['[1.0,"x"]', None, None]
    assert json_list_values('[1.0, "1.0", NaN]') == ["1", "1.0", None]
