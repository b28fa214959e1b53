"""Logging of a run: metrics.jsonl, TensorBoard events, and a progress line."""

import collections
import contextlib
import datetime
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.live
import rich.text
from google.protobuf import message_factory
from jaxtyping import Float
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import summary_v2
from tensorboard.summary.writer import event_file_writer

from clickflax.runtime.files import atomic, json_lines
from clickflax.runtime.redact import redact
from clickflax.runtime.terminal import Console, printable, say
from clickflax.runtime.wandb_writer import WandbWriter

# protobuf makes its classes at import, where a type checker cannot see them.
Event: Any = message_factory.GetMessageClass(event_pb2.DESCRIPTOR.message_types_by_name["Event"])
# SessionLog.START: TensorBoard drops what an earlier start wrote from this step on.
SESSION_START = 1

# Schema of a line of metrics.jsonl.
METRICS_LINE = {"step": int, str: (float, None)}
SPEED_WINDOW = 30.0  # seconds over which speed is measured


def finite(value: Any) -> Any:
    """Replaces NaN and infinite numbers, which JSON does not have, by None."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(finite(item) for item in value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


class NoOutput:
    """Writer and progress line that do nothing, for all processes but the first."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def trained(self, step: int, sequences: float, loss: float | None = None) -> None:
        """Does nothing."""

    def evaluated(self, name: str, value: float, best: float, best_step: int) -> None:
        """Does nothing."""

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Does nothing."""
        yield

    def __enter__(self) -> "NoOutput":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class MetricsWriter:
    """Writes metrics to `metrics.jsonl`, to TensorBoard and, if `wandb` names a project, to Weights
    & Biases.

    A run that resumes at step `resumed_at` drops later lines, so that its file is that of a run
    that was never interrupted. So write the metrics of a step before saving its checkpoint.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        hparams: Mapping[str, bool | int | float | str | tuple],
        resumed_at: int | None = None,
        wandb: str = "",
    ):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plain = redact({k: str(v) if isinstance(v, tuple) else v for k, v in hparams.items()})
        # First, because an error of W&B must leave the lines of the file.
        self._wandb = WandbWriter(wandb, folder, plain) if wandb else None
        path = folder / "metrics.jsonl"
        _drop_lines_after(path, resumed_at)
        self._lines = path.open("a", encoding="utf-8")
        self._events = event_file_writer.EventFileWriter(str(folder))
        if resumed_at is not None:
            start = Event(step=resumed_at + 1, wall_time=time.time())
            start.session_log.status = SESSION_START
            self._events.add_event(start)
        event = Event(wall_time=time.time())
        event.summary.CopyFrom(summary_v2.hparams_pb(plain))
        self._events.add_event(event)
        self._events.flush()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        values = {k: v if isinstance(v, int) else float(v) for k, v in metrics.items()}
        self._lines.write(json.dumps({"step": int(step), **finite(values)}) + "\n")
        self._lines.flush()
        event = Event(step=int(step), wall_time=time.time())
        for tag, value in values.items():
            event.summary.value.add(tag=tag, simple_value=value)
        self._events.add_event(event)
        self._events.flush()
        if self._wandb:
            self._wandb.write(int(step), values)

    def close(self, failed: bool = False) -> None:
        """Closes the files."""
        self._lines.close()
        self._events.close()
        if self._wandb:
            self._wandb.close(failed)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(failed=kind is not None)


