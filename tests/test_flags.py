"""The flags of a verb with a config."""

import pathlib

import pytest

from clickflax.config.default import default, knobs
from clickflax.training.loop import parse_train_flags

QUICKSTART = pathlib.Path(__file__).resolve().parents[1] / "configs" / "quickstart.py"


def test_train_flags_may_be_written_with_or_without_equals():
    path = str(QUICKSTART)
    one, folder = parse_train_flags(
        [f"--config={path}", "--workdir=runs/a", "--config.train.steps=5", "--config.seed=-1"]
    )
    two, other = parse_train_flags(
        ["--config.train.steps", "5", "--workdir", "runs/a", "--config.seed", "-1"]
        + ["--config", path]
    )
    assert one == two and one.train.steps == 5 and one.seed == -1
    assert folder.workdir == other.workdir == "runs/a" and folder.processes == ""


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ([], "--config, --workdir"),
        (["--config=a.py", "--workdir=b", "--worker=2"], "--worker=2 is not a flag"),
        (["--config=a.py", "--workdir=b", "extra"], "extra is not a flag"),
        (["--config=a.py", "--workdir=b", "--config.seed"], "--config.seed needs a value"),
    ],
)
def test_wrong_train_flags_end_with_status_2(flags, error, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_train_flags(flags)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and error in err


def test_the_help_of_train_lists_every_knob(capsys):
    with pytest.raises(SystemExit):
        parse_train_flags(["--help"])
    told = capsys.readouterr().out
    assert all(f"--{key}=" in told for key in knobs(default()))
