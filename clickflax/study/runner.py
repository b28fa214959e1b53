"""Runs the cells of a study, several at the same time, each in its own process."""

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

import rich.live
import rich.table

from clickflax.runtime.signals import stop_on_signals
from clickflax.runtime.terminal import Console, say
from clickflax.study.cell import LOCKED, is_done, is_running
from clickflax.study.paired import read_cell_record
from clickflax.study.plan import Cell, Study, cell_folder, read_cell_config

TICK = 0.5  # seconds between two checks of the workers

# States of a cell; one that waits or was stopped has the state "".
RUNNING, ELSEWHERE, DONE, FAILED = "running", "running elsewhere", "done", "failed"


class WorkerResources(NamedTuple):
    """CPU cores of a worker, and its accelerators if the machine has several."""

    cores: tuple[int, ...]
    accelerators: tuple[str, ...] = ()
    sharing: int = 1  # workers that use the same accelerator


def split_resources(workers: int) -> list[WorkerResources]:
    """The cores of this process, and the GPUs that it may use, split among the workers."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    every = [path.name.removeprefix("nvidia") for path in pathlib.Path("/dev").glob("nvidia[0-9]*")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(sorted(every, key=int)))
    gpus = [one for one in visible.split(",") if one]

    def share(of: Sequence[Any], i: int) -> tuple[Any, ...]:
        if len(of) < workers:
            return (of[i % len(of)],) if of else ()
        return tuple(of[i * len(of) // workers : (i + 1) * len(of) // workers])

    sharing = -(-workers // len(gpus)) if gpus else 1
    return [WorkerResources(share(cores, i), share(gpus, i), sharing) for i in range(workers)]


def start_cell(out: pathlib.Path, cell: Cell, resources: WorkerResources) -> subprocess.Popen:
    """Starts the process of a cell, in its own session, so that Ctrl-C does not reach it."""
    environment = dict(os.environ)
    if resources.accelerators:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(resources.accelerators)
        if resources.sharing > 1:  # without a limit, the first process takes nearly all memory
            fraction = str(round(0.9 / resources.sharing, 3))
            environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", fraction)
    call = [sys.executable, "-m", "clickflax.study.cell", "--", str(out), cell.name]
    call += [",".join(map(str, resources.cores))] if resources.cores else []
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


def last_log_line(out: pathlib.Path, cell: Cell) -> str:
    """The last line in the log of a cell."""
    path = out / "logs" / f"{cell.name}.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")


class StudyProgress:
    """The state of each cell, and the time left.

    It is a live table, or, if standard error is not a terminal, a line for each cell that starts or
    ends.
    """

    def __init__(self, out: pathlib.Path, study: Study, cells: Sequence[Cell], workers: int):
        self.out = out
        self.study = study
        self.cells = cells
        self.workers = workers
        self.state = {cell: DONE if is_done(out, study, cell) else "" for cell in cells}
        self.reason: dict[Cell, str] = {}  # of a failure
        self.started: dict[Cell, tuple[float, float]] = {}  # time, and share of training done then
        self.seconds: dict[Cell, float] = {}  # of a whole cell, for those that this process has run
        self.steps: dict[Cell, int] = {}
        self.stopped_by = 0  # the signal that has stopped the study
        self.console = Console(stderr=True)
        self.live = None
        if sys.stderr.isatty() and not self.console.is_dumb_terminal:
            self.live = rich.live.Live(console=self.console, auto_refresh=False)

    def set_state(self, cell: Cell, state: str, reason: str = "") -> None:
        """Records, and reports, the new state of a cell."""
        if state == RUNNING:
            self.started[cell] = time.monotonic(), self.share(cell)
        elif cell in self.started:
            start, before = self.started.pop(cell)
            if state == DONE and before < 0.9:
                self.seconds[cell] = (time.monotonic() - start) / (1 - before)
        self.state[cell] = state
        self.reason[cell] = reason
        if self.live is None:
            explained = f"{cell.name}: {reason}" if reason else cell.name
            summary = ", ".join(filter(None, [self.counts(), self.time_left()]))
            say(f"{state or 'stopped'} {explained} ({summary})", error=True)

    def counts(self) -> str:
        """The number of cells in each state, as text."""
        states = list(self.state.values())
        others = {state: states.count(state) for state in (RUNNING, ELSEWHERE, FAILED)}
        more = "".join(f", {count} {state}" for state, count in others.items() if count)
        return f"{states.count(DONE)} of {len(states)} done{more}"

    def share(self, cell: Cell) -> float:
        """The share of its training steps that a cell has done."""
        folder = cell_folder(self.out, cell)
        if cell not in self.steps:
            with contextlib.suppress(OSError, ValueError):
                self.steps[cell] = read_cell_config(folder).train.steps
        return min(1.0, last_step(folder) / max(1, self.steps.get(cell, 0) or sys.maxsize))

    def time_left(self) -> str:
        """An estimate of the time left, as text; "" before any cell has been timed.

        It is based on the cells that this process has run, and assumes that other processes go on
        with theirs.
        """
        now = time.monotonic()
        known = {(cell.config, cell.data): s for cell, s in self.seconds.items()}
        for cell, (start, before) in self.started.items():
            if (share := self.share(cell) - before) > 0.02:
                known.setdefault((cell.config, cell.data), (now - start) / share)
        if not known:
            return ""
        mean = sum(known.values()) / len(known)
        others = [cell for cell, state in self.state.items() if state == ELSEWHERE]
        waiting = [cell for cell, state in self.state.items() if state in ("", RUNNING)] + others
        left = 0.0
        for cell in waiting:
            whole = known.get((cell.config, cell.data), mean)
            default = (now, self.share(cell) if cell in others else 0.0)
            start, before = self.started.get(cell, default)
            left += max(0.0, (1 - before) * whole - (now - start))
        each = left / max(1, min(self.workers + len(others), len(waiting)))
        return f"about {datetime.timedelta(seconds=round(each))} left" if waiting else ""

    def table(self) -> rich.table.Table:
        """A table with a row for each config on each data set."""
        metric = self.study.metrics[-1]
        table = rich.table.Table(
            title=self.study.question, title_justify="left", caption_justify="left"
        )
        table.caption = "  ".join(filter(None, [self.counts(), self.time_left()]))
        table.add_column("config")
        for column in ("data", "done", "running", "failed", metric):
            table.add_column(column, justify="left" if column == "data" else "right")
        for data in self.study.data:
            for config in self.study.configs:
                cells = [c for c in self.cells if (c.config, c.data) == (config, data)]
                table.add_row(config, data, *self.row(cells, metric))
        return table

    def row(self, cells: Sequence[Cell], metric: str) -> tuple[str, str, str, str]:
        """The numbers of a table row: done, running, failed, and the mean of a metric."""
        done = [cell for cell in cells if self.state[cell] == DONE]
        running = [f"{self.share(c):.0%}" for c in cells if self.state[c] == RUNNING]
        running += ["elsewhere" for c in cells if self.state[c] == ELSEWHERE]
        failed = sum(self.state[cell] == FAILED for cell in cells)
        settings = next(iter(self.study.evaluations.values()))
        records = (read_cell_record(self.out, cell, settings) or {} for cell in done)
        values = [record[metric] for record in records if record.get(metric) is not None]
        mean = f"{sum(values) / len(values):.4f}" if values else ""
        return f"{len(done)}/{len(cells)}", " ".join(running), str(failed or ""), mean

    def update_elsewhere(self) -> list[Cell]:
        """Records the cells that other processes have done; returns those that they still run."""
        for cell, state in list(self.state.items()):
            if state in ("", ELSEWHERE) and is_done(self.out, self.study, cell):
                self.set_state(cell, DONE)
        return [cell for cell, state in self.state.items() if state == ELSEWHERE]

    def draw(self) -> None:
        """Updates the live table."""
        if self.live is not None:
            self.live.update(self.table(), refresh=True)

    def __enter__(self) -> "StudyProgress":
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
    """The last step in the metrics of a run; 0 before the first."""
    path = folder / "metrics.jsonl"
    with contextlib.suppress(OSError, ValueError, IndexError):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").split("\n")
        whole = [line for line in lines[:-1] if line.startswith('{"step": ')]
        return int(whole[-1][len('{"step": ') :].split(",")[0].rstrip("}"))
    return 0


def run_cells(
    out: pathlib.Path, study: Study, cells: Sequence[Cell], workers: int
) -> StudyProgress:
    """Runs every cell that is not done, `workers` at the same time.

    If a cell fails, the others go on; it is tried again when the study is run again. Cells that
    another process runs are left to it, and taken over if it dies.
    """
    free = split_resources(workers)
    running: dict[subprocess.Popen, tuple[Cell, WorkerResources]] = {}
    with (
        # Its cells end in time, and save; until then it waits for them.
        stop_on_signals(lambda _: None) as stop,
        StudyProgress(out, study, cells, workers) as progress,
    ):
        waiting = [cell for cell in cells if not progress.state[cell]]
        while running or (waiting and not stop.is_set()):
            while waiting and free and not stop.is_set():
                cell = waiting.pop(0)
                # Another process may have taken it since.
                if is_done(out, study, cell) or is_running(out, cell):
                    progress.set_state(cell, DONE if is_done(out, study, cell) else ELSEWHERE)
                    continue
                resources = free.pop(0)
                running[start_cell(out, cell, resources)] = cell, resources
                progress.set_state(cell, RUNNING)
            for process in [process for process in running if process.poll() is not None]:
                cell, resources = running.pop(process)
                free.append(resources)
                progress.set_state(cell, *outcome(out, cell, process.returncode, stop.is_set()))
            others = progress.update_elsewhere()
            waiting = [cell for cell in waiting if progress.state[cell] != DONE]
            if stop.is_set():
                stop.react()
                progress.stopped_by = stop.number
                for process in running:
                    process.terminate()
            elif not (waiting or running):
                waiting = [cell for cell in others if not is_running(out, cell)]
            progress.draw()
            time.sleep(TICK)
    return progress


def outcome(out: pathlib.Path, cell: Cell, status: int, stopped: bool) -> tuple[str, str]:
    """The state of a cell whose process has ended with an exit status, and why it failed."""
    if status == 0:
        return DONE, ""
    if status == LOCKED:
        return ELSEWHERE, ""
    if stopped:
        return "", ""
    if status < 0:
        return FAILED, f"ended by {signal.Signals(-status).name}"
    return FAILED, last_log_line(out, cell).removeprefix("error: ")
