"""From raw text to the store: order, ids, times, filters, and every row accounted for."""

import json
import pathlib
import subprocess
import sys
from collections import Counter

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickflax.data import prepare as module
from clickflax.data.options import Options, parse_columns, parse_gap
from clickflax.data.prepare import prepare
from clickflax.data.store import NA, RESERVED, open_dataset

UIT = "sequence=u,item=i,time=t"
SECOND = 1_000_000


def prepared(tmp_path, text, columns=UIT, name="log.csv", **options):
    (tmp_path / name).write_text(text, encoding="utf-8")
    given = Options(columns=parse_columns(columns), **options)
    prepare("log", tmp_path / name, tmp_path / "out", given, overwrite=True)
    return open_dataset(tmp_path / "out")


def sequences(data, variable="item"):
    """The tokens of every sequence, by its token."""
    tokens = [None] * RESERVED + data.vocabulary(variable).tokens()
    ids = np.split(data.columns[variable], data.offsets[1:-1])
    names = data.sequence_column("token")
    return {n: [tokens[id] for id in part] for n, part in zip(names, ids, strict=True)}


def accounts_for_every_row(data):
    counts = data.info["counts"]
    return counts["read"] == counts["kept"] + sum(counts["dropped"].values())


def test_events_go_by_time_and_sequences_by_first_appearance(tmp_path):
    data = prepared(tmp_path, "u,i,t\nz,c,3\na,x,9\nz,b,1\na,y,2\nz,c,2\n")
    assert sequences(data) == {"z": ["b", "c", "c"], "a": ["y", "x"]}
    assert list(sequences(data)) == ["z", "a"]
    assert data.columns["time"].tolist() == [s * SECOND for s in (1, 2, 3, 2, 9)]


def test_ids_go_by_frequency_and_then_by_token(tmp_path):
    data = prepared(tmp_path, "u,i,t\n1,b,1\n1,a,2\n1,10,3\n1,9,4\n2,c,1\n2,c,2\n")
    vocabulary = data.vocabulary("item")
    assert vocabulary.tokens() == ["c", "10", "9", "a", "b"]
    assert vocabulary.column("count") == [2, 1, 1, 1, 1]
    assert data.columns["item"].tolist() == [10, 9, 7, 8, 6, 6]


def test_equal_times_keep_the_order_of_the_file_and_are_counted(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("u,i,t\n1,c,5\n1,a,5\n1,b,5\n1,d,1\n2,a,5\n")
    out = tmp_path / "out"
    module.main(["log", "--raw", str(path), "--out", str(out), "--columns", UIT])
    assert sequences(open_dataset(out))["1"] == ["d", "c", "a", "b"]
    assert "3 events share their time" in capsys.readouterr().out


def test_without_times_the_file_gives_the_order_and_the_report_says_so(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("u,i\n1,c\n2,a\n1,b\n")
    out = tmp_path / "out"
    module.main(["log", "--raw", str(path), "--out", str(out), "--columns", "sequence=u,item=i"])
    assert sequences(open_dataset(out)) == {"1": ["c", "b"], "2": ["a"]}
    assert "time" not in open_dataset(out).columns
    assert "keep the order of the file" in capsys.readouterr().out


def test_a_large_file_keeps_its_order_with_many_threads(tmp_path):
    con = duckdb.connect()
    con.execute(
        "COPY (SELECT n % 3 AS u, n % 1009 AS i FROM range(400000) AS rows(n)) "
        f"TO '{tmp_path / 'log.csv'}' (HEADER)"
    )
    given = Options(columns=parse_columns("sequence=u,item=i"), threads=8)
    prepare("log", tmp_path / "log.csv", tmp_path / "out", given)
    found = sequences(open_dataset(tmp_path / "out"))
    assert all(found[str(u)] == [str(n % 1009) for n in range(u, 400000, 3)] for u in range(3))


def test_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "b.csv").write_text("u,i\n1,c\n1,d\n")
    (folder / "a.csv").write_text("u,i\n1,a\n1,b\n")
    (folder / "_SUCCESS").write_text("")
    prepare("log", folder, tmp_path / "out", Options(columns=parse_columns("sequence=u,item=i")))
    assert sequences(open_dataset(tmp_path / "out")) == {"1": ["a", "b", "c", "d"]}


EVENTS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from(["a", "b", "10", "9"]), st.integers(0, 3)),
    min_size=1,
    max_size=12,
).filter(lambda events: len({item for _, item, _ in events}) > 1)


@settings(max_examples=15, deadline=None)
@given(events=EVENTS)
def test_a_log_is_prepared_as_a_few_lines_of_python_would(tmp_path_factory, events):
    text = "u,i,t\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events)
    data = prepared(tmp_path_factory.mktemp("log"), text)
    users = dict.fromkeys(user for user, _, _ in events)
    expected = {
        user: [item for u, item, _ in sorted(events, key=lambda event: event[2]) if u == user]
        for user in users
    }
    assert list(sequences(data).items()) == list(expected.items())
    counts = Counter(item for _, item, _ in events)
    assert data.vocabulary("item").tokens() == sorted(counts, key=lambda i: (-counts[i], i))


