"""Signals that request an end: Ctrl-C, SIGTERM and SIGHUP.

Python runs the handler of a signal in the main thread, between two of its own instructions: not
while XLA compiles. An exception that a handler raises may also be lost, inside a callback. So a
command has a thread besides, which notices a signal at once and ends the process if the main thread
does not.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from clickflax.runtime.terminal import say, show_cursor

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
PATIENCE = 4.0  # seconds in which a training must react, so that time is left to save
ENDING = 8.0  # seconds in which everything else must have ended
AGAIN = 0.05  # seconds until a signal is sent again, whose exception was lost
SAME = 0.3  # seconds: a terminal and a launcher may both pass on one Ctrl-C

# The last words of a process that ends by a signal; None if it must not end yet.
LastWords = Callable[[int], str | None]


class Stopped(KeyboardInterrupt):
    """Raised when a command has ended on request, by a signal; a training can be resumed."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class StopRequest(threading.Event):
    """Event that is set when an end is requested; `number` is the signal."""

    def __init__(self) -> None:
        super().__init__()
        self.number: int = signal.SIGTERM
        self.reacted = False

    def by(self, number: int) -> None:
        """Records the signal."""
        self.number = number
        self.set()

    def react(self) -> None:
        """Says that the main thread is about to end: the process is not ended from outside."""
        self.reacted = True


class Mode(NamedTuple):
    """What happens at a signal: who is asked to end, in which time, and what is said without it."""

    request: StopRequest
    patience: float
    last_words: LastWords


class Watcher:
    """The thread that ends the process if the main thread does not react to a signal."""

    def __init__(self, command: str):
        self.command = command
        self.modes: list[Mode] = []
        self.number = 0  # the first signal, and when it came
        self.first = 0.0
        self.sent = 0  # signals that this object has sent itself, and not yet received
        self.together = False  # whether other processes wait for an orderly shutdown of this one
        self.deadline: float | None = None
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()

    def enter(self, mode: Mode) -> None:
        """Takes another mode."""
        self.modes.append(mode)

    def leave(self) -> None:
        """Goes back to the mode before, which has all of its time from now on."""
        self.modes.pop()
        if self.number and self.modes:
            self.deadline = time.monotonic() + self.modes[-1].patience

    def lost(self, number: int) -> None:
        """Sends the signal again, whose exception was raised inside a callback, and lost."""
        for mode in self.modes:
            mode.request.clear()
        self.sent += 1
        again = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    def close(self) -> None:
        """Ends the thread, unless a signal has come: then it sees to it that the process ends."""
        signal.set_wakeup_fd(self._before)
        if not self.number:
            os.close(self._write)

    def _watch(self) -> None:
        while True:
            left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            ready, _, _ = select.select([self._read], [], [], left)
            if not ready:
                self._end_if_stuck()
            elif numbers := os.read(self._read, 64):
                for number in numbers:
                    self._receive(number)
            else:
                os.close(self._read)
                return

    def _receive(self, number: int) -> None:
        """Begins to wait for the main thread; at a second Ctrl-C, ends the process."""
        now = time.monotonic()
        if number not in SIGNALS:
            return
        if not self.number:
            self.number, self.first = number, now
            self.deadline = now + (self.modes[-1].patience if self.modes else ENDING)
        elif self.sent:
            self.sent -= 1
        elif number == signal.SIGINT and now - self.first > SAME:
            self._end(number, "ended at once")

    def _end_if_stuck(self) -> None:
        """Ends the process, unless the main thread is about to end, or a step would be lost."""
        self.deadline = None
        mode = self.modes[-1] if self.modes else None
        if mode and mode.request.reacted:
            return
        words = mode.last_words(self.number) if mode else f"ended by {name_of(self.number)}"
        if words is not None:
            self._end(self.number, words)
        say(f"{self.command}: waiting for the step; Ctrl-C again ends at once", error=True)

    def _end(self, number: int, words: str) -> NoReturn:
        with contextlib.suppress(OSError, ValueError):
            show_cursor()
            say(f"{self.command}: {words}", error=True)
            sys.stdout.flush()
        os._exit(128 + number)


_watcher: Watcher | None = None


def received() -> int:
    """The signal that this command has received; 0 without one."""
    return _watcher.number if _watcher else 0


def leave(number: int) -> int:
    """The exit status after a signal; a command that has received it ends here.

    The shutdown of Python would crash where a thread is still in a compiler.
    """
    if _watcher and _watcher.number and not _watcher.together:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + number)
    return 128 + number


def name_of(number: int) -> str:
    """The name of a signal, such as SIGTERM."""
    return signal.Signals(number).name


@contextlib.contextmanager
def watch_signals(command: str) -> Iterator[None]:
    """A context in which the process of a command ends on a signal, with Stopped or without."""
    global _watcher
    if threading.current_thread() is not threading.main_thread() or _watcher is not None:
        yield
        return
    watcher = _watcher = Watcher(command)
    hook = sys.unraisablehook

    def notice(lost: Any) -> None:
        if isinstance(lost.exc_value, Stopped):
            watcher.lost(lost.exc_value.number)
        else:
            hook(lost)

    sys.unraisablehook = notice
    try:
        with end_on_signals():
            yield
    finally:
        sys.unraisablehook = hook
        watcher.close()
        _watcher = None


@contextlib.contextmanager
def end_on_signals(where: str = "", together: bool = False) -> Iterator[None]:
    """A context in which the first signal raises Stopped: "ended by SIGTERM" and `where`.

    Later ones do not disturb what is being cleaned up. In processes that work `together`, JAX has
    the handler of SIGTERM.
    """
    request = StopRequest()

    def words(number: int) -> str:
        return f"ended by {name_of(number)}{where}"

    def handle(number: int) -> None:
        if not request.is_set():
            request.by(number)
            raise Stopped(words(number), number)

    with _handled(handle, Mode(request, ENDING, words), together):
        yield


@contextlib.contextmanager
def stop_on_signals(last_words: LastWords, together: bool = False) -> Iterator[StopRequest]:
    """A context in which a signal sets the event that it yields, and raises nothing.

    If the main thread does not react in time, `last_words` saves what it can, and the process ends.
    Processes that work `together` pass signals on as SIGTERM, on which JAX has them agree.
    """
    request = StopRequest()

    def handle(number: int) -> None:
        if together:
            request.number = number
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            request.by(number)

    with _handled(handle, Mode(request, PATIENCE, last_words), together):
        if _watcher and _watcher.number and not together:
            request.by(_watcher.number)  # its exception was lost
        yield request


@contextlib.contextmanager
def _handled(handle: Callable[[int], None], mode: Mode, together: bool) -> Iterator[None]:
    """A context with a handler, in the main thread; what is ignored, as by nohup, stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watcher = _watcher
    mine = [number for number in SIGNALS if not (together and number == signal.SIGTERM)]
    mine = [number for number in mine if signal.getsignal(number) is not signal.SIG_IGN]
    if watcher:
        watcher.together |= together
        watcher.enter(mode)
    before = {number: signal.signal(number, lambda number, _: handle(number)) for number in mine}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if watcher:
            watcher.leave()
