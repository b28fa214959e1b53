"""Kinds of input that are read wrong elsewhere: each is read right here, or refused in words."""

import csv
import datetime
import decimal
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from logs import UIT, accounts_for_every_row, prepared, sequences

from clickflax.data.store import open_dataset
from clickflax.preparation.main import main, prepare
from clickflax.preparation.options import ColumnOption, Options, parse_columns
from clickflax.preparation.text_files import find_delimiter

UI = parse_columns("sequence=u,item=i")
few = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tokens_of(path, tmp_path, columns=UI):
    """The tokens of the sequences and of the items of a log."""
    prepare("log", path, tmp_path / "out", Options(columns=columns), overwrite=True)
    data = open_dataset(tmp_path / "out")
    return sorted(data.sequence_column("token") or []), sorted(data.vocabulary("item").tokens())


@settings(few, max_examples=1)
@given(numbers=st.lists(st.integers(0, 10**17), min_size=2, max_size=5, unique=True))
@example(numbers=[1234567890123456, 1234567890123457])
def test_a_whole_number_is_the_same_token_in_every_format_and_type(tmp_path, numbers):
    rows = [(number, number + 1) for number in numbers]
    columns = [list(column) for column in zip(*rows, strict=True)]
    expected = tuple(sorted({str(value) for value in column}) for column in columns)
    types = [pa.int64(), pa.string(), pa.decimal128(38, 0), pa.decimal128(38, 10)]
    if max(columns[1]) < 1 << 53:
        types.append(pa.float64())
    for type in types:
        made = decimal.Decimal if pa.types.is_decimal(type) else str if type == "string" else int
        arrays = [pa.array([made(v) for v in column], pa.int64() if made is int else type)
                  for column in columns]  # fmt: skip
        path = tmp_path / "log.parquet"
        pq.write_table(pa.table([array.cast(type) for array in arrays], ["u", "i"]), path)
        assert tokens_of(path, tmp_path) == expected, type
    for end in ("", ".0"):
        (tmp_path / "log.csv").write_text(
            "u,i\n" + "".join(f"{u}{end},{i}{end}\n" for u, i in rows)
        )
        assert tokens_of(tmp_path / "log.csv", tmp_path) == expected, end
    (tmp_path / "log.jsonl").write_text("".join(f'{{"u": {u}, "i": "{i}"}}\n' for u, i in rows))
    assert tokens_of(tmp_path / "log.jsonl", tmp_path) == expected


def test_integers_of_json_beyond_64_bits_are_exact(tmp_path):
    big = 123456789012345678901234567890
    (tmp_path / "log.jsonl").write_text(f'{{"u": 1, "i": {big}}}\n{{"u": 1, "i": {big + 1}}}\n')
    assert tokens_of(tmp_path / "log.jsonl", tmp_path)[1] == [str(big), str(big + 1)]


