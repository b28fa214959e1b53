"""Files of labels: values are read as they are written, and errors have the file and the line."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickflax.data.splits.label_files import read_label_file
from clickflax.inference.recommend import read_users


def rows_of(tmp_path, text, name="a.csv"):
    """The rows of a file, without their locations, and whether they have weights."""
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    rows, weighted = read_label_file(str(tmp_path / name))
    return [row[1:] for row in rows], weighted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sequence,label\n007,1\nu2,0.5\n", [("007", 1, None, None), ("u2", 0.5, None, None)]),
        ("label;sequence\r\n1;u1\r\n\r\n", [("u1", 1, None, None)]),
        ('sequence\tlabel\n"a\n b"\t-2e3\n', [("a\n b", -2000, None, None)]),
        ("sequence,label,event\nu,1,2.0\nv,,3\nw,0,\n", [("u", 1, 2, None), ("w", 0, None, None)]),
        ("\ufeffsequence,label,weight,more\nu,1,.5,x", [("u", 1, None, 0.5)]),
    ],
)
def test_a_file_of_labels_is_read_as_it_is_written(tmp_path, text, expected):
    assert rows_of(tmp_path, text)[0] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sequence,label\nu,no\n",
            r"line 2: the label 'no' is not a number \(a yes is 1, a no 0\)",
        ),
        ("sequence,label\nu,1\nv,true\n", "line 3: the label 'true' is not a number"),
        ("sequence;label\nu;1,5\n", "line 2: the label '1,5' .* Write a decimal point"),
        ("sequence,label\nu,1,5\n", "line 2 has 3 values for 2 columns"),
        ("sequence,label\nu,nan\n", "line 2: the label 'nan' is not a number"),
        ("sequence,label\nu,1e999\n", "line 2: the label '1e999' is not a number"),
        ("sequence,label,event\nu,1,1.7\n", "line 2: the event '1.7' is not a whole number"),
        ("sequence,label,event\nu,1,-1\n", "line 2: the event '-1' is not a whole number"),
        (b"sequence,label\ncaf\xe9,1\n", "line 2: not UTF-8"),
        ("sequence,label\nu,1\n\nv,1\n", "line 3 is blank"),
        ("sequence,label\nu\n", "line 2 has 1 values for 2 columns"),
        ("sequence,label\n,1\n", "line 2: a label without a sequence"),
        ('sequence,label\n"a\nb",1\nu,x\n', "line 4: the label 'x'"),
        ("user,label\nu,1\n", r"has the columns \['label', 'user'\], not sequence and label"),
        ("sequence,label,label\nu,1,1\n", "has two columns 'label'"),
        ("", "not sequence and label"),
    ],
)
def test_another_value_is_an_error_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"a.csv[ ,].*{message}"):
        rows_of(tmp_path, text)


def test_parquet_has_numbers_or_text(tmp_path):
    path = tmp_path / "a.parquet"

    def rows(**columns):
        pq.write_table(pa.table(columns), path)
        return [row[1:] for row in read_label_file(str(path))[0]]

    expected = [("1", 1, 2, None)]
    assert rows(sequence=[1, 2], label=[True, None], event=[2.0, 1.0]) == expected
    assert rows(sequence=["1"], label=["1.0"], event=[2]) == expected
    with pytest.raises(ValueError, match="a.parquet, row 2: the event '1.5' is not a whole number"):
        rows(sequence=["u", "v"], label=[1, 0], event=[1, 1.5])
    with pytest.raises(ValueError, match=r"a.parquet, row 1: the label \[1\] is not text or a num"):
        rows(sequence=["u"], label=[[1]])


def test_a_file_of_users_is_utf_8_with_one_a_line(tmp_path):
    path = tmp_path / "users.txt"
    path.write_bytes("\ufeffu 1\r\n\nu\u20282\nu3".encode())
    assert read_users(str(path)) == ["u 1", "u\u20282", "u3"]
    path.write_bytes(b"u1\ncaf\xe9\n")
    with pytest.raises(ValueError, match="users.txt, line 2: not UTF-8"):
        read_users(str(path))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 60), cut=st.integers(0, 9), put=st.binary(max_size=4))
def test_a_mutated_file_of_labels_is_read_or_named(tmp_path, start, cut, put):
    whole = b'sequence,label,event,weight\n"u1",1,0,1\nu2,0.5,,2.5\n'
    path = pathlib.Path(tmp_path, "a.csv")
    path.write_bytes(whole[:start] + put + whole[start + cut :])
    for reader in (read_label_file, read_users):
        try:
            reader(str(path))
        except ValueError as error:
            assert str(path) in str(error)
