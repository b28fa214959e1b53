"""Formats of logs, the order of their rows, and rows that cannot be read."""

import pathlib

import duckdb
import pytest
from logs import UIT, accounts_for_every_row, prepared, sequences, write_parquet

from clickflax.data.store import open_dataset
from clickflax.preparation import main as module
from clickflax.preparation.engines import duckdb_engine as duck
from clickflax.preparation.main import prepare
from clickflax.preparation.options import Options, parse_columns


def test_a_large_file_keeps_its_order_with_many_threads(tmp_path):
    con = duckdb.connect()
    con.execute(
        "COPY (SELECT n % 3 AS u, n % 1009 AS i FROM range(400000) AS rows(n)) "
        f"TO '{tmp_path / 'log.csv'}' (HEADER)"
    )
    options = Options(columns=parse_columns("sequence=u,item=i"), threads=8)
    prepare("log", tmp_path / "log.csv", tmp_path / "out", options)
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


UI = Options(columns=parse_columns("sequence=u,item=i"))


def test_brackets_in_a_file_name_are_not_a_pattern(tmp_path):
    (tmp_path / "l[1].csv").write_text("u,i\n1,a\n1,b\n")
    (tmp_path / "l1.csv").write_text("u,i\n1,c\n1,d\n")
    prepare("log", tmp_path / "l[1].csv", tmp_path / "out", UI)
    assert sequences(open_dataset(tmp_path / "out")) == {"1": ["a", "b"]}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("folder", ["i=5", "c0=7", "~x", "file:x", "x:y", "a?b", "--help", "a'b"])
def test_the_name_of_a_folder_is_no_column_and_no_url(tmp_path, monkeypatch, folder, ending):
    monkeypatch.chdir(tmp_path)
    raw = pathlib.Path(folder, f"{folder}.{ending}")
    raw.parent.mkdir()
    if ending == "parquet":
        write_parquet(tmp_path / "log", "FROM (VALUES ('1', 'a'), ('1', 'b')) AS rows(u, i)")
        (tmp_path / "log").rename(raw)
    else:
        text = {"csv": "u,i\n1,a\n1,b\n", "jsonl": '{"u":1,"i":"a"}\n{"u":1,"i":"b"}\n'}
        raw.write_text(text[ending])
    prepare("log", raw, f"{folder} out", UI)
    assert sequences(open_dataset(f"{folder} out")) == {"1": ["a", "b"]}
    assert {path.name for path in tmp_path.iterdir()} == {folder, f"{folder} out"}


@pytest.mark.parametrize("name", ["~x.csv", "file:x.csv", "log.csv"])
def test_a_bad_row_of_a_relative_file_has_the_path_that_was_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    pathlib.Path(name).write_text("u,i\n1,a\n1,b,c\n1,b\n")
    with pytest.raises(ValueError, match=f"^{name}, line 3: "):
        prepare("log", name, "out", UI)


def test_a_data_set_is_not_written_where_duckdb_takes_a_backslash_for_a_slash(tmp_path):
    (tmp_path / "log.csv").write_text("u,i\n1,a\n1,b\n")
    with pytest.raises(ValueError, match=r"a\\b for a slash"):
        prepare("log", tmp_path / "log.csv", tmp_path / "a\\b", UI)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("second", ["i,u\nc,1\n", "1,c\n1,d\n"])
def test_files_of_a_folder_with_different_headers_are_an_error(tmp_path, second):
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.csv").write_text("u,i\n1,a\n1,b\n")
    (folder / "b.csv").write_text(second)
    with pytest.raises(ValueError, match=r"b\.csv begins with .*a\.csv with \['u', 'i'\]"):
        prepare("log", folder, tmp_path / "out", UI)


