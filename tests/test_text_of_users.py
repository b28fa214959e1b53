"""Text of users is data in every verb: it is shown as it is, and never obeyed."""

import csv
import json
import pathlib
import subprocess
import sys

import pytest

from clickflax import cli
from clickflax.data.store import open_dataset

HOSTILE = (
    *("[/b]", "[red]x", ":smile:", "\x1b[2J\x1b]0;x\x07", "\u202eabc", "<!--<script>alert(1)//"),
    *("</script><img src=x onerror=alert(1)>", "'; DROP TABLE events; --", "%s %n", "{0} {x}"),
    *("$(id) `id`", "../../x", "--help", "=1+1", "a\nb", "a,b", 'q"q', "*?[x]", "x" * 3000, "\\N"),
    *("日本 🎌", "\u2028", "None", " "),
)
CONFIG = """
from clickflax.config import default
def get_config():
    c = default()
    c.tasks = ("next_item",)
    c.data.path = {path!r}
    c.data.variables = ("item", "action")
    c.model.update(dict(width=8, feed_forward=8, layers=1, heads=1, max_len=8))
    c.train.update(dict(steps=2, eval_every=2, log_every=1, batch_size=8))
    return c
"""


def run(capsys, *arguments):
    """The output of a command that must end well, and have nothing that a terminal obeys."""
    call = [str(argument) for argument in arguments]
    if call[0] in ("train", "evaluate", "baselines"):  # as users run them: not under strict dtypes
        command = [sys.executable, "-m", "clickflax.cli", *call]
        done = subprocess.run(command, capture_output=True, text=True)
        status, out, error = done.returncode, done.stdout, done.stderr
    else:
        status = cli.main(call)
        out, error = capsys.readouterr()
    assert status == 0, error
    assert "\x1b" not in out + error and "\u202e" not in out + error
    return out


@pytest.mark.slow
def test_hostile_tokens_titles_users_and_names_pass_through_every_verb(tmp_path, capsys):
    folder = tmp_path / "f [red] *? ; {0} --x"  # of everything but the run, which Orbax keeps
    folder.mkdir()
    columns = ["user [/b]", "item'; --", "when {0}", "action \x1b[2J"]
    with (folder / "log [1].csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for user, name in enumerate(HOSTILE * 2):
            for event in range(5):
                item = HOSTILE[(user + event) % len(HOSTILE)]
                writer.writerow([f"{user // 24}{name}", item, 10**9 + 100 * user + event, name])
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([columns[1], "title"])
        writer.writerows([item, f"{item} {item}"] for item in HOSTILE)
    before = {path for path in tmp_path.rglob("*")}
    names = ",".join(
        f"{n}={c}" for n, c in zip(("sequence", "item", "time", "action"), columns, strict=True)
    )
    data, work = folder / "data", tmp_path / "r (red); {0} --x %s $HOME"
    out = run(capsys, "prepare", "log", "--raw", folder / "log [1].csv", "--out", data, "--columns",
              names, "--items", folder / "items.csv")  # fmt: skip
    assert str(data) in out
    dataset = open_dataset(data)
    assert sorted(dataset.vocabulary("item").tokens()) == sorted(HOSTILE)
    assert dataset.sequences == 2 * len(HOSTILE)
    config = folder / "c.py"
    config.write_text(CONFIG.format(path=str(data)))
    run(capsys, "train", f"--config={config}", f"--workdir={work}")
    run(capsys, "evaluate", "--run", work, "--lists", "--groups")
    run(capsys, "baselines", f"--config={config}")
    for item in HOSTILE:
        if "|" in item or not item.strip():
            continue
        out = run(capsys, "recommend", "--run", work, f"--history={item}", "--k", "3")
        shown = json.loads(out.splitlines()[-1])
        assert len(shown) == 3 and all(entry["item"] in HOSTILE for entry in shown)
    run(capsys, "recommend", "--run", work, "--users", "all", "--out", folder / "l.parquet")
    run(capsys, "report", "--out", folder / "report.html", work)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "<!--<script>" not in page
    after = {path for path in tmp_path.rglob("*")} - before
    assert all(path.is_relative_to(folder) or path.is_relative_to(work) for path in after)
    assert not pathlib.Path("x").exists()
