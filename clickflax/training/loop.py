"""`clickflax train`: trains a run in its folder; started again, it resumes."""

import argparse
import functools
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array
from ml_collections import ConfigDict

from clickflax.batch import RESERVED
from clickflax.config.default import knobs
from clickflax.config.flags import add_processes, flags_of, parse_flags
from clickflax.data.splits.common import events_inside
from clickflax.model.model import Model
from clickflax.run.folder import last_checkpoint, load_run
from clickflax.run.sharded_tables import trim_tables
from clickflax.runtime import checkpoint, processes, sharding
from clickflax.runtime.log import MetricsWriter, NoOutput, ProgressBar, write_projector
from clickflax.runtime.params import count_params, split_params
from clickflax.runtime.signals import (
    Stopped,
    StopRequest,
    end_on_signals,
    name_of,
    stop_on_signals,
)
from clickflax.runtime.terminal import say
from clickflax.tasks.label_metrics import LOWER_IS_BETTER
from clickflax.tasks.task import qualify
from clickflax.training.progress import (
    Progress,
    Reached,
    last_saved,
    resume_training,
    saved_at,
)
from clickflax.training.setup import TrainContext, set_up
from clickflax.training.step import State
from clickflax.training.workdir import lock_workdir

PROJECTED = 10_000  # items that TensorBoard's projector has to draw
# One program: on its own, the norm is 60 programs, which take 2 s to compile.
parameter_norm = jax.jit(optax.global_norm)


class Output(NamedTuple):
    """Where a training reports: files of metrics, and the progress line."""

    writer: MetricsWriter | NoOutput
    bar: ProgressBar | NoOutput


