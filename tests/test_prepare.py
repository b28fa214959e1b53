"""From raw text to the data set: order, ids, times, filters, and a count for every row."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import ONE, SECOND, UIT, accounts_for_every_row, prepared, sequences

from clickflax.batch import NA
from clickflax.data.durations import parse_gap
from clickflax.data.store import open_dataset
from clickflax.preparation import main as module


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
    said = capsys.readouterr().out
    assert "3 of the events read share their time" in said
    assert "1970-01-01T00:00:05Z" in said


def test_without_times_the_file_gives_the_order_and_the_report_says_so(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("u,i\n1,c\n2,a\n1,b\n")
    out = tmp_path / "out"
    module.main(["log", "--raw", str(path), "--out", str(out), "--columns", "sequence=u,item=i"])
    assert sequences(open_dataset(out)) == {"1": ["c", "b"], "2": ["a"]}
    assert "time" not in open_dataset(out).columns
    assert "keep the order of the file" in capsys.readouterr().out


EVENTS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from(["a", "b", "10", "9"]), st.integers(0, 3)),
    min_size=1,
    max_size=12,
).filter(lambda events: len({item for _, item, _ in events}) > 1)


@settings(max_examples=15, deadline=None)
@given(events=EVENTS)
def test_a_log_is_prepared_like_a_few_lines_of_python(tmp_path_factory, events):
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


def test_further_variables_and_their_missing_values(tmp_path):
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


def test_every_row_is_accounted_for_whatever_drops_it(tmp_path):
    lines = [f"{n % 4},{n * n % 7},{n}" for n in range(60)] + ["9,q,1", ",a,2", "1,1,never", "1,1"]
    data = prepared(
        tmp_path,
        "u,i,t\n" + "\n".join(lines) + "\n",
        on_bad_rows="skip",
        session_gap=parse_gap("--session-gap", "7s"),
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
    data = prepared(tmp_path, text, session_gap=parse_gap("--session-gap", "30m"), min_length=2)
    assert sequences(data) == {"1/1": ["a", "b"], "1/3": ["d", "e"]}
    assert data.sequence_column("user") == ["1", "1"]


def test_a_view_and_then_a_purchase_of_one_item_are_not_merged(tmp_path):
    text = "u,i,t,a\n1,x,1,view\n1,x,2,view\n1,x,3,buy\n1,y,4,buy\n"
    data = prepared(tmp_path, text, UIT + ",action=a", repeats="merge")
    assert sequences(data, "action")["1"] == ["view", "buy", "buy"]
    assert data.columns["time"].tolist() == [SECOND, 3 * SECOND, 4 * SECOND]
    assert data.info["counts"]["dropped"] == {"repeats the event before it": 1}


def test_features_of_items_are_stored(tmp_path):
    (tmp_path / "items.csv").write_text('i,title\nb,"Bee, the"\nz,Zed\n')
    text = "u,i,t\n1,a,1\n1,b,2\n1,b,3\n"
    data = prepared(tmp_path, text, items=tmp_path / "items.csv")
    assert data.vocabulary("item").tokens() == ["b", "a"]
    assert data.vocabulary("item").column("title") == ["Bee, the", None]


def test_the_report_counts_the_items_with_features(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(ONE)
    (tmp_path / "items.csv").write_text("i,title\nA,x\nb,y\n")
    flags = ["--out", str(tmp_path / "out"), "--columns", UIT]
    items = ["--items", str(tmp_path / "items.csv")]
    module.main(["log", "--raw", str(tmp_path / "log.csv"), *flags, *items])
    assert re.search(r"items with features +│ +1 of 2 ", capsys.readouterr().out)


@pytest.mark.parametrize(
    "text, message",
    [
        ("i,title\na,x\nb\nc\n", r"items\.csv, line 3: .*, and 1 more such rows"),
        ("i,title\na,x\nb,y\na,z\n", r"items\.csv, line 4: 'a' appears twice"),
        ("i,Token\na,x\n", "a feature cannot be named 'Token'"),
    ],
)
def test_a_table_of_items_with_bad_rows_is_an_error(tmp_path, text, message):
    (tmp_path / "items.csv").write_text(text)
    for way in ("error", "skip"):
        with pytest.raises(ValueError, match=message):
            prepared(tmp_path, ONE, items=tmp_path / "items.csv", on_bad_rows=way)


def test_the_data_set_records_its_options(tmp_path):
    info = prepared(tmp_path, ONE, session_gap=parse_gap("--session-gap", "1.5h")).info
    assert info["source"] == "log"
    assert info["options"]["session_gap"] == 5400 * SECOND
    assert info["options"]["columns"][0] == {"name": "sequence", "source": "u", "kind": None}
    assert info["options"]["time_zone"] == "UTC"


def test_dataset_json_is_json_and_no_scratch_is_left(tmp_path):
    data = prepared(tmp_path, ONE)
    assert json.loads((data.path / "dataset.json").read_text())["events"] == 2
    assert sorted(path.name for path in data.path.iterdir()) == [
        "dataset.json",
        "events",
        "offsets.npy",
        "vocab",
    ]
