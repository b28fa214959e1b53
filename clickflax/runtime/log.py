"""What a run tells while it works: metrics.jsonl, TensorBoard events, and a line of progress."""

import collections
import contextlib
import datetime
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.live
import rich.text
from google.protobuf import message_factory
from jaxtyping import Float
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import summary_v2
from tensorboard.summary.writer import event_file_writer

from clickflax.runtime.mirror import Mirror

# protobuf makes its classes at import, where a type checker cannot see them.
Event: Any = message_factory.GetMessageClass(event_pb2.DESCRIPTOR.message_types_by_name["Event"])
TIMER_START = (
    1  # SessionLog.START: TensorBoard forgets what an earlier start wrote from this step on
)

WINDOW = 30.0  # seconds over which speed is measured


def finite(value: Any) -> Any:
    """The same, with None for every number in it that is not finite: JSON has none of these."""
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(finite(one) for one in value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


class NoOutput:
    """Tells nothing: what all processes but the first have, where several train together."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes nothing."""

    def trained(self, step: int, sequences: float, loss: float | None = None) -> None:
        """Shows nothing."""

    def evaluated(self, name: str, value: float, best: float, best_step: int) -> None:
        """Shows nothing."""

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Shows nothing."""
        yield

    def __enter__(self) -> "NoOutput":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class MetricsWriter:
    """Writes metrics to `metrics.jsonl` and, with the hyper-parameters, to TensorBoard; to a
    project of Weights & Biases, too, where one is named.

    A run that resumes at step `resumed_at` drops what was written after it, so that its file is
    the one of a run that was never interrupted. So write the metrics of a step before the
    checkpoint of that step is saved.
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
        plain = {k: str(v) if isinstance(v, tuple) else v for k, v in hparams.items()}
        # first: without W&B nothing must be dropped
        self._mirror = Mirror(wandb, folder, plain) if wandb else None
        path = folder / "metrics.jsonl"
        _keep(path, resumed_at)
        self._lines = path.open("a", encoding="utf-8")
        self._events = event_file_writer.EventFileWriter(str(folder))
        if resumed_at is not None:
            start = Event(step=resumed_at + 1, wall_time=time.time())
            start.session_log.status = TIMER_START
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
        if self._mirror:
            self._mirror.write(int(step), values)

    def close(self, failed: bool = False) -> None:
        """Closes the files."""
        self._lines.close()
        self._events.close()
        if self._mirror:
            self._mirror.close(failed)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(failed=kind is not None)


def _keep(path: pathlib.Path, last: int | None) -> None:
    """Drops the lines of `path` after step `last` (all for None), and one half written."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = (line for line in lines if line.endswith("\n"))
    kept = [line for line in whole if last is not None and json.loads(line)["step"] <= last]
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def write_projector(
    folder: pathlib.Path, vectors: Float[np.ndarray, "N D"], titles: Sequence[str]
) -> None:
    """Vectors with their titles, as TensorBoard's projector shows them."""
    names = {"items": folder / "items.tsv", "titles": folder / "titles.tsv"}
    lines = ("\t".join(f"{value:.5g}" for value in row) for row in vectors)
    names["items"].write_text("\n".join(lines) + "\n", encoding="utf-8")
    plain = (" ".join(title.split()) for title in titles)  # a tab would begin another column
    names["titles"].write_text("\n".join(plain) + "\n", encoding="utf-8")
    config = projector.ProjectorConfig()
    shown = config.embeddings.add()
    shown.tensor_name = "items"
    shown.tensor_path, shown.metadata_path = (path.name for path in names.values())
    projector.visualize_embeddings(str(folder), config)


class ProgressBar:
    """One live line: step, time left, loss, sequences a second, best so far.

    Where standard error is no terminal it is one plain line an evaluation. Speed is that of
    the last half minute of training: the first step, which compiles, and what happens in
    `evaluation()` do not count.
    """

    def __init__(
        self,
        total: int,
        step: int = 0,
        eval_every: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock = clock
        self._total, self._step, self._eval_every = total, step, eval_every
        # Seconds of training, steps and sequences: their sums after each step of the window.
        self._sums: collections.deque[tuple[float, int, float]] = collections.deque()
        self._mark = 0.0  # when the last step, or the evaluation after it, was done
        self._begun: float | None = None  # when the evaluation that is under way began
        self._eval_seconds: float | None = None
        self._loss = self._best = ""
        self._doing = "compiling"
        self._live = None
        console = rich.console.Console(stderr=True)
        if sys.stderr.isatty() and not console.is_dumb_terminal:
            # Standard output is left alone: results belong there.
            self._live = rich.live.Live(console=console, auto_refresh=False, redirect_stdout=False)
        self._shown = -math.inf

    def trained(self, step: int, sequences: float, loss: float | None = None) -> None:
        """Notes that `step` is done, and how many sequences were trained on since the last call."""
        now = self._clock()
        if self._sums:
            seconds, steps, count = self._sums[-1]
            done = (seconds + now - self._mark, steps + step - self._step, count + sequences)
            self._sums.append(done)
            while done[0] - self._sums[1][0] > WINDOW:
                self._sums.popleft()
        else:
            self._sums.append((0.0, 0, 0.0))
        self._mark, self._step, self._doing = now, step, ""
        if loss is not None:
            self._loss = f"loss {loss:.4f}"
        self._show()

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """What happens inside is not training; wait for the device before it begins."""
        self._begun = self._clock()
        self._doing = "evaluating"
        self._show(now=True)
        yield
        self._end_evaluation()
        self._begun = None

    def evaluated(self, name: str, value: float, best: float, best_step: int) -> None:
        """Notes the monitored metric of an evaluation, and the best one so far with its step."""
        self._best = f"best {name} {best:.4f} at {best_step}"
        self._end_evaluation()
        self._show(now=True)
        if self._live is None:
            print(f"step {self.line()}, now {value:.4f}", file=sys.stderr, flush=True)

    def _end_evaluation(self) -> None:
        """Takes the time of the evaluation that is under way, if one is."""
        if self._begun is not None:
            self._mark = self._clock()
            self._eval_seconds = self._mark - self._begun
            self._doing = ""

    def sequences_per_second(self) -> float:
        """Speed over the window; NaN until two steps are done."""
        seconds, _, sequences = self._over_window()
        return sequences / seconds if seconds else math.nan

    def seconds_left(self) -> float:
        """Time for the steps and the evaluations to come; one never yet timed counts nothing."""
        seconds, steps, _ = self._over_window()
        left = (self._total - self._step) * seconds / steps if steps else math.nan
        return left + self._evaluations_left() * (self._eval_seconds or 0.0)

    def line(self) -> str:
        """What is known so far, the most wanted first: a narrow terminal cuts the end."""
        speed, left = self.sequences_per_second(), self.seconds_left()
        to_come = self._evaluations_left() if self._eval_seconds is None else 0
        untimed = f" + {to_come} evaluations" if to_come else ""
        time_left = datetime.timedelta(seconds=0 if math.isnan(left) else round(left))
        parts = [
            f"{self._step}/{self._total}",
            self._doing or ("" if math.isnan(left) else f"{time_left}{untimed} left"),
            self._loss,
            "" if math.isnan(speed) else f"{speed:,.0f} sequences/s",
            self._best,
        ]
        return "  ".join(part for part in parts if part)

    def _over_window(self) -> tuple[float, int, float]:
        """Seconds, steps and sequences of the window."""
        if not self._sums:
            return 0.0, 0, 0.0
        first, last = self._sums[0], self._sums[-1]
        return last[0] - first[0], last[1] - first[1], last[2] - first[2]

    def _evaluations_left(self) -> int:
        """How many evaluations are to come, one at the end included."""
        if not self._eval_every or self._step >= self._total:
            return 0
        return math.ceil(self._total / self._eval_every) - self._step // self._eval_every

    def _show(self, now: bool = False) -> None:
        """Draws the line anew, at most twice a second unless it must be `now`."""
        if self._live is not None and (now or self._clock() - self._shown > 0.5):
            self._shown = self._clock()
            text = rich.text.Text(self.line(), no_wrap=True, overflow="ellipsis")
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
