"""Options and flags of `clickflax prepare`: parsing and invalid values."""

import argparse
import sys

import pytest

from clickflax.data.durations import parse_gap
from clickflax.preparation.engines.open import open_engine
from clickflax.preparation.options import Options, add_flags, from_flags, parse_columns


@pytest.mark.parametrize(
    "text, message",
    [
        ("sequence=u,item", "'item' is not NAME=COLUMN"),
        ("sequence=u,time=t", "needs item=COLUMN"),
        ("sequence=u,item=i,item=j", "item appears twice"),
        ("sequence=u,item=i,Item=j", "item appears twice"),
        ("sequence=u,item=i:numeric", "item takes no kind"),
        ("sequence=u,item=i,_row=r", "'_row=r' is not NAME=COLUMN"),
    ],
)
def test_invalid_columns_are_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_columns(text)


def test_delimiters_have_one_character_and_separators_at_least_one():
    with pytest.raises(ValueError, match="--delimiter='::' is not one character"):
        Options(delimiter="::")
    with pytest.raises(ValueError, match="--separator is empty"):
        Options(separator="")
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert from_flags(parser.parse_args(["--delimiter", r"\t"])).delimiter == "\t"


def test_invalid_options_are_an_error():
    with pytest.raises(ValueError, match="--max-length=2 is below .* 3"):
        Options(max_length=2, k_core=3)
    with pytest.raises(ValueError, match="--k-core=0 must be at least 1"):
        Options(k_core=0)
    with pytest.raises(ValueError, match="--session-gap=30 is not a time such as 90s, 30m"):
        parse_gap("--session-gap", "30")


def test_without_spark_the_error_names_what_to_install(tmp_path, monkeypatch):
    for name in (
        "clickflax.preparation.engines.spark_engine",
        "clickflax.preparation.engines.spark_session",
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ["pyspark", *(name for name in sys.modules if name.startswith("pyspark."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"pip install 'clickflax\[spark\]', and Java 17"):
        with open_engine(tmp_path, Options(engine="pyspark")):
            pass