def test_text_with_fractions_keeps_them_unless_every_value_has_one(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("u,i\n1.0,1.0\n1.0,2.5\n2.0,3\n")
    flags = ["--raw", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out")]
    main(["log", *flags, "--columns", "sequence=u,item=i"])
    assert sequences(open_dataset(tmp_path / "out")) == {"1": ["1.0", "2.5"], "2": ["3"]}
    out = capsys.readouterr().out
    assert "warning: every sequence is written with a fraction" in out and "every item" not in out


names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r\n"), min_size=1, max_size=8
)


@settings(few, max_examples=2)
@given(names=st.lists(names, min_size=3, max_size=3, unique=True), delimiter=st.sampled_from(",;|"))
@example(names=["item", "Item", "ITEM"], delimiter=",")
@example(names=['a"b', "a,b", "'"], delimiter=";")
@example(names=["user id", "item id", "event time"], delimiter=",")
def test_columns_of_any_name_are_read_in_every_format(tmp_path, names, delimiter):
    user, item, extra = names
    rows = [{user: "u1", item: f"i{k}", extra: f"x{k}"} for k in range(3)]
    columns = tuple(map(ColumnOption, ("sequence", "item", "extra"), names))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (tmp_path / "log.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    for name in ("log.csv", "log.jsonl", "log.parquet"):
        options = Options(columns=columns, delimiter=delimiter if name == "log.csv" else None)
        prepare("log", tmp_path / name, tmp_path / "out", options, overwrite=True)
        data = open_dataset(tmp_path / "out")
        assert sequences(data) == {"u1": ["i0", "i1", "i2"]}, name
        assert sequences(data, "extra") == {"u1": ["x0", "x1", "x2"]}, name


def test_files_whose_columns_differ_in_case_must_have_one_order(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    pq.write_table(pa.table({"I": ["z"], "u": ["a"], "i": ["p"]}), folder / "0.parquet")
    pq.write_table(pa.table({"i": ["q"], "I": ["w"], "u": ["b"]}), folder / "1.parquet")
    with pytest.raises(ValueError, match=r"1\.parquet: the columns \['I', 'i'\].*same order"):
        prepare("log", folder, tmp_path / "out", Options(columns=UI))
    pq.write_table(pa.table({"I": ["w"], "u": ["b"], "i": ["q"]}), folder / "1.parquet")
    assert tokens_of(folder, tmp_path) == (["a", "b"], ["p", "q"])


@few
@given(late=st.integers(0, 2000))
@example(late=1500)
def test_a_key_of_json_is_found_wherever_it_first_stands(tmp_path, late):
    lines = [
        json.dumps({"u": 1, "i": n % 5} | ({"a": "x"} if n == late else {})) for n in range(2001)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    columns = parse_columns("sequence=u,item=i,a=a")
    prepare("log", tmp_path / "log.jsonl", tmp_path / "out", Options(columns=columns), True)
    data = open_dataset(tmp_path / "out")
    assert data.vocabulary("a").tokens() == ["x"]
    assert int((data.columns["a"] == 6).sum()) == 1


def test_a_file_of_a_folder_that_lacks_a_column_is_named(tmp_path):
    folder = tmp_path / "items"
    folder.mkdir()
    pq.write_table(pa.table({"i": ["a"], "title": ["A"]}), folder / "0.parquet")
    pq.write_table(pa.table({"i": ["b"], "title": ["B"], "brand": ["R"]}), folder / "1.parquet")
    (tmp_path / "log.csv").write_text("u,i\n1,a\n1,b\n")
    with pytest.raises(ValueError, match=r"0\.parquet has no column 'brand', which .*1\.parquet"):
        options = Options(columns=UI, items=folder)
        prepare("log", tmp_path / "log.csv", tmp_path / "out", options)


@few
@given(
    moments=st.lists(
        st.datetimes(
            min_value=datetime.datetime(1950, 1, 1),
            max_value=datetime.datetime(2099, 12, 31),
        ),
        min_size=3,
        max_size=6,
    ),
    pattern=st.sampled_from(["%Y", "%Y%m", "%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"]),
)
def test_digits_that_are_dates_are_refused_with_both_readings(tmp_path, moments, pattern):
    text = "u,i,t\n" + "".join(f"1,{k},{m.strftime(pattern)}\n" for k, m in enumerate(moments))
    with pytest.raises(ValueError, match=r"dates such as %Y.* since 1970\? Say which") as caught:
        prepared(tmp_path, text)
    assert f"--time-format={pattern} " in str(caught.value)
    data = prepared(tmp_path, text, time_format=pattern)
    assert data.info["counts"]["first_time"][:4] == str(min(m.year for m in moments))


def test_days_of_a_spreadsheet_are_refused(tmp_path):
    with pytest.raises(ValueError, match="from 45290.5 to 45292: days since 1900 or 1970, or sec"):
        prepared(tmp_path, "u,i,t\n1,a,45290.5\n1,b,45291.25\n1,c,45292\n")


@few
@given(seconds=st.lists(st.integers(946_684_800, 2_000_000_000), min_size=2, max_size=9))
def test_seconds_of_this_century_are_seconds(tmp_path, seconds):
    text = "u,i,t\n" + "".join(f"1,{k},{second}\n" for k, second in enumerate(seconds))
    data = prepared(tmp_path, text)
    assert sorted(second * 10**6 for second in seconds) == data.columns["time"].tolist()
    assert data.info["counts"]["read_as"][1] == "times: seconds since 1970"


def test_one_time_of_another_unit_among_thousands_is_noticed(tmp_path):
    text = "u,i,t\n" + "".join(f"1,{n},{1_700_000_000_000 + n}\n" for n in range(3000))
    with pytest.raises(ValueError, match="unit could be seconds or milliseconds"):
        prepared(tmp_path, text + "1,x,1700000000\n")


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [("user id,item id", ","), ("a b\tc", "\t"), ("a;b c", ";"), ("a b", " "), ("a", ","),
     ('"a,b";c', ";"), ("1,The Blue, Old;x", ",")],
)  # fmt: skip
def test_a_space_separates_only_where_nothing_else_does(tmp_path, line, delimiter):
    (tmp_path / "log.csv").write_text(line + "\n")
    assert find_delimiter(tmp_path / "log.csv", '"') == delimiter


def test_two_delimiters_that_fit_all_rows_alike_are_refused(tmp_path):
    (tmp_path / "log.csv").write_text("a;b,c\n1;2,3\n")
    with pytest.raises(ValueError, match="line 1: ',' or ';' could separate .*--delimiter"):
        find_delimiter(tmp_path / "log.csv", '"')


def test_columns_without_a_name_are_not_read_and_equal_names_are_refused(tmp_path):
    columns = parse_columns("sequence=u,item=i")
    for text in (",u,i\n0,1,a\n1,1,b\n", "u,i,\n1,a,\n1,b,\n"):
        data = prepared(tmp_path, text, "sequence=u,item=i")
        assert sequences(data) == {"1": ["a", "b"]}
        assert data.info["counts"]["left_out"] == []
    (tmp_path / "twice.csv").write_text("u,i,i\n1,a,b\n")
    with pytest.raises(ValueError, match="twice.csv, line 1: 'i' appears twice in the header"):
        prepare("log", tmp_path / "twice.csv", tmp_path / "out", Options(columns=columns), True)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('[{"u": 1}]', "an array, not an object"),
        ("3", "not a JSON object"),
        ("{'u': 1}", "malformed JSON"),
        ('{"u": 1, "u": 2, "i": 3}', "a key appears twice"),
        ('{"u": 1, "i": [1]}', "'i' is an object or an array"),
        ('{"u": {}, "i": 1}', "'u' is an object or an array"),
        ('{"u": 1, "i": Infinity}', "'i' is infinite"),
        ("[" * 2000, "malformed JSON"),
    ],
)
def test_json_that_is_no_event_is_a_bad_row_with_its_reason(tmp_path, line, reason):
    text = f'{{"u": 1, "i": "a"}}\n{{"u": 1, "i": "b"}}\n{line}\n'
    with pytest.raises(ValueError, match=rf"log\.jsonl, line 3: ({reason})"):
        prepared(tmp_path, text, "sequence=u,item=i", "log.jsonl")
    data = prepared(tmp_path, text, "sequence=u,item=i", "log.jsonl", on_bad_rows="skip")
    assert data.events == 2 and accounts_for_every_row(data)


@pytest.mark.parametrize(
    ("array", "type"),
    [(pa.array([[1], [2]]), "array<int64>"), (pa.array([{"a": 1}, {"a": 2}]), "struct"),
     (pa.array([b"a", b"b"]), "binary")],
)  # fmt: skip
def test_columns_that_cannot_be_tokens_are_refused_with_their_type(tmp_path, array, type):
    pq.write_table(pa.table({"u": ["x", "x"], "i": array}), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=f"item has values of the type {type}"):
        prepare("log", tmp_path / "log.parquet", tmp_path / "out", Options(columns=UI))


def test_nan_and_infinity_of_parquet_are_no_tokens_and_counted(tmp_path):
    items = [1.0, float("nan"), float("inf"), 2.0]
    pq.write_table(pa.table({"u": ["x"] * 4, "i": items}), tmp_path / "log.parquet")
    prepare("log", tmp_path / "log.parquet", tmp_path / "out", Options(columns=UI))
    data = open_dataset(tmp_path / "out")
    assert sequences(data) == {"x": ["1", "2"]}
    assert data.info["counts"]["dropped"] == {"no item": 2}


@pytest.mark.parametrize("word", ["NULL", "\\N", "nan", "None"])
def test_a_word_for_missing_values_is_warned_of_and_can_be_named(tmp_path, word):
    text = f"u,i,t\n1,{word},1\n1,{word},2\n1,a,3\n1,b,4\n"
    data = prepared(tmp_path, text)
    assert f"--missing={word}" in data.info["counts"]["warnings"][0]
    data = prepared(tmp_path, text, missing=(word,))
    assert data.info["counts"]["dropped"] == {"no item": 2}
    assert data.info["counts"]["warnings"] == []


def test_features_that_no_item_has_are_warned_of(tmp_path):
    (tmp_path / "items.csv").write_text("i,title\n10,A\n")
    data = prepared(tmp_path, "u,i,t\n1,x10,1\n1,x11,2\n", items=tmp_path / "items.csv")
    assert data.info["counts"]["warnings"] == [
        "no item of the log has features: the log has items such as 'x10', the features are of "
        "items such as '10'."
    ]


FEATURES = {
    "ml-1m": ("movies.dat", "users.dat"),
    "ml-100k": ("u.item", "u.user", "u.genre"),
    "recbole": ("x.item", "x.user"),
}
FILES = {
    "ratings.dat": "1::1::5::978300760\n1::2::3::978302109\n",
    "movies.dat": "1::Alien (1979)::Horror\n2::B::Drama\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    "u.data": "1\t1\t5\t881250949\n1\t2\t3\t881250950\n",
    "u.item": "1|A (1995)|01-Jan-1995||u|0|1\n2|C|x||u|1|0\n",
    "u.genre": "unknown|0\nAction|1\n",
    "u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
    "x.inter": "user_id:token\titem_id:token\nu1\ti1\nu1\ti2\n",
    "x.item": "item_id:token\tprice:float\ni1\t9.5\ni2\t1\n",
    "x.user": "user_id:token\tage:token\nu1\t24\nu2\t7\n",
}


@pytest.mark.parametrize(
    ("source", "file"), [(source, file) for source, files in FEATURES.items() for file in files]
)
def test_a_feature_file_with_a_row_twice_or_of_another_width_says_where(tmp_path, source, file):
    for name, text in FILES.items():
        if name.startswith("x.") == (source == "recbole"):
            (tmp_path / name).write_text(text)
    lines = FILES[file].splitlines()
    prepare(source, tmp_path, tmp_path / "out")
    (tmp_path / file).write_text("\n".join([*lines, lines[-1]]))
    with pytest.raises(ValueError, match=rf"{file}, line {len(lines) + 1}: .* appears twice"):
        prepare(source, tmp_path, tmp_path / "out", overwrite=True)
    (tmp_path / file).write_text("\n".join([*lines, "just-one-field"]))
    with pytest.raises(ValueError, match=rf"{file}, line {len(lines) + 1}: 1 field, not \d"):
        prepare(source, tmp_path, tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("part", ["0.csv.gz", "1.csv.gz", "2.csv.gz"])
def test_the_broken_part_of_a_folder_is_named(tmp_path, part):
    folder = tmp_path / "log"
    folder.mkdir()
    whole = gzip.compress(b"u,i\n" + b"1,a\n1,b\n" * 1000)
    for k in range(3):
        (folder / f"{k}.csv.gz").write_bytes(whole)
    for broken in (b"u,i\n1,a\n", whole[:-20], whole[:30] + b"\xff\xff" + whole[32:]):
        (folder / part).write_bytes(broken)
        with pytest.raises(ValueError, match=f"{part}"):
            prepare("log", folder, tmp_path / "out", Options(columns=UI))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("log.csv", b"\x1f\x8b\x08\x00", "is gzip: give it a name that ends in .gz"),
        ("log.csv", b"PK\x03\x04", "is a ZIP archive or a spreadsheet"),
        ("log.csv", "u,i\n1,a\n".encode("utf-16"), "is UTF-16: convert it"),
        ("log.jsonl", b"PAR1 ", "is Parquet: give it a name that ends in .parquet"),
        ("log.csv.zip", b"PK\x03\x04", "is packed: unpack it"),
        ("log.csv.GZ", b"", "is packed: unpack it"),
        ("log.parquet.gz", b"", "is packed: unpack it"),
        ("log.csv", b"u,caf\xe9\n1,a\n", "line 1: its character 6 is not utf-8-sig"),
    ],
)
def test_files_of_another_kind_than_their_name_are_refused_in_words(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        prepare("log", tmp_path / name, tmp_path / "out", Options(columns=UI))


@pytest.mark.parametrize("name", ["log.CSV", "log.csv.zst", "log.TSV", "log.Jsonl"])
def test_suffixes_in_upper_case_and_packed_logs_are_read(tmp_path, name):
    text = '{"u": 1, "i": "a"}\n{"u": 1, "i": "b"}\n' if "Json" in name else "u\ti\n1\ta\n1\tb\n"
    data = text.encode()
    (tmp_path / name).write_bytes(
        pa.compress(data, codec="zstd", asbytes=True) if name.endswith("zst") else data
    )
    prepare("log", tmp_path / name, tmp_path / "out", Options(columns=UI))
    assert sequences(open_dataset(tmp_path / "out")) == {"1": ["a", "b"]}


def test_a_blank_first_line_is_refused_by_every_source_with_a_header(tmp_path):
    (tmp_path / "x.inter").write_text("\nuser_id:token\titem_id:token\n1\t2\n1\t3\n")
    with pytest.raises(ValueError, match="x.inter: line 1 is blank"):
        prepare("recbole", tmp_path, tmp_path / "out")


def test_a_line_of_a_sequence_without_items_is_an_error_with_its_line(tmp_path):
    (tmp_path / "s.csv").write_text("u1 i1\nu1,i1,i2\n")
    with pytest.raises(ValueError, match=r"s\.csv, line 2: the sequence 'u1,i1,i2' has no item"):
        prepare("sequences", tmp_path / "s.csv", tmp_path / "out")


def test_what_was_found_is_printed(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("u;i;t\n1;a;1700000000\n1;b;1700000001\n")
    flags = ["--raw", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out"), "--columns", UIT]
    main(["log", *flags])
    assert (
        "read as 1 file of text with a header, its fields separated by ';'; times: seconds since "
        "1970" in capsys.readouterr().out
    )
