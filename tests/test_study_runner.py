"""How the cells of a study are run: workers, progress, failures, signals, several processes."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from studies import (
    SMALL,
    command_environment,
    finished,
    planned,
    study_command,
    study_of,
    write_study_file,
)

from clickflax.run.folder import load_run
from clickflax.runtime.lock import hold
from clickflax.runtime.params import by_name
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.study import report, runner
from clickflax.study.cell import cell_lock, is_done, is_running
from clickflax.study.gather import gather_report, open_source
from clickflax.study.main import main
from clickflax.study.plan import cell_folder, cells_of, load_study, write_plan

SHOP = Shop(sequences=40, items=20, mean_length=6.0, max_length=12)


def test_workers_share_cores_and_accelerators(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 4, 5, 6})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [one.cores for one in runner.split_resources(2)] == [(2, 3), (4, 5, 6)]
    gpus = [one.accelerators for one in runner.split_resources(4)]
    assert gpus == [("0",), ("1",), ("0",), ("1",)]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; add to its only entry."""
    times = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: times[0])
    return times


@pytest.fixture
def progress(tmp_path, clock):
    """The progress of a study of four cells of four steps, of which two are done."""
    cells = finished(tmp_path)
    for cell in cells[2:]:
        (cell_folder(tmp_path, cell) / "answered.json").unlink()
    return runner.StudyProgress(tmp_path, study_of(), cells, workers=1)