def batch_fingerprint(batch: Any) -> str:
    """Sixteen characters that tell one batch from another."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(batch):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def check_finite(context: TrainContext, step: int, metrics: Mapping[str, float]) -> None:
    """Raises FloatingPointError if a loss, gradient norm or parameter is NaN or infinite."""
    if all(map(math.isfinite, metrics.values())):
        return
    batches = [one.batch(context.config.seed, step) for one in context.data.batches.values()]
    kept = checkpoint.newest(last_checkpoint(context.folder))
    values = ", ".join(f"{name} {value}" for name, value in metrics.items())
    raise FloatingPointError(
        f"step {step + 1}: {values}. The batch has the fingerprint {batch_fingerprint(batches)}; "
        f"the checkpoint of step {kept or 0} is kept. In another workdir, try a smaller "
        "config.optim.learning_rate or config.optim.clip_norm."
    )


def validate(
    context: TrainContext, state: State, progress: Progress, output: Output, reached: Reached
) -> Progress:
    """Evaluates the validation split, and saves the state, and the parameters if they are best."""
    step = progress.step
    monitor = context.config.train.monitor
    check_finite(context, step - 1, {"parameter_norm": float(parameter_norm(state.params))})
    metrics: dict[str, float] = {}
    with reached.at(state, progress._replace(unvalidated=True)):
        for name, evaluator in context.evaluators.items():
            if len(evaluator.data.validation):
                values = evaluator.evaluate(state.params, "validation").metrics
                metrics |= qualify(name, values, len(context.evaluators) > 1)
    progress = progress._replace(unvalidated=False)
    best = monitor in metrics and is_best(monitor, metrics[monitor], progress)
    if monitor in metrics:
        value = metrics[monitor]
        if best:
            progress = progress._replace(best=value, best_step=step, evaluations_since=0)
        else:
            progress = progress._replace(evaluations_since=progress.evaluations_since + 1)
        named = {f"validation/{name}": number for name, number in metrics.items()}
        output.writer.write(step, {**named, "seconds": round(progress.seconds, 2)})
        output.bar.evaluated(monitor, value, progress.best or value, progress.best_step)
    if best:
        # Two are kept: until the state is saved, too, the last one names the best one before.
        folder = context.folder / "checkpoints" / "best"
        checkpoint.save(folder, step, progress._asdict(), params=state.params)
    reached.save(state, progress)
    return progress


def is_best(monitor: str, value: float, progress: Progress) -> bool:
    """Whether a validation is better than all before. Raises ValueError if it is NaN."""
    if math.isnan(value):
        raise ValueError(
            f"config.train.monitor={monitor!r} is undefined: all labels of the validation are the "
            "same. Name another metric, or move config.data.validation_from."
        )
    sign = -1 if monitor.split("/")[-1] in LOWER_IS_BETTER else 1
    return progress.best is None or sign * value > sign * progress.best


class StepLog:
    """Reads the metrics of steps that were sent to the devices, and reports them."""

    def __init__(self, context: TrainContext, output: Output, losses: Sequence[float]):
        self.context = context
        self.output = output
        self.losses = list(losses)  # since the last line of metrics
        self._sent: tuple[int, Mapping[str, Array]] | None = None
        self._sequences = sum(one.windows_per_batch for one in context.data.batches.values())

    def end_of_stretch(self, step: int) -> int:
        """The step at which the next validation is due."""
        train = self.context.config.train
        return min((step // train.eval_every + 1) * train.eval_every, train.steps)

    def sent(self, first: int, metrics: Mapping[str, Array]) -> None:
        """Takes the metrics of steps that were just sent, and reads those sent before: the host
        never waits for the devices.
        """
        self.read()
        self._sent = (first, metrics)

    def read(self) -> None:
        """Reads the metrics of the steps that were sent last."""
        if self._sent is None:
            return
        first, metrics = self._sent
        self._sent = None
        steps = {name: np.asarray(values) for name, values in metrics.items()}
        count = len(steps["loss"])
        for i in range(count):
            self._read_one(first + i, {name: float(values[i]) for name, values in steps.items()})
        last = float(steps["loss"][-1])
        self.output.bar.trained(first + count, count * self._sequences, last)

    def _read_one(self, step: int, metrics: Mapping[str, float]) -> None:
        """Checks the metrics of a step, and writes them where a line is due."""
        check_finite(self.context, step, metrics)
        self.losses.append(metrics["loss"])
        due = (step + 1) % self.context.config.train.log_every == 0
        # Also where a run may resume: it could not know the losses before.
        if due or step + 1 == self.end_of_stretch(step):
            mean = float(np.mean(self.losses))
            self.output.writer.write(step + 1, {**metrics, "loss": mean})
            self.losses.clear()


def run_steps(
    context: TrainContext,
    state: State,
    progress: Progress,
    output: Output,
    reached: Reached,
    stop: StopRequest,
) -> Progress:
    """The training loop. The host reads metrics after it has sent the next steps.

    When `stop` is set, it saves the state after the steps that were sent, and raises Stopped; a run
    that resumes from there is bit for bit the same.
    """
    train = context.config.train
    begin, before = time.perf_counter(), progress.seconds
    log = StepLog(context, output, progress.losses)
    step, dispatches = progress.step, 0
    while step < train.steps or progress.unvalidated:
        end, stopping = step, False
        if not progress.unvalidated:
            end = log.end_of_stretch(step)
            count = min(context.steps.at_once, end - step)
            state, metrics = context.steps(state, step, count)
            reached.sent = True
            log.sent(step, metrics)
            step += count
            dispatches += 1
            stopping = processes.agree_to_stop(stop.is_set(), dispatches)
            if step < end and not stopping:
                continue
            log.read()
            seconds = before + time.perf_counter() - begin
            progress = progress._replace(step=step, seconds=seconds, losses=tuple(log.losses))
        if stopping:
            stop.react()
            reached.save(state, progress._replace(unvalidated=step == end))
        else:
            with output.bar.evaluation():
                progress = validate(context, state, progress, output, reached)
        # A signal may have come in the meantime; several processes agree on it at the next call.
        if stopping or (stop.is_set() and step < train.steps):
            stop.react()
            raise Stopped(f"ended by {name_of(stop.number)}{saved_at(step)}", stop.number)
        if train.patience and progress.evaluations_since >= train.patience:
            break
    return progress


def banner(context: TrainContext, state: State, progress: Progress) -> str:
    """What is about to be trained, on what, and what the split left out."""
    dataset = context.data.dataset
    params = jax.eval_shape(functools.partial(trim_tables, context.model), state.params)
    lines = [
        f"{dataset.path}: {dataset.sequences:,} sequences, {dataset.events:,} events, "
        f"{dataset.size('item') - RESERVED:,} items"
    ]
    lines += [task_line(context, name) for name in context.data.tasks]
    lines.append(
        f"{count_params(params):,} parameters{origin_note(context, params)} on "
        f"{context.mesh.size} x {jax.default_backend()}{sharing_note(context)}, "
        + (f"resumed at step {progress.step:,}" if progress.step else "a new run")
    )
    return "\n".join(lines)


def task_line(context: TrainContext, name: str) -> str:
    """The windows, rows and examples of a task, and what was dropped."""
    data = context.data.tasks[name]
    batches = context.data.batches[name]
    packing = batches.packing
    length = batches.layout.max_len
    padding = 1 - packing.length.sum() / (packing.rows * length)
    dropped = data.dropped | {"too short to train on": batches.dropped}
    if not data.task.ranks and context.config.data.window == "last":
        label = np.isfinite(data.labels[name])
        unseen = label & ~events_inside(batches.windows, len(label))
        dropped |= {"training labels before the last events of their range": int(unseen.sum())}
    return (
        f"{name}: {len(batches.windows.start):,} windows in {packing.rows:,} rows of {length} "
        f"({padding:.1%} padding), {batches.rows} rows a step, "
        f"{len(data.validation):,} validation examples"
        + "".join(f", {count:,} {reason}" for reason, count in dropped.items() if count)
    )


def sharing_note(context: TrainContext) -> str:
    """How many devices share each table, in brackets; "" if each has all of it."""
    shares = context.config.train.model_devices
    return f" ({shares} share each table)" if shares > 1 else ""


def origin_note(context: TrainContext, params: Any) -> str:
    """Where parameters came from and how many are frozen, in brackets; "" if all are fresh."""
    parts = context.parts
    frozen = count_params(split_params(params, parts.frozen)[1])
    until = f" for {parts.thaw:,} steps" if parts.thaw else ""
    notes = [str(context.transferred)] if context.transferred else []
    notes += [f"{frozen:,} frozen{until}"] if frozen else []
    return f" ({'; '.join(notes)})" if notes else ""


def train(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Trains the run in `workdir`, or resumes it; returns its step, best metric and seconds.

    Raises Locked if another process trains there.
    """
    sharding.use_devices(config.train.cpu_devices)
    folder = pathlib.Path(workdir)
    with lock_workdir(folder):
        saved = saved_at(last_saved(folder))
        with end_on_signals(saved, processes.several()):
            context, state = set_up(config, folder)
        with context.steps:
            with end_on_signals(saved, processes.several()):
                state, progress = resume_training(context, state)
            progress = train_from(context, state, progress)
    return {
        "run": str(folder),
        "step": progress.step,
        f"validation/{config.train.monitor}": progress.best,
        "best_step": progress.best_step,
        "seconds": round(progress.seconds, 1),
    }