def _drop_lines_after(path: pathlib.Path, step: int | None) -> None:
    """Drops the lines of later steps (all if None), and an incomplete last line."""
    if not path.exists():
        return
    lines = () if step is None else json_lines(path, METRICS_LINE)
    kept = [line for line, value in lines if value["step"] <= (step or 0)]
    with atomic(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")


def write_projector(
    folder: pathlib.Path, vectors: Float[np.ndarray, "N D"], titles: Sequence[str]
) -> None:
    """Writes vectors with their titles for TensorBoard's projector."""
    names = {"items": folder / "items.tsv", "titles": folder / "titles.tsv"}
    lines = ("\t".join(f"{value:.5g}" for value in row) for row in vectors)
    names["items"].write_text("\n".join(lines) + "\n", encoding="utf-8")
    plain = (" ".join(title.split()) for title in titles)  # a tab would start another column
    names["titles"].write_text("\n".join(plain) + "\n", encoding="utf-8")
    config = projector.ProjectorConfig()
    shown = config.embeddings.add()
    shown.tensor_name = "items"
    shown.tensor_path, shown.metadata_path = (path.name for path in names.values())
    projector.visualize_embeddings(str(folder), config)


class ProgressBar:
    """A live progress line: step, time left, loss, sequences per second, best metric so far.

    If standard error is not a terminal, it prints one plain line per evaluation. Speed is that of
    the last half minute of training, without the first step, which compiles, and without
    evaluations.
    """

    def __init__(
        self,
        total: int,
        step: int = 0,
        eval_every: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock = clock
        self._total = total
        self._step = step
        self._eval_every = eval_every
        # Sums of training seconds, steps and sequences after each step of the window.
        self._sums: collections.deque[tuple[float, int, float]] = collections.deque()
        self._mark = 0.0  # time of the end of the last step, or of the evaluation after it
        self._begun: float | None = None  # start of the current evaluation
        self._eval_seconds: float | None = None
        self._loss = ""
        self._best = ""
        self._activity = "compiling"
        self._live = None
        console = Console(stderr=True)
        if sys.stderr.isatty() and not console.is_dumb_terminal:
            # Standard output is for results.
            self._live = rich.live.Live(console=console, auto_refresh=False, redirect_stdout=False)
        self._shown = -math.inf

    def trained(self, step: int, sequences: float, loss: float | None = None) -> None:
        """Reports a finished step and the number of sequences trained on since the last call."""
        now = self._clock()
        if self._sums:
            seconds, steps, count = self._sums[-1]
            seconds += now - self._mark
            self._sums.append((seconds, steps + step - self._step, count + sequences))
            while seconds - self._sums[1][0] > SPEED_WINDOW:
                self._sums.popleft()
        else:
            self._sums.append((0.0, 0, 0.0))
        self._mark = now
        self._step = step
        self._activity = ""
        if loss is not None:
            self._loss = f"loss {loss:.4f}"
        self._show()

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """A context whose time does not count as training; wait for the device before entering."""
        self._begun = self._clock()
        self._activity = "evaluating"
        self._show(now=True)
        yield
        self._end_evaluation()
        self._begun = None

    def evaluated(self, name: str, value: float, best: float, best_step: int) -> None:
        """Reports the monitored metric, and the best value so far with its step."""
        self._best = f"best {name} {best:.4f} at {best_step}"
        self._end_evaluation()
        self._show(now=True)
        if self._live is None:
            say(f"step {self.line()}, now {value:.4f}", error=True)

    def _end_evaluation(self) -> None:
        """Records the time of the current evaluation, if any."""
        if self._begun is not None:
            self._mark = self._clock()
            self._eval_seconds = self._mark - self._begun
            self._activity = ""

    def sequences_per_second(self) -> float:
        """Speed over the window; NaN before the second step."""
        seconds, _, sequences = self._over_window()
        return sequences / seconds if seconds else math.nan

    def seconds_left(self) -> float:
        """Time for the remaining steps and evaluations; these count 0 before the first one."""
        seconds, steps, _ = self._over_window()
        left = (self._total - self._step) * seconds / steps if steps else math.nan
        return left + self._evaluations_left() * (self._eval_seconds or 0.0)

    def line(self) -> str:
        """The text of the line, the most important first: a narrow terminal cuts the end."""
        speed = self.sequences_per_second()
        left = self.seconds_left()
        evaluations = self._evaluations_left() if self._eval_seconds is None else 0
        untimed = f" + {evaluations} evaluations" if evaluations else ""
        time_left = datetime.timedelta(seconds=0 if math.isnan(left) else round(left))
        parts = [
            f"{self._step}/{self._total}",
            self._activity or ("" if math.isnan(left) else f"{time_left}{untimed} left"),
            self._loss,
            "" if math.isnan(speed) else f"{speed:,.0f} sequences/s",
            self._best,
        ]
        return "  ".join(part for part in parts if part)

    def _over_window(self) -> tuple[float, int, float]:
        """Seconds, steps and sequences of the window."""
        if not self._sums:
            return 0.0, 0, 0.0
        first = self._sums[0]
        last = self._sums[-1]
        return last[0] - first[0], last[1] - first[1], last[2] - first[2]

    def _evaluations_left(self) -> int:
        """The number of remaining evaluations, including one at the end."""
        if not self._eval_every or self._step >= self._total:
            return 0
        return math.ceil(self._total / self._eval_every) - self._step // self._eval_every

    def _show(self, now: bool = False) -> None:
        """Redraws the line, at most twice a second unless `now`."""
        if self._live is not None and (now or self._clock() - self._shown > 0.5):
            self._shown = self._clock()
            text = rich.text.Text(printable(self.line()), no_wrap=True, overflow="ellipsis")
            self._live.update(text, refresh=True)

    def __enter__(self) -> "ProgressBar":
        if self._live is not None:
            self._live.start()
        self._show(now=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._show(now=True)
        if self._live is not None:
            self._live.stop()
