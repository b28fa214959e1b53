"""Several processes that train together: the same numbers as one, and an end that all agree on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from toy import layout

from clickflax.data.batches import Windows, training_batches
from clickflax.runtime import processes
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop

CONFIG = """
from clickflax.config import default

def get_config():
    c = default()
    c.tasks = ("next_item",)
    c.model.update({"width": 8, "max_len": 8, "feed_forward": 16, "layers": 1})
    c.train.update({"steps": STEPS, "eval_every": 2, "log_every": 1, "batch_size": 16})
    c.optim.warmup_steps = 0
    return c
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "data"
    simulate(path, Shop(sequences=60, items=40, mean_length=6.0, max_length=12))
    return path


def command(shop, folder, steps, *flags):
    config = folder.parent / "config.py"
    config.write_text(CONFIG.replace("STEPS", str(steps)))
    words = ["-m", "clickflax.cli", "train", f"--config={config}", f"--workdir={folder}"]
    return [sys.executable, *words, f"--config.data.path={shop}", *flags]


def together(shop, folder, steps, *flags):
    """Two processes with four devices each, and files of what they say."""
    return two_of(command(shop, folder, steps, "--config.train.cpu_devices=4", *flags), folder)


def two_of(call, folder):
    """Two processes that do the same together, and files of what they say."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    found = []
    for i in range(2):
        mine = ["--processes=2", f"--coordinator=localhost:{port}", f"--process={i}"]
        with (folder.parent / f"{i}.txt").open("w") as said:
            found.append(subprocess.Popen([*call, *mine], stdout=said, stderr=subprocess.STDOUT))
    return found


def lines_of(folder):
    """What a run has written of its steps, but for how long they took."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in one.items() if k != "seconds"} for one in found]


def end_of(started, folder):
    """The exit status of each; what they have said where it is another than 0."""
    status = [one.wait(timeout=240) for one in started]
    said = [(folder.parent / f"{i}.txt").read_text() for i in range(len(started))]
    return status, said


def assert_same_run(folder, other):
    ours, theirs = lines_of(folder), lines_of(other)
    assert [one["step"] for one in ours] == [one["step"] for one in theirs] and ours
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-4), one["step"]


@pytest.mark.slow
def test_two_processes_of_four_devices_do_what_one_does_and_end_together(shop, tmp_path):
    alone, two = tmp_path / "alone", tmp_path / "two"
    call = command(shop, alone, 8, "--config.train.cpu_devices=8")
    subprocess.run(call, check=True, capture_output=True, timeout=240)
    shared = "--config.train.model_devices=8"  # each table lies on the devices of both
    status, said = end_of(together(shop, two, 4, shared, "--devices=8"), two)
    assert status == [0, 0], said
    for i in range(2):
        assert f"process {i} of 2 on " in said[i] and "4 of 8 cpu devices" in said[i]
    assert "8 share each table" in said[0] and "8 share each table" not in said[1]
    # Longer, and on other devices, it goes on where it was.
    status, said = end_of(together(shop, two, 8), two)
    assert status == [0, 0], said
    assert "resumed at step 4" in said[0]
    assert_same_run(two, alone)
    last = json.loads(said[0].splitlines()[-1])
    assert last["step"] == 8 and (two / "items.tsv").is_file()
    # They are evaluated together, too, and give what one process gives.
    evaluate = [sys.executable, "-m", "clickflax.cli", "evaluate", f"--run={two}", "--lists"]
    subprocess.run(evaluate, check=True, capture_output=True, timeout=240)
    expected = json.loads((two / "test.json").read_text())
    (two / "test.json").unlink()
    status, said = end_of(two_of([*evaluate, "--devices=8"], two), two)
    assert status == [0, 0], said
    assert "next_item, test of" in said[0] and "next_item, test of" not in said[1]
    found = json.loads((two / "test.json").read_text())
    metrics = [name for name in expected if "@" in name]
    assert len(metrics) > 20
    assert [found[m] for m in metrics] == pytest.approx([expected[m] for m in metrics], rel=1e-6)