def train_from(context: TrainContext, state: State, progress: Progress) -> Progress:
    """Trains from a state on, unless it has come to its end; returns the progress."""
    config = context.config.train
    first = processes.is_first()
    if first:
        say(banner(context, state, progress), error=True)
    stopped = bool(config.patience) and progress.evaluations_since >= config.patience
    if stopped or (progress.step >= config.steps and not progress.unvalidated):
        return progress
    about = (context.folder, knobs(context.config), progress.step, config.wandb)
    total = (config.steps, progress.step, config.eval_every)
    reached = Reached(context, progress.step)
    with (
        MetricsWriter(*about) if first else NoOutput() as writer,
        ProgressBar(*total) if first else NoOutput() as bar,
        stop_on_signals(reached.last_words, processes.several()) as stop,
    ):
        return run_steps(context, state, progress, Output(writer, bar), reached, stop)


def write_item_projection(folder: pathlib.Path) -> None:
    """Writes the best item vectors for TensorBoard's projector; of many, the most frequent."""
    run = load_run(folder)

    def table(model: Model) -> Array:
        return model.embedder.table("item")[RESERVED : RESERVED + PROJECTED]

    variables = {"params": run.params, "constants": run.constants}
    vectors = run.model.apply(variables, method=table)
    write_projector(folder, np.asarray(vectors, np.float32), run.items.names()[:PROJECTED])


def parse_train_flags(argv: Sequence[str]) -> tuple[ConfigDict, argparse.Namespace]:
    """The config and the flags of `--config=FILE --workdir=DIR --config.train.steps=100`."""
    parser = flags_of("train", "--workdir=DIR")
    parser.description = "Train a model. Started again with the same work folder, it resumes."
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    add_processes(parser)
    return parse_flags(parser, argv)


def main(argv: list[str]) -> None:
    """`clickflax train --config=FILE --workdir=DIR`."""
    config, flags = parse_train_flags(argv)
    sharding.use_devices(config.train.cpu_devices)
    processes.start_processes(flags.coordinator, flags.processes, flags.process, flags.devices)
    result = train(config, flags.workdir)
    if processes.is_first():
        write_item_projection(pathlib.Path(flags.workdir))
        print(json.dumps(result))
    processes.wait_for_all("end")