def test_any_number_of_variables_and_what_is_missing_in_them(tmp_path):
    data = prepared(
        tmp_path,
        "u,i,t,act,pr\n1,a,1,view,1.5\n1,b,2,,\n1,a,3,buy,2.5\n1,b,4,view,\n",
        columns=UIT + ",action=act,price=pr:numeric,same_price=pr",
    )
    assert sequences(data, "action")["1"] == ["view", None, "buy", "view"]
    assert data.columns["action"].tolist() == [6, NA, 7, 6]
    assert data.columns["price"].dtype == np.float32
    assert np.isnan(data.columns["price"]).tolist() == [False, True, False, True]
    assert data.info["variables"]["price"] == {"kind": "numeric", "mean": 2.0, "std": 0.5}
    assert data.vocabulary("same_price").tokens() == ["1.5", "2.5"]


def test_csv_parquet_and_json_lines_give_the_same_data_set(tmp_path):
    text = "u,i,t,p\n" + "".join(f"{n % 3},{n * 7 % 5},{n % 4},{n / 4}\n" for n in range(30))
    columns = UIT + ",price=p:numeric"
    first = prepared(tmp_path, text, columns).fingerprint
    con = duckdb.connect()
    con.execute(f"CREATE TABLE log AS FROM '{tmp_path / 'log.csv'}'")
    for name, form in (
        ("log.parquet", "parquet"),
        ("log.jsonl", "json"),
        ("log.tsv", "csv, HEADER, DELIMITER '\t'"),
        ("log.csv.gz", "csv, HEADER, COMPRESSION gzip"),
    ):
        con.execute(f"COPY log TO '{tmp_path / name}' (FORMAT {form})")
        prepare("log", tmp_path / name, tmp_path / name[4:], Options(parse_columns(columns)))
        assert open_dataset(tmp_path / name[4:]).fingerprint == first, name


def test_tokens_stay_as_they_are_written_but_for_whole_fractions(tmp_path):
    data = prepared(tmp_path, 'u,i,t\n007,"a,b",1\n7,"x ""y""",2\n007, c,3\n')
    assert sequences(data) == {"007": ["a,b", " c"], "7": ['x "y"']}
    duckdb.sql("SELECT * FROM (VALUES (7.0, 1.5), (NULL, 2), (7, 3)) AS t(u, i)").write_parquet(
        str(tmp_path / "log.parquet")
    )
    columns = parse_columns("sequence=u,item=i:categorical".replace(":categorical", ""))
    prepare("log", tmp_path / "log.parquet", tmp_path / "two", Options(columns))
    assert sequences(open_dataset(tmp_path / "two")) == {"7": ["1.5", "3"]}


def test_a_text_without_header_has_columns_1_2_3(tmp_path):
    data = prepared(tmp_path, "1;a\n1;b\n", columns="sequence=1,item=2", header=False)
    assert sequences(data) == {"1": ["a", "b"]}


@pytest.mark.parametrize(
    "values, options, seconds",
    [
        (["881250949", "881250950.25"], {}, [881250949, 881250950.25]),
        (["1700000000123", "1700000000124"], {}, [1700000000.123, 1700000000.124]),
        (["1700000000123456", "1700000000123457"], {}, [1700000000.123456, 1700000000.123457]),
        (["1700000000123456000", "1700000000123457000"], {}, [1700000000.123456, 1700000000.123457]),
        (["5", "6"], {"time_format": "ms"}, [0.005, 0.006]),
        (["1970-01-02", "1970-01-03T00:00:01.5Z"], {}, [86400, 172801.5]),
        (["1970-01-01 02:00:00+02:00", "1970-01-01T01:00:00"], {}, [0, 3600]),
        (["01.02.1970 03:04", "01.03.1970 03:04"], {"time_format": "%d.%m.%Y %H:%M"},
            [2689440, 5108640]),
        (["1970-01-01 01:00:00", "1970-07-01 01:00:00Z"], {"time_zone": "Europe/Berlin"},
            [0, 15642000]),
        (["-1.5", "0"], {}, [-1.5, 0]),
    ],
)  # fmt: skip
def test_times_are_microseconds_of_utc(tmp_path, values, options, seconds):
    text = f'u,i,t\n1,a,"{values[0]}"\n1,b,"{values[1]}"\n'
    data = prepared(tmp_path, text, **options)
    assert data.columns["time"].tolist() == [round(s * SECOND) for s in seconds]


