"""Ctrl-C, SIGTERM and SIGHUP: never swallowed, also while Python runs no handler."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from toy import small_config

from clickflax.config.default import from_dict, to_dict
from clickflax.runtime.signals import Stopped, end_on_signals, stop_on_signals
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.training.loop import train
from clickflax.training.progress import Reached, last_saved
from clickflax.training.setup import TrainContext

START = """
import ctypes, sys, time
from clickflax.runtime import signals
signals.ENDING = signals.PATIENCE = 1.0
def stick():  # as a compiler: outside of Python, and not interrupted by signals
    print("ready", flush=True)
    mutex, lock = ctypes.create_string_buffer(128), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)
def swallow():
    class Lost:
        def __del__(self):
            time.sleep(600)
    lost = Lost()
    print("ready", flush=True)
    del lost
    time.sleep(600)
def words(number):
    return f"saved at {number}"
"""
ENDS = "with signals.watch_signals('command'): "
NUMBERS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


@contextlib.contextmanager
def started(code):
    """A process that has come to the point where it can be sent a signal."""
    call = [sys.executable, "-c", START + code]
    pipe = subprocess.PIPE
    with subprocess.Popen(call, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # from there into the library
        yield process
        process.kill()


def ending(process):
    """The exit status and what is said of a process that has been sent a signal."""
    _, said = process.communicate(timeout=20)
    return process.returncode, said


@NUMBERS
def test_a_signal_ends_a_process_that_is_stuck_outside_of_python(number):
    with started(ENDS + "stick()") as process:
        process.send_signal(number)
        status, said = ending(process)
    assert status == 128 + number and said == f"command: ended by {number.name}\n"


def test_a_signal_whose_exception_is_lost_in_a_callback_ends_the_process():
    code = """
try:
    with signals.watch_signals("command"): swallow()
except signals.Stopped as reason:
    sys.exit(f"raised again: {reason}")
"""
    with started(code) as process:
        process.send_signal(signal.SIGINT)
        assert ending(process) == (1, "raised again: ended by SIGINT\n")


def test_what_was_reached_is_saved_by_a_training_that_is_stuck():
    with started(ENDS + "\n with signals.stop_on_signals(words): stick()") as process:
        process.send_signal(signal.SIGTERM)
        assert ending(process) == (143, "command: saved at 15\n")


def test_a_second_ctrl_c_ends_at_once_what_waits_for_a_step():
    wait = "\n with signals.stop_on_signals(lambda _: None): stick()"
    with started(ENDS + wait) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        status, said = ending(process)
    assert status == 130
    assert said.splitlines() == [
        "command: waiting for the step; Ctrl-C again ends at once",
        "command: ended at once",
    ]


def test_what_nohup_ignores_stays_ignored():
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + ENDS + "stick()"
    with started(code) as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2.5)


def test_only_the_first_signal_raises_so_that_what_is_cleaned_up_stays_whole():
    cleaned = False
    with pytest.raises(Stopped, match="ended by SIGHUP in a test") as caught:
        with end_on_signals(" in a test"):
            try:
                os.kill(os.getpid(), signal.SIGHUP)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                cleaned = True
    assert cleaned and caught.value.number == signal.SIGHUP


def test_handlers_are_as_before_after_a_context():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals(lambda _: None) as stop:
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.is_set() and stop.number == signal.SIGINT
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "data"
    simulate(path, Shop(sequences=60, items=12, mean_length=6.0, max_length=12, seed=1))
    return path


def config_for(shop):
    config = small_config(layers=1)
    config.data.path = str(shop)
    config.train.update({"batch_size": 16, "steps": 4, "eval_every": 2, "log_every": 1})
    return from_dict(to_dict(config))


def lines_of(folder):
    """The lines of metrics, without what differs from run to run."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line.partition(', "seconds"')[0] for line in lines]


@pytest.mark.usefixtures("optax_promotes")
@pytest.mark.slow
def test_a_run_that_ends_in_a_validation_repeats_it_and_equals_one_that_went_on(
    shop, tmp_path, monkeypatch
):
    at = Reached.at

    @contextlib.contextmanager
    def stuck(self, state, progress):
        with at(self, state, progress):
            words = self.last_words(signal.SIGTERM)
            self._lock.release()
            raise Stopped(words, signal.SIGTERM)
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Reached, "at", stuck)
        with pytest.raises(Stopped, match="ended by SIGTERM at step 2; the same command goes on"):
            train(config_for(shop), tmp_path / "run")
    assert last_saved(tmp_path / "run") == 2
    train(config_for(shop), tmp_path / "run")
    train(config_for(shop), tmp_path / "whole")
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")


def test_the_last_words_of_a_training_say_what_is_saved_and_wait_for_a_step():
    nothing: Any = (None,) * len(TrainContext._fields)
    reached = Reached(TrainContext(*nothing), 0)
    assert reached.last_words(signal.SIGINT) == (
        "ended by SIGINT before the first step was done; nothing was saved yet"
    )
    reached.sent = True
    assert reached.last_words(signal.SIGINT) is None
    reached.sent, reached.kept = False, 40
    said = reached.last_words(signal.SIGINT)
    assert said == "ended by SIGINT at step 40; the same command goes on from there"
