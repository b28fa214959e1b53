"""A source in a file outside the package: it registers itself, and `clickflax prepare` finds it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from extensions import my_source
from logs import SECOND, sequences

from clickflax import cli
from clickflax.data.store import open_dataset
from clickflax.preparation.main import prepare
from clickflax.preparation.options import Options
from clickflax.preparation.sources import SOURCES

SHOP = {
    "sessions": [
        {
            "id": "s2",
            "events": [
                {"product": "mug", "time": 30, "price": 9.5},
                {"product": "lamp", "time": 10, "price": 40},
                {"product": "tent", "time": 30},
            ],
        },
        {"id": "s1", "events": [{"product": "lamp", "time": 5, "price": 38}]},
    ],
    "products": {"lamp": "Red lamp", "tent": "Blue tent", "sofa": "Grey sofa"},
}


def write_shop(tmp_path, shop=SHOP):
    path = tmp_path / "shop.json"
    path.write_text(json.dumps(shop))
    return path


def test_every_event_of_the_file_comes_out_in_order_with_its_variables_and_features(tmp_path):
    assert SOURCES["my-shop"].read is my_source.read_my_shop
    prepare("my-shop", write_shop(tmp_path), tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    # Mug and tent have the same time: they keep the order of the file.
    assert list(sequences(data).items()) == [("s2", ["lamp", "mug", "tent"]), ("s1", ["lamp"])]
    assert data.columns["time"].tolist() == [s * SECOND for s in (10, 30, 30, 5)]
    np.testing.assert_array_equal(data.columns["price"], [40, 9.5, np.nan, 38])
    assert data.vocabulary("item").tokens() == ["lamp", "mug", "tent"]
    assert data.vocabulary("item").column("title") == ["Red lamp", None, "Blue tent"]
    assert data.info["source"] == "my-shop"
    assert data.info["counts"]["read"] == 4
    assert data.info["counts"]["same_time"] == 2


def test_a_bad_event_is_named_by_its_number(tmp_path):
    shop = json.loads(json.dumps(SHOP))
    shop["sessions"][0]["events"][2]["time"] = None
    path = write_shop(tmp_path, shop)
    with pytest.raises(ValueError, match=r"shop\.json, line 3: no time"):
        prepare("my-shop", path, tmp_path / "out")
    prepare("my-shop", path, tmp_path / "out", Options(on_bad_rows="skip"))
    assert sequences(open_dataset(tmp_path / "out"))["s2"] == ["lamp", "mug"]


def test_the_options_of_other_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--delimiter applies to the sources .*, not to my-shop"):
        prepare("my-shop", write_shop(tmp_path), tmp_path / "out", Options(delimiter=";"))


def test_the_command_line_loads_the_file_and_lists_its_source(tmp_path):
    command = [sys.executable, "-m", "clickflax.cli", "prepare", "my-shop"]
    command += ["--extension", my_source.__file__]
    listed = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "  my-shop    JSON file of sessions and products\n" in listed.stdout
    command += ["--raw", str(write_shop(tmp_path)), "--out", str(tmp_path / "out")]
    subprocess.run(command, capture_output=True, check=True)
    assert open_dataset(tmp_path / "out").events == 4


@pytest.mark.parametrize(
    "name, message",
    [("absent.py", "absent.py does not exist"), ("shop.json", "shop.json is not a Python file")],
)
def test_an_extension_that_is_not_a_python_file_is_an_error(tmp_path, capsys, name, message):
    flags = ["--raw", str(write_shop(tmp_path)), "--out", str(tmp_path / "out")]
    assert cli.main(["prepare", "my-shop", *flags, "--extension", str(tmp_path / name)]) == 1
    assert f"error: --extension={tmp_path / name}" in (err := capsys.readouterr().err)
    assert message in err