def test_timestamps_of_parquet_are_in_the_zone_that_is_given(tmp_path):
    duckdb.sql(
        "SELECT * FROM (VALUES (1, 'a', TIMESTAMP '1970-01-01 01:00:00'), "
        "(1, 'b', TIMESTAMP '1970-07-01 02:00:00')) AS t(u, i, t)"
    ).write_parquet(str(tmp_path / "log.parquet"))
    given = Options(columns=parse_columns(UIT), time_zone="Europe/Berlin")
    prepare("log", tmp_path / "log.parquet", tmp_path / "out", given)
    # Berlin had no summer time in 1970
    assert open_dataset(tmp_path / "out").columns["time"].tolist() == [0, (181 * 86400 + 3600) * SECOND]


BAD = 'u,i,t\n1,a,1\n"two\nlines",b,2\n1,c,yesterday\n1,d,4\n2,e,soon\n'


def test_a_time_that_does_not_parse_is_named_with_file_line_and_value(tmp_path):
    message = r"log\.csv, line 5: time does not parse \('yesterday'\), and 1 more such rows"
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, BAD)
    assert not (tmp_path / "out").exists()


def test_bad_rows_that_are_skipped_are_counted_and_listed(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text(BAD + "2,,5\n,a,6\n1,a\n1,a,7,8\n3,f,\n")
    flags = ["--out", str(tmp_path / "out"), "--columns", UIT, "--on-bad-rows=skip"]
    module.main(["log", "--raw", str(path), *flags])
    data = open_dataset(tmp_path / "out")
    counts = data.info["counts"]
    assert (counts["read"], counts["kept"]) == (10, 3)
    assert counts["dropped"] == {
        "malformed line": 2,
        "no item": 1,
        "no sequence": 1,
        "no time": 1,
        "time does not parse": 2,
    }
    assert accounts_for_every_row(data)
    assert [row["line"] for row in counts["bad_rows"]] == [5, 7, 10, 11, 12]
    assert f"skipped {path}, line 5: time does not parse ('yesterday')" in capsys.readouterr().out


def test_a_line_of_too_few_or_too_many_fields_is_an_error_with_its_number(tmp_path):
    with pytest.raises(ValueError, match=r"log\.csv, line 3: Expected Number of Columns: 3"):
        prepared(tmp_path, "u,i,t\n1,a,1\n1,b\n1,c,3\n")


def test_malformed_json_is_an_error_with_its_line(tmp_path):
    text = '{"u": 1, "i": "a"}\n{"u": 1, "i"\n{"u": 1, "i": "b"}\n'
    columns = "sequence=u,item=i"
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: malformed JSON"):
        prepared(tmp_path, text, columns, "log.jsonl")
    data = prepared(tmp_path, text, columns, "log.jsonl", on_bad_rows="skip")
    assert data.info["counts"]["dropped"] == {"malformed JSON": 1}
    assert accounts_for_every_row(data)


def test_a_number_that_does_not_parse_is_a_bad_row(tmp_path):
    text = "u,i,t,p\n1,a,1,3\n1,b,2,cheap\n1,c,3,inf\n1,d,4,\n"
    columns = UIT + ",price=p:numeric"
    with pytest.raises(ValueError, match=r"line 3: price is not a number \('cheap'\)"):
        prepared(tmp_path, text, columns)
    data = prepared(tmp_path, text, columns, on_bad_rows="skip")
    assert data.info["counts"]["dropped"] == {"price is not a number": 2}


def test_every_row_is_accounted_for_whatever_drops_it(tmp_path):
    lines = [f"{n % 4},{n * n % 7},{n}" for n in range(60)] + ["9,q,1", ",a,2", "1,1,never", "1,1"]
    data = prepared(
        tmp_path,
        "u,i,t\n" + "\n".join(lines) + "\n",
        on_bad_rows="skip",
        session_gap=parse_gap("7s"),
        repeats="merge",
        k_core=2,
        max_length=8,
    )
    assert data.info["counts"]["read"] == 64
    assert data.events == data.info["counts"]["kept"] > 0
    assert accounts_for_every_row(data)
    assert np.diff(data.offsets).max() <= 8


def test_sessions_are_named_after_their_sequence_and_number(tmp_path):
    text = "u,i,t\n1,a,0\n2,a,0\n1,b,1800\n1,c,3601\n1,d,9999\n1,e,9999\n"
    data = prepared(tmp_path, text, session_gap=parse_gap("30m"), min_length=2)
    assert sequences(data) == {"1/1": ["a", "b"], "1/3": ["d", "e"]}
    assert data.sequence_column("user") == ["1", "1"]


def test_a_view_and_then_a_purchase_of_one_item_are_not_merged(tmp_path):
    text = "u,i,t,a\n1,x,1,view\n1,x,2,view\n1,x,3,buy\n1,y,4,buy\n"
    data = prepared(tmp_path, text, UIT + ",action=a", repeats="merge")
    assert sequences(data, "action")["1"] == ["view", "buy", "buy"]
    assert data.columns["time"].tolist() == [SECOND, 3 * SECOND, 4 * SECOND]
    assert data.info["counts"]["dropped"] == {"repeats the event before it": 1}


def test_items_features_come_along(tmp_path):
    (tmp_path / "items.csv").write_text('i,title\nb,"Bee, the"\nz,Zed\n')
    text = "u,i,t\n1,a,1\n1,b,2\n1,b,3\n"
    data = prepared(tmp_path, text, items=tmp_path / "items.csv")
    assert data.vocabulary("item").tokens() == ["b", "a"]
    assert data.vocabulary("item").column("title") == ["Bee, the", None]


ONE = "u,i,t\n1,a,1\n1,b,2\n"


@pytest.mark.parametrize(
    "text, changes, message",
    [
        ("", {}, r"log\.csv is empty"),
        ("u,i,t\n", {}, "the log is empty"),
        ("u,i,t\n1,a,1\n2,a,2\n", {}, "all 2 events are of one item, 'a'"),
        (ONE, {"columns": "sequence=user,item=i"}, r"no column 'user' for sequence.*'u', 'i', 't'"),
        (ONE, {"k_core": 3}, r"nothing is left of 2 events: \{'item of fewer than 3 events': 2\}"),
        (ONE, {"columns": "sequence=u,item=i", "session_gap": 5}, "--session-gap needs the time"),
        (ONE, {"time_zone": "Mars/Olympus"}, "Unknown TimeZone 'Mars/Olympus'"),
        (ONE, {"time_format": "epoch"}, r"'epoch' is not one of \['auto', 's'"),
        ("u,i,t\n,a,1\n,b,1\n", {}, r"none of 2 rows is an event: \{'no sequence': 2\}"),
        (ONE, {"name": "log.xls"}, r"ends in '\.xls'; a log ends in one of \['\.csv'"),
        (ONE, {"attributes": pathlib.Path("x")}, r"--attributes is for the sources \['sequences'\]"),
    ],
)
def test_what_cannot_be_prepared_is_said_clearly(tmp_path, text, changes, message):
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, text, **changes)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_and_a_source_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv is not there"):
        prepare("log", tmp_path / "nowhere.csv", tmp_path / "out", Options(parse_columns(UIT)))
    with pytest.raises(ValueError, match=r"'movielens' is not one of \['log', 'ml-100k'"):
        prepare("movielens", tmp_path, tmp_path / "out")
    (tmp_path / "log.csv").write_text(ONE)
    with pytest.raises(ValueError, match=r"needs --columns .* \['u', 'i', 't'\]"):
        prepare("log", tmp_path / "log.csv", tmp_path / "out")


