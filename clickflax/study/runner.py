"""Runs the cells of a study: several at once, each in a process of its own."""

import contextlib
import datetime
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import rich.console
import rich.live
import rich.table

from clickflax.runtime.files import read_json
from clickflax.runtime.signals import stop_on_signals
from clickflax.study.cell import TAKEN, is_done, is_taken
from clickflax.study.paired import answer_of
from clickflax.study.plan import Cell, Study, folder_of

TICK = 0.5  # seconds between two looks at what the workers do


class Place(NamedTuple):
    """What a worker may use: CPU cores, and accelerators where the machine has several."""

    cores: tuple[int, ...]
    accelerators: tuple[str, ...] = ()
    sharing: int = 1  # workers that have the same accelerator


def places(workers: int) -> list[Place]:
    """The cores of this process, and the GPUs that it may see, shared out among the workers."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    every = [path.name.removeprefix("nvidia") for path in pathlib.Path("/dev").glob("nvidia[0-9]*")]
    told = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(sorted(every, key=int)))
    seen = [one for one in told.split(",") if one]

    def share(of: Sequence[Any], i: int) -> tuple[Any, ...]:
        if len(of) < workers:
            return (of[i % len(of)],) if of else ()
        return tuple(of[i * len(of) // workers : (i + 1) * len(of) // workers])

    sharing = -(-workers // len(seen)) if seen else 1
    return [Place(share(cores, i), share(seen, i), sharing) for i in range(workers)]


def start(out: pathlib.Path, cell: Cell, place: Place) -> subprocess.Popen:
    """A process that runs a cell, in a session of its own: what the terminal sends to the study
    does not reach it.
    """
    environment = dict(os.environ)
    if place.accelerators:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(place.accelerators)
        if place.sharing > 1:  # or the first would take nearly all memory
            fraction = str(round(0.9 / place.sharing, 3))
            environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", fraction)
    call = [sys.executable, "-m", "clickflax.study.cell", str(out), cell.name]
    call += [",".join(map(str, place.cores))] if place.cores else []
    logs = out / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / f"{cell.name}.txt").open("ab") as log:
        return subprocess.Popen(
            call,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def last_words(out: pathlib.Path, cell: Cell) -> str:
    """The last line that a cell has said."""
    path = out / "logs" / f"{cell.name}.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")


class Board:
    """What became of each cell, and when the study ends; shown as a table that is drawn anew, or,
    where standard error is no terminal, a line for each cell that begins or ends.
    """

    def __init__(self, out: pathlib.Path, study: Study, cells: Sequence[Cell], workers: int):
        self.out, self.study, self.cells, self.workers = out, study, cells, workers
        self.state = {cell: "done" if is_done(out, study, cell) else "" for cell in cells}
        self.words: dict[Cell, str] = {}  # why one has failed
        self.begun: dict[Cell, tuple[float, float]] = {}  # when, and the share that was done then
        self.whole: dict[Cell, float] = {}  # seconds of those that this process has run to the end
        self.steps: dict[Cell, int] = {}
        self.ended_by = 0  # the signal, if one has
        self.console = rich.console.Console(stderr=True)
        self.live = None
        if sys.stderr.isatty() and not self.console.is_dumb_terminal:
            self.live = rich.live.Live(console=self.console, auto_refresh=False)

    def now(self, cell: Cell, state: str, words: str = "") -> None:
        """Notes what has become of a cell: running, done, failed, or elsewhere."""
        if state == "running":
            self.begun[cell] = time.monotonic(), self.share(cell)
        elif cell in self.begun:
            begun, before = self.begun.pop(cell)
            if state == "done" and before < 0.9:
                self.whole[cell] = (time.monotonic() - begun) / (1 - before)
        self.state[cell], self.words[cell] = state, words
        if self.live is None:
            told = ", ".join(filter(None, [self.count(), self.time_left()]))
            line = f"{state or 'stopped'} {cell.name}{': ' * bool(words)}{words} ({told})"
            print(line, file=sys.stderr, flush=True)

    def count(self) -> str:
        """How many cells are how far."""
        states = list(self.state.values())
        named = {state: states.count(state) for state in ("running", "elsewhere", "failed")}
        beside = "".join(f", {n} {state}" for state, n in named.items() if n)
        return f"{states.count('done')} of {len(states)} done{beside}"

    def share(self, cell: Cell) -> float:
        """How much of its training a running cell has behind it."""
        folder = folder_of(self.out, cell)
        if cell not in self.steps:
            with contextlib.suppress(OSError, ValueError):
                self.steps[cell] = read_json(folder / "config.json")["train"]["steps"]
        return min(1.0, last_step(folder) / max(1, self.steps.get(cell, 0) or sys.maxsize))

    def time_left(self) -> str:
        """When the study will have ended, by the cells that this process has run, if those that run
        others go on; "" as long as there is none to go by.
        """
        now = time.monotonic()
        known = {(cell.config, cell.data): s for cell, s in self.whole.items()}
        for cell, (begun, before) in self.begun.items():
            if (share := self.share(cell) - before) > 0.02:
                known.setdefault((cell.config, cell.data), (now - begun) / share)
        if not known:
            return ""
        usual = sum(known.values()) / len(known)
        others = [cell for cell, state in self.state.items() if state == "elsewhere"]
        waiting = [cell for cell, state in self.state.items() if state in ("", "running")] + others
        left = 0.0
        for cell in waiting:
            whole = known.get((cell.config, cell.data), usual)
            begun, before = self.begun.get(cell, (now, self.share(cell) if cell in others else 0.0))
            left += max(0.0, (1 - before) * whole - (now - begun))
        each = left / max(1, min(self.workers + len(others), len(waiting)))
        return f"about {datetime.timedelta(seconds=round(each))} left" if waiting else ""

    def table(self) -> rich.table.Table:
        """A line for each config on each data set."""
        metric = self.study.metrics[-1]
        table = rich.table.Table(
            title=self.study.question, title_justify="left", caption_justify="left"
        )
        table.caption = "  ".join(filter(None, [self.count(), self.time_left()]))
        table.add_column("config")
        for column in ("data", "done", "running", "failed", metric):
            table.add_column(column, justify="left" if column == "data" else "right")
        for data in self.study.data:
            for config in self.study.configs:
                cells = [c for c in self.cells if (c.config, c.data) == (config, data)]
                table.add_row(config, data, *self.told(cells, metric))
        return table

    def told(self, cells: Sequence[Cell], metric: str) -> tuple[str, str, str, str]:
        """Of the cells of a line: done, running, failed, the mean of a metric."""
        done = [cell for cell in cells if self.state[cell] == "done"]
        running = [f"{self.share(c):.0%}" for c in cells if self.state[c] == "running"]
        running += ["elsewhere" for c in cells if self.state[c] == "elsewhere"]
        failed = sum(self.state[cell] == "failed" for cell in cells)
        asked = next(iter(self.study.asked.values()))
        records = (answer_of(self.out, cell, asked) or {} for cell in done)
        found = [one[metric] for one in records if one.get(metric) is not None]
        mean = f"{sum(found) / len(found):.4f}" if found else ""
        return f"{len(done)}/{len(cells)}", " ".join(running), str(failed or ""), mean

    def elsewhere(self) -> list[Cell]:
        """Notes what others have done; the cells that they have and have not done."""
        for cell, state in list(self.state.items()):
            if state in ("", "elsewhere") and is_done(self.out, self.study, cell):
                self.now(cell, "done")
        return [cell for cell, state in self.state.items() if state == "elsewhere"]

    def draw(self) -> None:
        """Shows the table as it is now."""
        if self.live is not None:
            self.live.update(self.table(), refresh=True)

    def __enter__(self) -> "Board":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.draw()
        finally:
            if self.live is not None:
                self.live.stop()


def last_step(folder: pathlib.Path) -> int:
    """The last step that a run has written of; 0 before the first."""
    path = folder / "metrics.jsonl"
    with contextlib.suppress(OSError, ValueError, IndexError):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").split("\n")
        whole = [line for line in lines[:-1] if line.startswith('{"step": ')]
        return int(whole[-1][len('{"step": ') :].split(",")[0].rstrip("}"))
    return 0


def run_cells(out: pathlib.Path, study: Study, cells: Sequence[Cell], workers: int) -> Board:
    """Runs every cell that is not done, `workers` at once, and tells what became of all.

    A cell that fails does not stop the others, and is tried again when the study is run again; one
    that another process has is left to it, as long as it has it.
    """
    free = places(workers)
    running: dict[subprocess.Popen, tuple[Cell, Place]] = {}
    with (
        stop_on_signals(signal.SIGINT, signal.SIGTERM) as stop,
        Board(out, study, cells, workers) as board,
    ):
        waiting = [cell for cell in cells if not board.state[cell]]
        while running or (waiting and not stop.is_set()):
            while waiting and free and not stop.is_set():
                cell = waiting.pop(0)
                if is_done(out, study, cell) or is_taken(out, cell):  # by another study, meanwhile
                    board.now(cell, "done" if is_done(out, study, cell) else "elsewhere")
                    continue
                place = free.pop(0)
                running[start(out, cell, place)] = cell, place
                board.now(cell, "running")
            for process in [process for process in running if process.poll() is not None]:
                cell, place = running.pop(process)
                free.append(place)
                board.now(cell, *outcome(out, cell, process.returncode, stop.is_set()))
            others = board.elsewhere()
            waiting = [cell for cell in waiting if board.state[cell] != "done"]
            if stop.is_set():
                board.ended_by = stop.number
                for process in running:
                    process.terminate()
            elif not (waiting or running):  # of what others had, something may be free
                waiting = [cell for cell in others if not is_taken(out, cell)]
            board.draw()
            time.sleep(TICK)
    return board


def outcome(out: pathlib.Path, cell: Cell, status: int, stopped: bool) -> tuple[str, str]:
    """What the exit status of a cell means, and why it failed."""
    if status == 0:
        return "done", ""
    if status == TAKEN:
        return "elsewhere", ""
    if stopped:
        return "", ""
    if status < 0:
        return "failed", f"ended by {signal.Signals(-status).name}"
    return "failed", last_words(out, cell).removeprefix("error: ")
