"""Signals that request an orderly end, as schedulers send them before they stop a job."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stopped(Exception):
    """Raised when a run has ended on request; it can be resumed."""


class StopRequest(threading.Event):
    """Event that is set when an end is requested; `number` is the signal."""

    number: int = 0

    def by(self, number: int) -> None:
        """Records the signal."""
        self.number = number
        self.set()


@contextlib.contextmanager
def stop_on_signals(*numbers: signal.Signals) -> Iterator[StopRequest]:
    """A context in which these signals set the event that it yields, and do nothing else.

    Outside the main thread, where Python delivers no signals, the event is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {
        number: signal.signal(number, lambda number, _: request.by(number)) for number in numbers
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
