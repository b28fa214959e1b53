"""What killed writings of data sets leave is removed by the next, and nobody else's work is."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from clickflax.data.check import open_checked
from clickflax.data.scratch import remove_left_overs, scratch_folder
from clickflax.preparation.main import prepare
from clickflax.preparation.options import Options, parse_columns
from clickflax.runtime.lock import hold, is_held
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop

SHOP = Shop(sequences=20, items=20, mean_length=4.0, max_length=8)
WRITE = """
import pathlib, sys, time
from clickflax.data.scratch import scratch_folder
with scratch_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "half").mkdir()
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that writes `tmp_path / "shop"`, and its scratch folder."""
    call = [sys.executable, "-c", WRITE, str(tmp_path / "shop")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = tmp_path / os.path.basename(process.stdout.readline().strip())
        yield process, folder
        process.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_scratch_of_a_process_that_still_writes_is_left_alone(writer, tmp_path, capsys):
    _, folder = writer
    simulate(tmp_path / "shop", SHOP)
    assert (folder / "half").is_dir() and names(tmp_path) == [folder.name, "shop"]
    assert capsys.readouterr().err == ""


def test_the_scratch_of_a_killed_process_is_removed_and_named(writer, tmp_path, capsys):
    process, folder = writer
    process.kill()
    process.wait()
    assert folder.is_dir()
    simulate(tmp_path / "shop", SHOP)
    assert names(tmp_path) == ["shop"]
    assert capsys.readouterr().err == f"{folder}: removed; a process that was killed had left it\n"


def left_over(path, token="abcd_123", lock=True):
    """A scratch folder whose process is gone."""
    folder = path.with_name(f".{path.name}.{token}.tmp")
    (folder / path.name).mkdir(parents=True)
    if lock:
        (folder / ".lock").touch()
    return folder


def test_only_left_overs_of_the_same_path_with_a_lock_are_removed(tmp_path):
    left_over(tmp_path / "shop")
    others = [left_over(tmp_path / name) for name in ("shop.2", "other", "sho")]
    others += [left_over(tmp_path / "shop", "without1", lock=False)]
    others += [left_over(tmp_path / "shop", "a.backup"), tmp_path / ".shop.original.old"]
    others[-1].mkdir(exist_ok=True)
    elsewhere = left_over(tmp_path / "elsewhere" / "shop")
    link = tmp_path / ".shop.linked_1.tmp"
    link.symlink_to(elsewhere)
    remove_left_overs(tmp_path / "shop")
    assert names(tmp_path) == sorted([*(one.name for one in others), "elsewhere", link.name])
    assert elsewhere.is_dir()


@pytest.mark.parametrize("whole", [False, True], ids=["not yet replaced", "replaced"])
def test_a_data_set_that_was_moved_away_is_put_back_unless_it_is_replaced(tmp_path, capsys, whole):
    path = tmp_path / "shop"
    simulate(path, SHOP)
    folder = left_over(path)
    if whole:
        shutil.copytree(path, folder.with_suffix(".old"))
    else:
        path.rename(folder.with_suffix(".old"))
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        simulate(path, SHOP)
    assert names(tmp_path) == ["shop"] and open_checked(path).sequences == 20
    assert (f"{path}: put back" in capsys.readouterr().err) is not whole


def test_a_new_folder_that_another_process_has_locked_to_remove_it_is_made_again(
    tmp_path, monkeypatch
):
    made, make = [], tempfile.mkdtemp
    with contextlib.ExitStack() as other:

        def make_and_lose(*words):
            made.append(pathlib.Path(make(*words)))
            if len(made) == 1:
                other.enter_context(hold(made[0] / ".lock", "a left-over"))
            return str(made[-1])

        monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
        with scratch_folder(tmp_path / "shop") as folder:
            assert [folder] == made[1:] and is_held(folder / ".lock")
    assert names(tmp_path) == [made[0].name]


def log(tmp_path, users):
    path = tmp_path / "log.csv"
    lines = [f"{user},{item}\n" for user in range(users) for item in range(20)]
    path.write_text("u,i\n" + "".join(lines))
    return str(path)


def test_the_scratch_of_a_killed_upload_is_removed_from_the_temporary_folder(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    folder = left_over(tmp_path / "tmp" / "clickflax")
    options = Options(columns=parse_columns("sequence=u,item=i"))
    prepare("log", log(tmp_path, 3), f"file://{tmp_path}/out", options)
    assert names(tmp_path / "tmp") == [] and (tmp_path / "out" / "dataset.json").exists()
    assert capsys.readouterr().err.startswith(f"{folder}: removed;")


@pytest.mark.slow
def test_after_a_real_kill_the_next_preparation_leaves_the_data_set_only(tmp_path):
    raw, out = log(tmp_path, 50_000), tmp_path / "data" / "out"
    words = ["prepare", "log", f"--raw={raw}", f"--out={out}", "--columns=sequence=u,item=i"]
    call = [sys.executable, "-m", "clickflax.cli", *words]
    with subprocess.Popen(call, stdout=subprocess.DEVNULL) as process:
        while not list(out.parent.glob(".out.*.tmp/out/*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (folder,) = out.parent.iterdir()
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stderr.startswith(f"{folder}: removed; a process that was killed had left it\n")
    assert names(out.parent) == ["out"] and open_checked(out).sequences == 50_000
