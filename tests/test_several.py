"""Variables that have several values at once: prepared, moved, embedded, learned."""

import numpy as np
import pytest
from logs import UIT, accounts_for_every_row, prepared, sequences, write_parquet

from clickflax.data.options import Options, parse_columns
from clickflax.data.prepare import prepare
from clickflax.data.store import open_dataset
from clickflax.events import NA, PAD

TAGGED = UIT + ",tags=g:several"


def test_a_text_is_split_and_ids_go_by_frequency_and_then_by_token(tmp_path):
    text = "u,i,t,g\n1,a,1,new|red\n1,b,2,\n1,a,3,red|sale|red\n1,b,4,|\n"
    data = prepared(tmp_path, text, TAGGED)
    # red is in two events, new and sale in one each
    assert data.vocabulary("tags").tokens() == ["red", "new", "sale"]
    assert data.vocabulary("tags").column("count") == [2, 1, 1]
    assert data.columns["tags"].dtype == np.int32
    assert data.columns["tags"].tolist() == [[6, 7], [NA, PAD], [6, 8], [NA, PAD]]
    assert data.info["variables"]["tags"] == {"kind": "several", "size": 9, "width": 2}


def test_lists_of_parquet_are_several_without_being_named_so(tmp_path):
    write_parquet(
        tmp_path / "log.parquet",
        "SELECT * FROM (VALUES (1, 'a', [7, 30, 7]), (1, 'b', []), (1, 'c', NULL), "
        "(2, 'a', [30, NULL, 4])) AS t(u, i, g)",
    )
    columns = parse_columns("sequence=u,item=i,tags=g")
    prepare("log", tmp_path / "log.parquet", tmp_path / "out", Options(columns))
    data = open_dataset(tmp_path / "out")
    assert data.vocabulary("tags").tokens() == ["30", "4", "7"]
    assert data.columns["tags"].tolist() == [[6, 8], [NA, PAD], [NA, PAD], [6, 7]]


def test_arrays_of_json_are_lists_and_other_texts_are_split(tmp_path):
    lines = ['"g": ["x|y", "", null]', '"g": "x;[y"', '"g": null', '"h": 0']
    text = "".join(f'{{"u": 1, "i": "{k}", "t": {k}, {g}}}\n' for k, g in enumerate(lines))
    data = prepared(tmp_path, text, TAGGED, "log.jsonl", separator=";")
    assert data.vocabulary("tags").tokens() == ["[y", "x", "x|y"]
    assert data.columns["tags"].tolist() == [[8, PAD], [6, 7], [NA, PAD], [NA, PAD]]


def test_an_event_of_too_many_values_is_named_and_can_be_skipped(tmp_path):
    many = "|".join(str(k) for k in range(65))
    text = f"u,i,t,g\n1,a,1,x\n1,b,2,{many}\n1,b,3,{many[:-3]}\n"
    with pytest.raises(ValueError, match=r"log.csv, line 3: tags has more than 64 values \('65'\)"):
        prepared(tmp_path, text, TAGGED)
    data = prepared(tmp_path, text, TAGGED, on_bad_rows="skip")
    assert data.columns["tags"].shape == (2, 64)
    assert data.info["counts"]["dropped"] == {"tags has more than 64 values": 1}
    assert accounts_for_every_row(data)


def test_an_event_repeats_another_with_all_the_same_values_in_any_order(tmp_path):
    text = "u,i,t,g\n1,a,1,x|y\n1,a,2,y|x\n1,a,3,x\n1,b,4,x\n"
    data = prepared(tmp_path, text, TAGGED, repeats="merge")
    assert data.columns["tags"].tolist() == [[6, 7], [6, PAD], [6, PAD]]


def test_values_of_dropped_events_leave_the_vocabulary(tmp_path):
    text = "u,i,t,g\n1,a,1,z|y\n1,b,2,x|y\n1,a,3,y|w\n1,c,4,w\n1,c,5,w\n"
    data = prepared(tmp_path, text, TAGGED, min_count=2)
    assert sequences(data)["1"] == ["a", "a", "c", "c"]
    assert data.vocabulary("tags").tokens() == ["w", "y", "z"]
    assert data.columns["tags"].tolist() == [[7, 8], [6, 7], [6, PAD], [6, PAD]]