def test_parquet_files_of_different_types_are_an_error(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    write_parquet(folder / "a.parquet", "SELECT 1 AS u, 2::BIGINT AS i")
    write_parquet(folder / "b.parquet", "SELECT 1 AS u, 2.5::DOUBLE AS i")
    with pytest.raises(ValueError, match=r"'i' is int64 in .*a\.parquet and double in .*b\.parq"):
        prepare("log", folder, tmp_path / "out", UI)


def test_subfolders_are_an_error_unless_hidden(tmp_path):
    folder = tmp_path / "logs"
    (folder / "_old").mkdir(parents=True)
    (folder / "a.csv").write_text("u,i\n1,a\n1,b\n")
    prepare("log", folder, tmp_path / "out", UI)
    (folder / "day=2").mkdir()
    with pytest.raises(ValueError, match=r"has the subfolders \['day=2'\]"):
        prepare("log", folder, tmp_path / "two", UI)


@pytest.mark.parametrize("delimiter", [",", None])
def test_a_header_after_a_blank_line_is_an_error(tmp_path, delimiter):
    with pytest.raises(ValueError, match=r"log\.csv: line 1 is blank"):
        prepared(tmp_path, "\nu,i,t\n1,a,1\n1,b,2\n", delimiter=delimiter)


def test_megabytes_of_malformed_lines_lose_no_good_row(tmp_path):
    text = "u,i\n" + "1,a\n" * 3 + (("x" * 99_999 + "\n") * 25 + "1,b\n") * 5
    data = prepared(tmp_path, text, "sequence=u,item=i", on_bad_rows="skip")
    assert data.info["counts"]["read"] == 3 + 125 + 5
    assert data.events == 8


def test_too_many_malformed_lines_in_one_place_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(duck, "BUFFER_BYTES", 1 << 22)
    text = "u,i\n1,a\n1,b\n" + ("x" * 9_999 + "\n") * 500 + "1,b\n" * 9
    with pytest.raises(ValueError, match="is the delimiter or the quote right"):
        prepared(tmp_path, text, "sequence=u,item=i", on_bad_rows="skip")


def test_a_malformed_record_of_many_lines_is_one_bad_row(tmp_path):
    text = 'u,i,t\n1,a,1\n"k\nl"\n1,x\u2028y,z,2\n\n"p\n\nq",2,3,4\n1,b,soon\n1,c,3\n'
    data = prepared(tmp_path, text, on_bad_rows="skip")
    counts = data.info["counts"]
    assert (counts["read"], counts["kept"]) == (6, 2)
    assert counts["dropped"] == {"malformed line": 3, "time does not parse": 1}
    assert [row["line"] for row in counts["bad_rows"]] == [3, 5, 7, 10]


def test_lines_are_numbered_with_a_byte_order_mark_and_windows_line_endings(tmp_path):
    (tmp_path / "log.csv").write_bytes(
        b"\xef\xbb\xbfu,i,t\r\n1,a,1\r\n1,b\r\n\r\n1\r\n1,c,soon\r\n1,d,2\r\n"
    )
    options = Options(columns=parse_columns(UIT), on_bad_rows="skip")
    counts = prepare("log", tmp_path / "log.csv", tmp_path / "out", options)["counts"]
    assert [row["line"] for row in counts["bad_rows"]] == [3, 5, 6]
    assert (counts["read"], counts["kept"]) == (5, 2)


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


BAD = 'u,i,t\n1,a,1\n"two\nlines",b,2\n1,c,yesterday\n1,d,4\n2,e,soon\n'


def test_an_error_names_file_line_and_value_of_a_bad_time(tmp_path):
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
    with pytest.raises(ValueError, match=r"log\.csv, line 3: 2 fields, not 3 \('1,b'\)"):
        prepared(tmp_path, "u,i,t\n1,a,1\n1,b\n1,c,3\n")


def test_an_unclosed_quote_is_an_error_even_if_bad_rows_are_skipped(tmp_path):
    text = "u,i,t\n" + "1,a,1\n" * 9 + '1,"b,2\n' + "1,c,3\n" * 9
    for skip in ("error", "skip"):
        with pytest.raises(ValueError, match=r"log\.csv, line 11: a quote is opened.*--quote=none"):
            prepared(tmp_path, text, on_bad_rows=skip)
    data = prepared(tmp_path, text, quote="none")
    assert sequences(data)["1"][9] == '"b'
    assert data.events == 19


def test_mixed_line_endings_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="have different endings"):
        (tmp_path / "log.csv").write_bytes(b"u,i\n" + b"1,a\n" * 99 + b"1,b\r\n")
        options = Options(columns=parse_columns("sequence=u,item=i"))
        prepare("log", tmp_path / "log.csv", tmp_path / "out", options)


def test_windows_line_endings_are_read(tmp_path):
    assert sequences(prepared(tmp_path, "u,i,t\r\n1,a,1\r\n1,b,2\r\n")) == {"1": ["a", "b"]}


def test_malformed_json_is_an_error_with_its_line(tmp_path):
    text = '{"u": 1, "i": "a"}\n{"u": 1, "i"\n{"u": 1, "i": "b"}\n'
    columns = "sequence=u,item=i"
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: malformed JSON"):
        prepared(tmp_path, text, columns, "log.jsonl")
    data = prepared(tmp_path, text, columns, "log.jsonl", on_bad_rows="skip")
    assert data.info["counts"]["dropped"] == {"malformed JSON": 1}
    assert accounts_for_every_row(data)


def test_empty_lines_of_json_lines_are_not_rows_but_count_as_lines(tmp_path):
    text = '{"u": 1, "i": "a"}\n\n{"u": 1, "i": "b"}\n{"u": 1\n\n'
    with pytest.raises(ValueError, match=r"log\.jsonl, line 4: malformed JSON"):
        prepared(tmp_path, text, "sequence=u,item=i", "log.jsonl")
    data = prepared(tmp_path, text[:39] + "\n\n", "sequence=u,item=i", "log.jsonl")
    assert data.info["counts"]["read"] == 2


def test_a_number_that_does_not_parse_is_a_bad_row(tmp_path):
    text = "u,i,t,p\n1,a,1,3\n1,b,2,cheap\n1,c,3,inf\n1,c,3,1e39\n1,d,4,\n"
    columns = UIT + ",price=p:numeric"
    with pytest.raises(ValueError, match=r"line 3: price is not a number \('cheap'\)"):
        prepared(tmp_path, text, columns)
    data = prepared(tmp_path, text, columns, on_bad_rows="skip")
    assert data.info["counts"]["dropped"] == {"price is not a number": 3}
