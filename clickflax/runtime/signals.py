"""Signals that ask for an end, as a scheduler sends them before it takes the machine away."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stopped(Exception):
    """What was asked to end has ended, and can go on later."""


class StopRequest(threading.Event):
    """Set when an end is asked for; `number` is the signal that has asked."""

    number: int = 0

    def by(self, number: int) -> None:
        """Notes the signal."""
        self.number = number
        self.set()


@contextlib.contextmanager
def stop_on_signals(*numbers: signal.Signals) -> Iterator[StopRequest]:
    """An event that is set when one of these signals comes, which then ends nothing by itself; in
    another thread than the first, which no signal reaches, it never is.
    """
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {
        number: signal.signal(number, lambda number, _: asked.by(number)) for number in numbers
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