@pytest.mark.parametrize(
    "text, message",
    [
        ("sequence=u,item", "'item' is not NAME=COLUMN"),
        ("sequence=u,time=t", "needs item=COLUMN"),
        ("sequence=u,item=i,item=j", "item is given twice"),
        ("sequence=u,item=i:numeric", "item takes no kind"),
        ("sequence=u,item=i,_row=r", "'_row=r' is not NAME=COLUMN"),
    ],
)
def test_columns_that_make_no_sense_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_columns(text)


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="--max-length=2 is below .* 3"):
        Options(max_length=2, k_core=3)
    with pytest.raises(ValueError, match="--k-core=0 must be at least 1"):
        Options(k_core=0)
    with pytest.raises(ValueError, match="--session-gap=30 is not a time such as 90s, 30m"):
        parse_gap("30")


def test_the_options_stand_in_the_data_set(tmp_path):
    info = prepared(tmp_path, ONE, session_gap=parse_gap("1.5h")).info
    assert info["source"] == "log"
    assert info["options"]["session_gap"] == 5400 * SECOND
    assert info["options"]["columns"][0] == {"name": "sequence", "source": "u", "kind": None}
    assert info["options"]["time_zone"] == "UTC"


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from clickflax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_disk_that_is_full_is_told_and_leaves_nothing(tmp_path):
    (tmp_path / "log.csv").write_text("u,i,t\n" + "".join(f"{n},{n},{n}\n" for n in range(9999)))
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "toy"
    flags = ["--raw", str(tmp_path / "log.csv"), "--out", str(out), "--columns", UIT]
    command = [sys.executable, "-c", FULL, "prepare", "log", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"cannot write {out}: file too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_dataset_json_is_json_and_no_scratch_is_left(tmp_path):
    data = prepared(tmp_path, ONE)
    assert json.loads((data.path / "dataset.json").read_text())["events"] == 2
    assert sorted(path.name for path in data.path.iterdir()) == [
        "dataset.json",
        "events",
        "offsets.npy",
        "vocab",
    ]