@pytest.mark.slow
def test_a_signal_to_one_process_ends_both_at_the_same_step(shop, tmp_path):
    folder = tmp_path / "run"
    many = ("--config.train.steps_at_once=3", "--config.train.eval_every=7")
    for _ in range(2):  # the second goes on where the first was ended
        before = len(lines_of(folder))
        started = together(shop, folder, 100_000, *many)
        until(lambda before=before: len(lines_of(folder)) > before + 8, started)
        started[1].send_signal(signal.SIGTERM)
        began = time.monotonic()
        status, said = end_of(started, folder)
        assert time.monotonic() - began < 30  # what Slurm and Kubernetes wait before they kill
        assert status == [128 + signal.SIGTERM] * 2, said
        ends = {text.splitlines()[-1] for text in said}
        assert len(ends) == 1 and "ended by SIGTERM at step" in ends.pop()


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_other_in_time_and_the_run_goes_on(shop, tmp_path):
    alone, folder = tmp_path / "alone", tmp_path / "run"
    started = together(shop, folder, 100_000)
    until(lambda: len(lines_of(folder)) > 6, started)
    os.kill(started[1].pid, signal.SIGKILL)
    began = time.monotonic()
    status, _ = end_of(started, folder)
    assert time.monotonic() - began < 2 * processes.HEARTBEAT
    assert status[0] not in (0, None) and status[1] == -signal.SIGKILL
    steps = lines_of(folder)[-1]["step"] // 2 * 2 + 4
    for one in (folder, alone):
        call = command(shop, one, steps, "--config.train.cpu_devices=8")
        subprocess.run(call, check=True, capture_output=True, timeout=240)
    assert_same_run(folder, alone)


@pytest.mark.slow
def test_the_tasks_of_a_slurm_job_find_each_other(shop, tmp_path):
    """What `srun` gives its tasks stands in the environment; here there is no Slurm besides."""
    folder, started = tmp_path / "run", []
    call = command(shop, folder, 4, "--config.train.cpu_devices=4", "--processes=auto")
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    for i in range(2):
        task = {"SLURM_NTASKS": "2", "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}
        with (tmp_path / f"{i}.txt").open("w") as said:
            started.append(
                subprocess.Popen(
                    [*call, "--devices=8"],
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **job, **task},
                )
            )
    status, said = end_of(started, folder)
    assert status == [0, 0], said
    for i in range(2):
        assert f"process {i} of 2 on " in said[i] and "4 of 8 cpu devices" in said[i]
    assert [one["step"] for one in lines_of(folder)][-1] == 4


def until(is_so, started):
    """Waits for something that must come while the processes live."""
    for _ in range(1200):
        if is_so():
            return
        assert all(one.poll() is None for one in started)
        time.sleep(0.1)
    raise AssertionError("it did not come within two minutes")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("", "2", None, 0), "--processes=2: use --processes=auto, or give the"),
        (("here:1", "two", 0, 0), "--processes=two: use"),
        (("here:1", "2", 2, 0), "--process=2 is not one of 0 to 1"),
        (("here:1", "", None, 0), "--coordinator and --process need several"),
        (("", "", 1, 0), "--coordinator and --process need several"),
        (("", "", None, 9), "--devices=9, but JAX has 8 cpu devices, 8 of them on"),
    ],
)
def test_a_start_that_cannot_be_says_why(flags, message):
    with pytest.raises(ValueError, match=message):
        processes.start_processes(*flags)


def test_the_rows_of_each_process_are_together_those_of_the_batch():
    lengths = [3, 5, 2, 7, 4, 6, 2, 8, 5]
    ends = np.cumsum(lengths)
    batches = training_batches(
        {"item": np.arange(ends[-1], dtype=np.int32) + 10},
        {},
        Windows(ends - lengths, ends),
        layout(),
        window="last",
        stride=1,
        batch_size=4,
        shifted=True,
    )
    for step in range(5):
        whole = batches.batch(0, step, 8)
        parts = [batches.batch(0, step, 8, slice(i, i + 2)) for i in range(0, 8, 2)]
        for name in ("segment", "position"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            assert np.array_equal(joined, getattr(whole, name))
        items = np.concatenate([part.variables["item"] for part in parts])
        assert np.array_equal(items, whole.variables["item"])
