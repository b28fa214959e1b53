"""Every source, from a few made-up lines and, if they exist, from the real files."""

import json

import numpy as np
import pytest

from clickflax.batch import RESERVED
from clickflax.data.store import open_dataset
from clickflax.preparation.main import prepare
from clickflax.preparation.options import Options, parse_columns

MOVIES = "7::Caf\xe9 Noir (1995)::Drama|Comedy\n10::Heat (1995)::Action\n2::Unseen (1990)::War\n"
USERS = "31::F::25::3::00123\n4::M::18::0::90210-1234\n"


def folder(tmp_path, **files):
    """A folder with these files, `_` in a name standing for a dot."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, text in files.items():
        (raw / name.replace("__", ".")).write_text(text, encoding="latin-1")
    return raw


def prepared(source, raw, tmp_path, **options):
    prepare(source, raw, tmp_path / "out", Options(**options))
    return open_dataset(tmp_path / "out")


def sequences(data):
    """The item tokens of every sequence, by its token."""
    tokens = [None] * RESERVED + data.vocabulary("item").tokens()
    ids = np.split(data.columns["item"], data.offsets[1:-1])
    names = data.sequence_column("token")
    return {n: [tokens[id] for id in own] for n, own in zip(names, ids, strict=True)}


def test_ml_1m_of_grouplens(tmp_path):
    ratings = "31::10::5::978300760\n4::7::3::978302109\n31::7::4::978300700\n"
    raw = folder(tmp_path, ratings__dat=ratings, movies__dat=MOVIES, users__dat=USERS)
    data = prepared("ml-1m", raw, tmp_path)
    assert sequences(data) == {"31": ["7", "10"], "4": ["7"]}
    assert data.columns["time"].tolist() == [t * 10**6 for t in (978300700, 978300760, 978302109)]
    assert data.columns["rating"].tolist() == [4, 5, 3]
    items = data.vocabulary("item")
    assert items.column("title") == ["Caf\xe9 Noir (1995)", "Heat (1995)"]
    assert items.column("genres") == [["Drama", "Comedy"], ["Action"]]
    assert data.sequence_column("gender") == ["F", "M"]
    assert data.sequence_column("age") == [25, 18]
    assert data.sequence_column("zip") == ["00123", "90210-1234"]


SASREC = {
    "sequences__txt": "1 1\n1 2\n2 1\n",
    "sas_to_original_items__txt": "1 10\n2 7\n",
    "sas_to_original_users__txt": "1 31\n2 4\n",
    "movies__dat": MOVIES,
}


@pytest.mark.parametrize("path", [".", "sequences.txt"])
def test_ml_1m_of_sasrec_gets_its_original_ids_and_titles_back(tmp_path, path):
    data = prepared("ml-1m", folder(tmp_path, **SASREC) / path, tmp_path)
    assert sequences(data) == {"31": ["10", "7"], "4": ["10"]}
    assert data.vocabulary("item").column("title") == ["Heat (1995)", "Caf\xe9 Noir (1995)"]
    assert "time" not in data.columns


def test_an_error_names_the_missing_file_of_a_source(tmp_path):
    raw = folder(tmp_path, **SASREC)
    (raw / "sas_to_original_items.txt").unlink()
    with pytest.raises(FileNotFoundError, match="sas_to_original_items.txt does not exist"):
        prepare("ml-1m", raw, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="u.data does not exist"):
        prepare("ml-100k", raw, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"has no file that ends in \.inter"):
        prepare("recbole", raw, tmp_path / "out")
    with pytest.raises(ValueError, match="0 files with 'train' in their name"):
        prepare("sessions", raw, tmp_path / "out")


def test_pairs_and_sequences_of_the_same_events_are_the_same(tmp_path):
    raw = folder(
        tmp_path, pairs__txt="1 a\n1 b\n2 b\n2 c\n1 a\n", lines__txt="1  a b\n\n2 b c\n1 a\n"
    )
    attributes = tmp_path / "attributes.json"
    attributes.write_text(json.dumps({"b": [3, 5], "z": [1]}))
    pairs = prepared("pairs", raw / "pairs.txt", tmp_path)
    assert sequences(pairs) == {"1": ["a", "b", "a"], "2": ["b", "c"]}
    prepare("sequences", raw / "lines.txt", tmp_path / "two", Options(attributes=attributes))
    lines = open_dataset(tmp_path / "two")
    assert sequences(lines) == sequences(pairs)
    assert lines.vocabulary("item").tokens() == ["a", "b", "c"]
    assert lines.vocabulary("item").column("attributes") == [None, ["3", "5"], None]


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", "attributes.json is not a JSON object"),
        ('{"b": ["x"', "attributes.json is not valid JSON"),
        ('{"b": "xy"}', "attributes.json: the attributes of 'b' must be a list .* not 'xy'"),
    ],
)
def test_attributes_that_are_not_lists_are_an_error(tmp_path, text, message):
    raw = folder(tmp_path, lines__txt="1 a b\n", attributes__json=text)
    with pytest.raises(ValueError, match=message):
        options = Options(attributes=raw / "attributes.json")
        prepare("sequences", raw / "lines.txt", tmp_path / "out", options)


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 10\n2 7\n1 8\n", "items.txt, line 3: '1' appears twice"),
        ("1 10\n", r"sequences.txt, line 2: item '2' is not in .*items.txt"),
        ("1 10\n2\n", "items.txt, line 2: 1 field, not 2"),
    ],
)
def test_id_maps_must_name_every_id_once(tmp_path, text, message):
    raw = folder(tmp_path, **{**SASREC, "sas_to_original_items__txt": text})
    with pytest.raises(ValueError, match=message):
        prepare("ml-1m", raw, tmp_path / "out")


def test_an_error_about_the_header_names_the_flag_no_header(tmp_path):
    with pytest.raises(ValueError, match=r"--no-header applies to the sources \['log'\], not"):
        prepare("pairs", tmp_path, tmp_path / "out", Options(header=False))


@pytest.mark.parametrize(
    "line, message",
    [("b", "line 3: 1 field, not 2"), ("b\tcheap", "line 3: the price 'cheap' is not a number")],
)
def test_an_error_names_the_bad_line_of_an_item_file(tmp_path, line, message):
    raw = folder(
        tmp_path,
        x__inter="user_id:token\titem_id:token\nu\ta\nu\tb\n",
        x__item=f"item_id:token\tprice:float\na\t1\n{line}\n",
    )
    with pytest.raises(ValueError, match="x.item, " + message):
        prepare("recbole", raw, tmp_path / "out")


def test_an_error_names_a_line_that_is_not_utf8(tmp_path):
    raw = folder(tmp_path, lines__txt="1 a b\n2 caf\xe9 b\n")
    with pytest.raises(ValueError, match=r"lines.txt, line 2: it is not UTF-8"):
        prepare("sequences", raw / "lines.txt", tmp_path / "out")


def test_pairs_with_a_third_field_are_an_error(tmp_path):
    raw = folder(tmp_path, pairs__txt="1 a\n1 b 5\n")
    with pytest.raises(ValueError, match=r"pairs.txt, line 2: more than 2 fields"):
        prepare("pairs", raw / "pairs.txt", tmp_path / "out")


def test_sessions_keep_their_split(tmp_path):
    raw = folder(tmp_path, train_sessions__txt="a b\nb\n", test_sessions__txt="c b a\n")
    data = prepared("sessions", raw, tmp_path)
    assert sequences(data) == {"train/1": ["a", "b"], "train/2": ["b"], "test/1": ["c", "b", "a"]}
    assert data.source_split is not None
    assert data.source_split.tolist() == [0, 0, 1]
    assert data.source_split.dtype == np.int8
    first, second = raw / "train_sessions.txt", raw / "test_sessions.txt"
    prepare("sessions", first, tmp_path / "two", Options(test=second))
    assert open_dataset(tmp_path / "two").fingerprint == data.fingerprint
    with pytest.raises(ValueError, match="--test FILE"):
        prepare("sessions", first, tmp_path / "three")


def test_recbole_atomic_files_with_their_types(tmp_path):
    raw = folder(
        tmp_path,
        x__inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\ttags:token_seq\n"
        "u\tb\t3\t20\tx y\nu\ta\t4.5\t10\t\n",
        x__item="item_id:token\tmovie_title:token_seq\tclass:token_seq\tprice:float\n"
        "a\tToy Story\tComedy Drama\t9.5\nb\tHeat\t\t\n",
        x__user="user_id:token\tage:token\nu\t24\n",
    )
    data = prepared("recbole", raw, tmp_path)
    assert sequences(data) == {"u": ["a", "b"]}
    assert data.columns["rating"].tolist() == [4.5, 3]
    items = data.vocabulary("item")
    assert items.column("title") == ["Toy Story", "Heat"]
    assert items.column("genres") == [["Comedy", "Drama"], []]
    assert items.column("price") == [9.5, None]
    assert data.sequence_column("age") == ["24"]
    assert data.info["counts"]["left_out"] == ["tags"]
    columns = parse_columns("sequence=user_id,item=item_id,stars=rating:categorical")
    prepare("recbole", raw / "x.inter", tmp_path / "two", Options(columns=columns))
    assert open_dataset(tmp_path / "two").vocabulary("stars").tokens() == ["3", "4.5"]


def test_recbole_columns_of_unknown_types_or_without_a_user_are_an_error(tmp_path):
    raw = folder(tmp_path, x__inter="user_id:token\titem_id:tokens\n")
    with pytest.raises(ValueError, match=r"the type 'tokens' of 'item_id' is not one of \['float'"):
        prepare("recbole", raw, tmp_path / "out")
    (raw / "x.inter").write_text("uid:token\titem_id:token\n")
    with pytest.raises(ValueError, match="no user_id or session_id among the columns"):
        prepare("recbole", raw, tmp_path / "out")


def size(data):
    return data.sequences, data.info["items"], data.events


def test_the_real_ml_1m_has_its_known_size(shared_data, tmp_path):
    data = prepared("ml-1m", shared_data("ml-1m"), tmp_path)
    assert size(data) == (6040, 3416, 999_611)
    items = data.vocabulary("item")
    assert items.token(RESERVED) == "2858"
    titles, genres = items.column("title"), items.column("genres")
    assert titles is not None and genres is not None
    assert titles[0] == "American Beauty (1999)"
    assert genres[0] == ["Comedy", "Drama"]
    assert all(titles)


def test_the_real_ml_100k_is_the_same_raw_and_as_atomic_files(shared_data, tmp_path):
    raw = prepared("ml-100k", shared_data("ml-100k"), tmp_path)
    assert size(raw) == (943, 1682, 100_000)
    prepare("recbole", shared_data("ml-100k") / "recbole", tmp_path / "two")
    atomic = open_dataset(tmp_path / "two")
    assert atomic.offsets.tolist() == raw.offsets.tolist()
    for name in ("item", "time", "rating"):
        assert np.array_equal(atomic.columns[name], raw.columns[name])
    # most ratings of MovieLens share their second with another one of the user
    assert raw.info["counts"]["same_time"] == 75_772


def test_the_five_core_of_the_real_beauty_is_that_of_s3_rec(shared_data, tmp_path):
    beauty = prepared("pairs", shared_data("beauty") / "sequences.txt", tmp_path, k_core=5)
    folder = shared_data("s3rec-beauty")
    attributes = folder / "Beauty_item2attributes.json"
    prepare("sequences", folder / "Beauty.txt", tmp_path / "two", Options(attributes=attributes))
    published = open_dataset(tmp_path / "two")
    assert size(beauty) == size(published) == (22_363, 12_101, 198_502)
    # the names of the items differ, their frequencies do not
    counts = [data.vocabulary("item").column("count") for data in (beauty, published)]
    assert counts[0] == counts[1]
    found = published.vocabulary("item").column("attributes")
    assert found is not None and all(found)


def test_the_real_yoochoose_has_its_known_size(shared_data, tmp_path):
    data = prepared("sessions", shared_data("yoochoose-1-64"), tmp_path)
    assert size(data) == (131_491, 17_745, 557_248)
    assert data.source_split is not None
    assert int(data.source_split.sum()) == 15_324


def test_the_real_taobao_log_falls_into_sessions_with_a_buy(shared_data, tmp_path):
    columns = parse_columns("sequence=user,time=timestamp,item=item,action=action")
    data = prepared(
        "log",
        shared_data("taobao") / "events.tsv",
        tmp_path,
        columns=columns,
        session_gap=30 * 60 * 10**6,
    )
    assert data.info["items"] == 30_985
    buy, cart, favourite = data.vocabulary("action").ids(["buy", "cart", "fav"])
    action = data.columns["action"]
    marked = np.add.reduceat((action == cart) | (action == favourite), data.offsets[:-1]) > 0
    bought = np.add.reduceat(action == buy, data.offsets[:-1]) > 0
    assert (int(marked.sum()), int((marked & bought).sum())) == (133_461, 23_616)


def test_the_real_online_retail_log_loses_its_unnamed_customers_by_count(shared_data, tmp_path):
    columns = parse_columns(
        "sequence=Customer ID,time=InvoiceDate,item=StockCode,price=Price,invoice=Invoice"
    )
    path = shared_data("online-retail") / "lines.parquet"
    data = prepared("log", path, tmp_path, columns=columns)
    assert data.info["counts"]["dropped"] == {"no sequence": 107_927}
    assert data.info["counts"]["read"] == 525_461 == data.events + 107_927
    customers = data.sequence_column("token")
    assert customers is not None and customers[0] == "13085"
    assert data.info["variables"]["price"]["kind"] == "numeric"
