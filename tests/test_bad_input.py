"""Errors of `clickflax prepare`: one sentence, and no files left behind."""

import pathlib
import subprocess
import sys

import pytest
from logs import ONE, UIT, prepared

from clickflax.preparation.main import prepare
from clickflax.preparation.options import Options, parse_columns


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
        ("u,i,t\n,a,1\n,b,1\n", {}, r"none of the 2 rows is an event: \{'no sequence': 2\}"),
        (ONE, {"name": "log.jsonl", "quote": "none"}, "--quote apply to text, not to .*log.jsonl"),
        (ONE, {"name": "log.xls"}, r"ends in '\.xls'; a log ends in one of \['\.csv'"),
        (
            ONE,
            {"attributes": pathlib.Path("x")},
            r"--attributes applies to the sources \['sequences'\]",
        ),
    ],
)
def test_invalid_input_is_an_error_with_its_reason(tmp_path, text, changes, message):
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, text, **changes)
    assert not (tmp_path / "out").exists()


def test_missing_files_and_unknown_sources_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv does not exist"):
        prepare("log", tmp_path / "nowhere.csv", tmp_path / "out", Options(parse_columns(UIT)))
    with pytest.raises(ValueError, match=r"'movielens' is not one of \['log', 'ml-100k'"):
        prepare("movielens", tmp_path, tmp_path / "out")
    (tmp_path / "log.csv").write_text(ONE)
    with pytest.raises(ValueError, match=r"needs --columns .* \['u', 'i', 't'\]"):
        prepare("log", tmp_path / "log.csv", tmp_path / "out")


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from clickflax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
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
