import json
import math
import os
import pty
import subprocess
import sys
import time

import numpy as np
import pytest
from google.protobuf import text_format
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import plugin_data_pb2

from clickflax.runtime.log import MetricsWriter, ProgressBar, write_projector


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read_events(folder):
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path):
    with MetricsWriter(tmp_path, {}) as writer:
        writer.write(5, {"loss": 0.5, "ndcg@10": 0.25})
        assert lines(tmp_path) == [{"step": 5, "loss": 0.5, "ndcg@10": 0.25}]


def test_what_is_not_finite_is_null_because_json_has_no_nan(tmp_path):
    with MetricsWriter(tmp_path, {}) as writer:
        writer.write(1, {"loss": math.nan, "norm": math.inf})
    assert lines(tmp_path) == [{"step": 1, "loss": None, "norm": None}]


def test_an_interrupted_run_that_resumes_has_the_file_of_one_that_was_not(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with MetricsWriter(whole, {}) as writer:
        for step in (1, 2, 3, 4):
            writer.write(step, {"loss": 1 / step})
    with MetricsWriter(broken, {}) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": 1 / step})
    with MetricsWriter(broken, {}, resumed_at=2) as writer:
        for step in (3, 4):
            writer.write(step, {"loss": 1 / step})
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_half_written_last_line_is_dropped_on_resume(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    MetricsWriter(tmp_path, {}, resumed_at=2).close()
    assert lines(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_run_that_starts_afresh_keeps_no_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 0.5}\n')
    MetricsWriter(tmp_path, {}).close()
    assert lines(tmp_path) == []


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path):
    with MetricsWriter(tmp_path, {}) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": float(step)})
    # TensorBoard sorts the files of one second as text: writer 9 would come after writer 10.
    time.sleep(1.0)
    with MetricsWriter(tmp_path, {}, resumed_at=2) as writer:
        for step in (3, 4):
            writer.write(step, {"loss": 10.0 * step})
    shown = [(point.step, point.value) for point in read_events(tmp_path).Scalars("loss")]
    assert shown == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


def test_tensorboard_has_the_hyperparameters_with_their_types(tmp_path):
    hparams = {"model.width": 64, "mask.ratio": 0.2, "data.packing": True, "tasks": ("a", "b")}
    MetricsWriter(tmp_path, hparams).close()
    content = read_events(tmp_path).PluginTagToContent("hparams")["_hparams_/session_start_info"]
    told = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert told["model.width"].number_value == 64
    assert told["mask.ratio"].number_value == 0.2
    assert told["data.packing"].bool_value is True
    assert told["tasks"].string_value == "('a', 'b')"


def test_neither_compilation_nor_evaluation_slows_the_speed():
    clock = Clock()
    progress = ProgressBar(total=100, clock=clock)
    clock.now = 60.0  # compiling
    progress.trained(1, sequences=8)
    assert math.isnan(progress.sequences_per_second())
    clock.now = 62.0
    progress.trained(2, sequences=8)
    with progress.evaluation():
        clock.now = 90.0
    clock.now = 92.0
    progress.trained(3, sequences=8)
    assert progress.sequences_per_second() == 4.0


def test_speed_is_that_of_the_last_half_minute():
    clock = Clock()
    progress = ProgressBar(total=1000, clock=clock)
    for step in range(101):
        clock.now += 1.0 if step < 50 else 2.0
        progress.trained(step, sequences=8)
    assert progress.sequences_per_second() == 4.0


def test_the_time_left_counts_the_evaluations_to_come():
    clock = Clock()
    progress = ProgressBar(total=30, eval_every=10, clock=clock)
    for step in range(1, 11):
        clock.now += 2.0
        progress.trained(step, sequences=1)
    assert progress.seconds_left() == 20 * 2.0
    assert "0:00:40 + 2 evaluations left" in progress.line()
    with progress.evaluation():
        clock.now += 5.0
    assert progress.seconds_left() == 20 * 2.0 + 2 * 5.0
    assert "0:00:50 left" in progress.line()


def test_after_the_last_step_nothing_is_left_whatever_the_rhythm_of_evaluations():
    clock = Clock()
    progress = ProgressBar(total=15, eval_every=10, clock=clock)
    for step in range(1, 16):
        clock.now += 2.0
        progress.trained(step, sequences=1)
        if step == 10:
            with progress.evaluation():
                clock.now += 5.0
            assert progress.seconds_left() == 5 * 2.0 + 5.0
    assert progress.seconds_left() == 0.0


def test_a_log_file_gets_one_plain_line_an_evaluation(capsys):
    clock = Clock()
    with ProgressBar(total=4, eval_every=2, clock=clock) as progress:
        for step in (1, 2, 3, 4):
            clock.now += 1.0
            progress.trained(step, sequences=1234, loss=0.5)
            if step % 2 == 0:
                with progress.evaluation():
                    clock.now += 3.0
                    progress.evaluated("ndcg@10", 0.1 * step, best=0.4, best_step=4)
    assert capsys.readouterr().err.splitlines() == [
        "step 2/4  0:00:05 left  loss 0.5000  1,234 sequences/s  best ndcg@10 0.4000 at 4,"
        " now 0.2000",
        "step 4/4  0:00:00 left  loss 0.5000  1,234 sequences/s  best ndcg@10 0.4000 at 4,"
        " now 0.4000",
    ]


SCRIPT = """
from clickflax.runtime.log import ProgressBar
with ProgressBar(total=3) as progress:
    for step in (1, 2, 3):
        progress.trained(step, sequences=8, loss=0.25)
print("result")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_the_line_is_drawn_over_and_results_stay_on_standard_output():
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
        check=True,
    )
    os.close(theirs)
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.stdout == b"result\n"
    assert "0/3  compiling" in drawn and "3/3" in drawn and "loss 0.2500" in drawn
    assert "\x1b[2K" in drawn  # the line before is erased


def test_the_projector_finds_the_vectors_and_a_title_for_each(tmp_path):
    vectors = np.array([[0.5, -1.0], [2.0, 1e-9]], np.float32)
    write_projector(tmp_path, vectors, ["A\tfilm", "Another\none"])
    text = (tmp_path / "projector_config.pbtxt").read_text()
    config = text_format.Parse(text, projector.ProjectorConfig())
    [shown] = config.embeddings
    found = np.loadtxt(tmp_path / shown.tensor_path, delimiter="\t")
    np.testing.assert_allclose(found, vectors, rtol=1e-4)
    assert (tmp_path / shown.metadata_path).read_text().splitlines() == ["A film", "Another one"]
