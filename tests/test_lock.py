"""The lock of a folder: one process at a time, and none for ever."""

import os
import platform
import subprocess
import sys

import pytest
from toy import small_config

from clickflax.runtime import processes
from clickflax.runtime.lock import Locked, hold, is_held
from clickflax.training.loop import train
from clickflax.training.workdir import lock_workdir

HOLD = """
import pathlib, sys, time
from clickflax.runtime.lock import hold
with hold(pathlib.Path(sys.argv[1]), "a folder"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `tmp_path / "run" / ".lock"`."""
    call = [sys.executable, "-c", HOLD, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_that_another_process_holds_is_refused_with_its_host_and_pid(other, tmp_path):
    path = tmp_path / "run" / ".lock"
    assert is_held(path)
    with pytest.raises(
        Locked, match=f"the run is in use by process {other.pid} on {os.uname()[1]}"
    ):
        with hold(path, "the run"):
            pass
    assert is_held(path)


def test_a_killed_process_leaves_no_lock_behind(other, tmp_path):
    other.kill()
    other.wait()
    path = tmp_path / "run" / ".lock"
    assert not is_held(path)
    with hold(path, "the run"):
        assert is_held(path)
        assert f"process {os.getpid()} on {platform.node()}" in (
            path.with_name(".lock.holder").read_text()
        )


def test_a_lock_is_free_after_an_error_and_where_no_file_is(tmp_path):
    path = tmp_path / "new" / ".lock"
    assert not is_held(path)
    with pytest.raises(KeyError), hold(path, "the run"):
        raise KeyError
    assert not is_held(path)


def test_a_second_training_in_a_folder_is_refused_before_it_reads_anything(other, tmp_path):
    config = small_config()
    config.data.path = str(tmp_path / "no data")
    with pytest.raises(Locked, match=f"the work folder {tmp_path}/run is in use by process"):
        train(config, tmp_path / "run")


def test_of_several_processes_of_a_training_only_the_first_one_locks(other, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    with lock_workdir(tmp_path / "run"):
        pass
    monkeypatch.setattr(processes, "is_first", lambda: True)
    with pytest.raises(Locked), lock_workdir(tmp_path / "run"):
        pass
