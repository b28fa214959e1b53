"""Schemas of JSON files: what fits, and what the message about the rest says."""

import ast
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clickflax
from clickflax.runtime.files import json_lines, read_json, read_parquet, text_lines
from clickflax.runtime.schema import FILE_NAME, RELATIVE_PATH, check_schema

SHAPE = {"format": str, "variables": {FILE_NAME: {"kind": {"a", "b"}, "size?": range(1, 10)}}}
FITS = {"format": "x", "variables": {"item": {"kind": "a", "size": 9}, "time": {"kind": "b"}}}


def with_item(**values):
    """A value of SHAPE in which the item has other entries."""
    return FITS | {"variables": {"item": {"kind": "a"} | values}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (FITS, SHAPE),
        ([1, 2.5, -1.0], [float]),
        ({"a": None, "z": [1]}, {"a": (None, str), str: object}),
        ({"a": [{"b": True}]}, {"a": (None, [{"b": bool}])}),
        ({"a/b": 1}, {RELATIVE_PATH: int}),
    ],
)
def test_a_value_of_its_schema_passes(value, schema):
    check_schema("a.json", value, schema)


@pytest.mark.parametrize(
    ("value", "schema", "message"),
    [
        (
            with_item(size=True),
            SHAPE,
            "variables.item.size is True, not a whole number from 1 to 9",
        ),
        (with_item(size=10), SHAPE, "variables.item.size is 10, not"),
        (with_item(kind="c"), SHAPE, "variables.item.kind is 'c', not one of ['a', 'b']"),
        ({"format": "x"}, SHAPE, "a.json: variables is missing"),
        ({**FITS, "more": 1}, SHAPE, "more is not one of the keys ['format', 'variables']"),
        ([], SHAPE, "a.json: its content is [], not an object"),
        ([0, 1.0], [int], "[1] is 1.0, not a whole number"),
        ([2**63], [int], "not a whole number"),
        ([float("nan")], [float], "[0] is nan, not a number"),
        ([10**400], [float], "not a number"),
        (["1"], [float], "[0] is '1', not a number"),
        ({"a": {"b": [1, "x"]}}, {"a": (None, {"b": [int]})}, "a.b[1] is 'x', not a whole number"),
        ({"a": 3}, {"a": (None, str)}, "a is 3, not null or text"),
        ("\ud800", str, "not text"),
        ("x" * 9999, int, "xxx...xxx"),
    ],
)
def test_another_value_is_an_error_with_its_place_and_the_way_out(value, schema, message):
    with pytest.raises(ValueError) as error:
        check_schema("a.json", value, schema)
    assert message in str(error.value)
    assert "Restore it from a backup" in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["../x", "/x", "", "..", "a/b", "a\0b", "\ud800", "x" * 300])
def test_a_name_that_leads_out_of_its_folder_is_refused(name):
    with pytest.raises(ValueError, match="which is not the name of a file"):
        check_schema("a.json", {name: 1}, {FILE_NAME: int})


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", "a\0b"])
def test_a_path_that_leads_out_of_its_folder_is_refused(path):
    with pytest.raises(ValueError, match="which is not the path of a file below the folder"):
        check_schema("a.json", {path: 1}, {RELATIVE_PATH: int})


@given(value=JSON)
def test_any_value_passes_or_is_a_value_error_with_the_file(value):
    for schema in (SHAPE, [SHAPE], {str: (None, [float], {"a?": int})}, (str, range(3))):
        try:
            check_schema("a.json", value, schema)
        except ValueError as error:
            assert str(error).startswith("a.json: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 2000 + b"]" * 2000, "brackets in brackets|maximum recursion"),
        (b"[" * 101 + b"]" * 101, "more than 100 brackets in brackets"),
        (b"1" * 5000, "cannot be read: Exceeds the limit"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b"", "is not valid JSON"),
        (b"[1, 2", "is not valid JSON"),
        (b'["1"]', r"\[0\] is '1', not a whole number"),
    ],
)
def test_a_json_file_with_other_contents_is_named(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=f"a.json.*({message})"):
        read_json(tmp_path / "a.json", [int])


def test_a_line_of_another_shape_is_named_and_an_incomplete_one_is_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [value["step"] for _, value in json_lines(path, {"step": int})] == [1, 2]
    path.write_text('{"step": 1}\n[]\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: its content is \[\], not an object"):
        list(json_lines(path, {"step": int}))
    path.write_bytes(b'{"step": 1}\n\xff\n')
    with pytest.raises(ValueError, match="a.jsonl, line 2: not UTF-8"):
        list(text_lines(path))


def test_columns_of_another_type_or_without_a_value_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"token": ["a", None], "count": [1, 2]}), path)
    assert read_parquet(path, {"count": "integers"})["count"].to_pylist() == [1, 2]
    for types, message in (
        ({"token": "text"}, "a.parquet, row 2: there is no 'token'"),
        ({"count": "text"}, "a.parquet: the column 'count' is int64, not text"),
        ({"more": None}, r"a.parquet has the columns \['token', 'count'\], not one 'more'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_parquet(path, types)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="a.parquet cannot be read"):
        read_parquet(path, {})


def test_every_reader_of_a_json_file_says_what_shape_it_has():
    for path in pathlib.Path(clickflax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "read_json":
                assert len(node.args) == 2, f"{path}:{node.lineno}"


@given(value=JSON)
def test_json_that_python_writes_is_read_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert repr(read_json(path, object)) == repr(value)