@pytest.fixture
def half_way(progress, clock):
    """The same after 30 seconds of the third cell, which has done two of its four steps."""
    cell = progress.cells[2]
    progress.set_state(cell, runner.RUNNING)
    clock[0] += 30.0
    lines = [{"step": 1, "loss": 2.0}, {"step": 2}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3'
    (cell_folder(progress.out, cell) / "metrics.jsonl").write_text(text)
    return progress


def test_the_time_left_is_unknown_before_a_cell_has_run(progress):
    assert progress.counts() == "2 of 4 done" and progress.time_left() == ""


def test_the_time_left_follows_from_the_steps_that_are_done(half_way):
    assert half_way.share(half_way.cells[2]) == 0.5  # an incomplete line does not count
    assert half_way.time_left() == "about 0:01:30 left"  # 30 s of this cell, 60 s of the next


def test_cells_of_other_processes_count_as_parallel_work(half_way):
    half_way.set_state(half_way.cells[3], runner.ELSEWHERE)
    assert half_way.time_left() == "about 0:00:45 left"
    assert half_way.update_elsewhere() == [half_way.cells[3]]


@pytest.mark.parametrize("state", [runner.ELSEWHERE, ""])  # noticed, or not yet
def test_a_cell_that_another_process_has_done_is_noticed(half_way, state):
    done, _, _, last = half_way.cells
    half_way.set_state(last, state)
    out = half_way.out
    shutil.copy(cell_folder(out, done) / "answered.json", cell_folder(out, last))
    assert half_way.update_elsewhere() == []
    assert half_way.counts() == "3 of 4 done, 1 running"


def test_a_row_has_the_share_of_running_cells_and_a_mean(half_way):
    cells = half_way.cells
    done, running, failed, mean = half_way.row([cells[0], cells[2]], "ndcg@10")
    assert (done, running, failed) == ("1/2", "50%", "") and 0 < float(mean) < 1


def test_a_failed_cell_does_not_count_for_the_time_left(half_way):
    cell = half_way.cells[2]
    half_way.set_state(cell, runner.FAILED, "no memory")
    assert half_way.time_left() == ""
    assert half_way.counts() == "2 of 4 done, 1 failed" and half_way.reason[cell] == "no memory"


@pytest.fixture(scope="module")
def one_done(tmp_path_factory):
    """The folder of a study after a run while another process had its second cell; its output."""
    folder = tmp_path_factory.mktemp("study")
    simulate(folder / "data", SHOP)
    study = load_study(write_study_file(folder))
    cells = cells_of(study)
    write_plan(folder / "out", study, cells)
    with hold(cell_lock(folder / "out", cells[1]), "a cell"):
        process = run_command(folder)
    return folder, cells, process


def run_command(folder, *words, out="out"):
    """The finished process of `clickflax study run`."""
    return subprocess.run(
        study_command("run", folder / "study.py", "--out", folder / out, "--allow-dirty", *words),
        env=command_environment(),
        capture_output=True,
        text=True,
    )


def copy_study(one_done, tmp_path):
    """A copy of the study, with its file and its data where they were."""
    folder, cells, _ = one_done
    out = shutil.copytree(folder / "out", tmp_path / "out")
    return folder / "study.py", out, cells


@pytest.mark.slow
def test_a_cell_that_another_process_runs_is_left_to_it(one_done):
    _, _, process = one_done
    assert process.returncode == 0, process.stderr
    assert "1 of 2 done, 1 running elsewhere" in process.stdout


@pytest.mark.slow
def test_a_cell_leaves_a_run_with_its_record_and_projector(one_done):
    folder, cells, _ = one_done
    run = cell_folder(folder / "out", cells[0])
    record = json.loads((run / "test.json").read_text())
    assert record["environment"]["devices"] == {"cpu": 1}
    assert list(run.rglob("projector_config.pbtxt"))


@pytest.mark.slow
def test_a_failed_cell_is_reported(one_done, tmp_path):
    file, out, cells = copy_study(one_done, tmp_path)
    cell_folder(out, cells[1]).write_text("a file instead of a folder")
    process = subprocess.run(
        study_command("run", file, "--out", out, "--allow-dirty", "--workers", 2),
        env=command_environment(),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1 and f"failed {cells[1].name}: " in process.stderr


@pytest.mark.slow
def test_sigterm_ends_a_study_and_its_running_cell(one_done, tmp_path):
    file, out, cells = copy_study(one_done, tmp_path)
    process = subprocess.Popen(
        study_command("run", file, "--out", out, "--allow-dirty"),
        env=command_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline().startswith(f"running {cells[1].name}")
    process.send_signal(signal.SIGTERM)
    assert "stopped" in process.communicate(timeout=60)[1] and process.returncode == 143
    assert not is_running(out, cells[1])


@pytest.fixture(scope="module")
def all_done(one_done, tmp_path_factory):
    """A copy of the study in which the second cell was run, too."""
    file, out, cells = copy_study(one_done, tmp_path_factory.mktemp("all"))
    assert main(["run", str(file), "--out", str(out), "--allow-dirty"]) == 0
    return out, cells


@pytest.mark.slow
def test_a_study_that_is_run_again_does_not_repeat_finished_cells(one_done, all_done):
    folder, cells, _ = one_done
    before, after = (
        cell_folder(out, cells[0]) / "test.json" for out in (folder / "out", all_done[0])
    )
    assert after.stat().st_mtime_ns == before.stat().st_mtime_ns
    assert (cell_folder(all_done[0], cells[1]) / "test.json").is_file()


@pytest.mark.slow
def test_the_table_of_a_study_is_printed(all_done, capsys):
    assert main(["table", str(all_done[0])]) == 0
    assert "| wide | " in capsys.readouterr().out


@pytest.mark.slow
def test_a_report_finds_its_contents_in_the_runs(all_done):
    contents = gather_report(open_source([all_done[0]]))
    assert {run["config"] for run in contents["runs"]} == {"narrow", "wide"}
    assert len(contents["groups"]) == 2
    for user in contents["users"]:
        assert len(user["models"]) == 2 and all(model["items"] for model in user["models"])
        assert user["history"] and user["targets"]


@pytest.mark.slow
def test_a_report_is_a_page_with_the_question(all_done, tmp_path):
    report.main([str(all_done[0]), "--out", str(tmp_path / "report.html")])
    assert "Do wide models know more?" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_processes_that_share_a_study_never_run_a_cell_twice(tmp_path):
    simulate(tmp_path / "data", SHOP)
    file, out = write_study_file(tmp_path, seeds=(0, 1)), tmp_path / "out"
    started = [
        subprocess.Popen(
            study_command("run", file, "--out", out, "--allow-dirty"),
            env=command_environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)  # at the same time, as the tasks of a Slurm array
    ]
    printed = [process.communicate(timeout=600)[1].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    ends = ("done ", "running elsewhere ")
    ended = [line for lines in printed for line in lines if line.startswith(ends)]
    assert len(ended) >= 4 and all(printed)
    for cell in cells_of(load_study(file)):
        # The log of its process: it was started once, and never resumed.
        log = (out / "logs" / f"{cell.name}.txt").read_text()
        assert log.count("a new run") == 1 and "resumed" not in log
        assert (cell_folder(out, cell) / "test.json").is_file()


@pytest.mark.slow
def test_a_study_that_is_killed_resumes_to_the_same_parameters(tmp_path):
    simulate(tmp_path / "data", SHOP)
    write_study_file(tmp_path, small=(*SMALL, "train.steps=40", "train.eval_every=4"))
    assert run_command(tmp_path, out="whole").returncode == 0
    assert kill_and_resume(tmp_path, "killed") > 0
    for cell in cells_of(load_study(tmp_path / "study.py")):
        folders = (cell_folder(tmp_path / out, cell) for out in ("killed", "whole"))
        ours, theirs = map(params_of, folders)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def kill_and_resume(folder: pathlib.Path, out: str) -> int:
    """Runs a study to its end, with SIGKILL at random times; returns the number of kills."""
    chance, kills = random.Random(0), 0
    study = load_study(folder / "study.py")
    # A cell has a session of its own: it outlives its study, and the next run leaves it alone.
    while not all(is_done(folder / out, study, cell) for cell in cells_of(study)):
        process = subprocess.Popen(
            study_command("run", folder / "study.py", "--out", folder / out, "--allow-dirty"),
            env=command_environment(),
            start_new_session=True,
        )
        try:
            assert process.wait(chance.uniform(3, 12)) == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    return kills


def params_of(folder: pathlib.Path) -> dict:
    """The last parameters of a run by name."""
    return by_name(load_run(folder, "last").params)


@pytest.mark.slow
def test_the_name_of_a_cell_is_no_option(tmp_path):
    [cell, *_] = planned(tmp_path)
    process = runner.start_cell(tmp_path, cell._replace(name="--help"), runner.WorkerResources(()))
    assert process.wait() == 1
    assert "--help is no longer in the plan" in (tmp_path / "logs" / "--help.txt").read_text()
