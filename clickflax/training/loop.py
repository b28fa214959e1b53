"""`clickflax train`: from a config to a run folder; started again, it goes on where it was."""

import argparse
import functools
import hashlib
import json
import math
import pathlib
import signal
import sys
import threading
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
from clickflax.evaluation.record import prefix_metrics
from clickflax.model.model import Model
from clickflax.model.names import table_rows
from clickflax.run.folder import last_checkpoint, load_run
from clickflax.run.sharded_tables import trim_tables
from clickflax.runtime import checkpoint, processes, sharding
from clickflax.runtime.log import MetricsWriter, NoOutput, ProgressBar, write_projector
from clickflax.runtime.params import count_params, split_params
from clickflax.runtime.signals import Stopped, stop_on_signals
from clickflax.tasks.label_metrics import LOWER_IS_BETTER
from clickflax.tasks.task import LABELS
from clickflax.training.setup import TrainContext, set_up
from clickflax.training.step import State

PROJECTED = 10_000  # items that the projector has to draw
parameter_norm = jax.jit(
    optax.global_norm
)  # one program: alone it is 60, which take 2 s to compile


class Progress(NamedTuple):
    """What a run knows of its own past, beside the state; kept with every checkpoint."""

    step: int = 0
    seconds: float = 0.0  # up to this step, over all starts of the run; validation included
    best: float | None = None
    best_step: int = 0
    evaluations_since: int = 0  # without a new best
    losses: tuple[float, ...] = ()  # of the last steps, whose mean has not been written


def batch_fingerprint(batch: Any) -> str:
    """Sixteen characters that tell one batch from another."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(batch):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def resume_training(setting: TrainContext, state: State) -> tuple[State, Progress]:
    """The newest checkpoint of the run, or its beginning."""
    last = last_checkpoint(setting.folder)
    if checkpoint.newest(last) is None:
        return state, Progress()
    progress, found = checkpoint.restore_training(
        last, lambda name: table_rows(name) is not None, state.params, state.optimizer
    )
    step = sharding.replicate(np.asarray(progress["step"], np.int32), setting.mesh)
    past = Progress(**progress)
    return State(step, found["params"], found["optimizer"]), past._replace(
        losses=tuple(past.losses)
    )


def check_finite(setting: TrainContext, step: int, metrics: Mapping[str, float]) -> None:
    """Stops a run whose loss, gradient or parameters are no numbers any more."""
    if all(map(math.isfinite, metrics.values())):
        return
    seed = setting.config.seed
    batch = batch_fingerprint([one.batch(seed, step) for one in setting.batches.values()])
    kept = checkpoint.newest(last_checkpoint(setting.folder))
    found = ", ".join(f"{name} {value}" for name, value in metrics.items())
    raise FloatingPointError(
        f"step {step + 1}: {found}. The batch has the fingerprint {batch}; the checkpoint of step "
        f"{kept or 0} is kept. In another workdir, try a smaller optim.learning_rate or clip_norm."
    )


def validate(
    setting: TrainContext,
    state: State,
    past: Progress,
    writer: MetricsWriter | NoOutput,
    progress: ProgressBar | NoOutput,
) -> Progress:
    """Ranks the validation users, and saves the state, and the parameters when they are best."""
    step, train = past.step, setting.config.train
    check_finite(setting, step - 1, {"parameter_norm": float(parameter_norm(state.params))})
    best = False
    metrics = {}
    for name, judge in setting.judges.items():
        if len(judge.asked.validation):
            found = judge(state.params, "validation")
            metrics |= found if len(setting.judges) == 1 else prefix_metrics(name, found)
    if train.monitor in metrics:
        value = metrics[train.monitor]
        if math.isnan(value):
            raise ValueError(
                f"config.train.monitor={train.monitor!r} cannot be told: the validation has labels "
                "of one kind only. Name another metric, or move data.validation_from."
            )
        sign = -1 if train.monitor.split("/")[-1] in LOWER_IS_BETTER else 1
        best = past.best is None or sign * value > sign * past.best
        since = 0 if best else past.evaluations_since + 1
        past = past._replace(evaluations_since=since)
        if best:
            past = past._replace(best=value, best_step=step)
        named = {f"validation/{name}": number for name, number in metrics.items()}
        writer.write(step, {**named, "seconds": round(past.seconds, 2)})
        progress.evaluated(train.monitor, value, past.best or value, past.best_step)
    if best:
        # Two are kept: until the state is saved, too, the last one names the best one before.
        folder = setting.folder / "checkpoints" / "best"
        checkpoint.save(folder, step, past._asdict(), params=state.params)
    save_last(setting, state, past)
    return past


def save_last(setting: TrainContext, state: State, past: Progress) -> None:
    """Saves what it takes to go on."""
    trees = {"params": state.params, "optimizer": state.optimizer}
    checkpoint.save(last_checkpoint(setting.folder), past.step, past._asdict(), **trees)


def run_steps(
    setting: TrainContext,
    state: State,
    past: Progress,
    writer: MetricsWriter | NoOutput,
    progress: ProgressBar | NoOutput,
    asked: threading.Event,
) -> Progress:
    """The loop. The host looks at metrics when the next steps have been sent.

    When it is `asked` to end it saves the state after the steps that have been sent, or the
    validation that is under way, and raises Stopped; what goes on from there is bit by bit what
    would have come.
    """
    train = setting.config.train
    begin, before = time.perf_counter(), past.seconds
    losses = list(past.losses)

    def look(first: int, metrics: Mapping[str, Array]) -> None:
        steps = {name: np.asarray(values) for name, values in metrics.items()}
        for i in range(len(steps["loss"])):
            step, numbers = first + i, {name: float(values[i]) for name, values in steps.items()}
            check_finite(setting, step, numbers)
            losses.append(numbers["loss"])
            # Also where a run may resume: it could not know the losses before.
            if (step + 1) % train.log_every == 0 or step + 1 == end_of_stretch(step):
                writer.write(step + 1, {**numbers, "loss": float(np.mean(losses))})
                losses.clear()
        each = sum(batches.windows_per_batch for batches in setting.batches.values())
        sequences = len(steps["loss"]) * each
        progress.trained(first + len(steps["loss"]), sequences, float(steps["loss"][-1]))

    def end_of_stretch(step: int) -> int:
        return min((step // train.eval_every + 1) * train.eval_every, train.steps)

    sent: tuple[int, Mapping[str, Array]] | None = None
    step, dispatches = past.step, 0
    while step < train.steps:
        count_params = min(setting.at_once, end_of_stretch(step) - step)
        state, metrics = setting.advance(state, step, count_params)
        if sent:
            look(*sent)
        sent = (step, metrics)
        step += count_params
        ended = step == end_of_stretch(step - 1)
        dispatches += 1
        ending = processes.agree_to_stop(asked.is_set(), dispatches)
        if not (ended or ending):
            continue
        look(*sent)
        sent = None
        past = past._replace(step=step, seconds=before + time.perf_counter() - begin)
        if ended:
            with progress.evaluation():
                past = validate(setting, state, past._replace(losses=()), writer, progress)
        else:
            save_last(setting, state, past._replace(losses=tuple(losses)))
        # A signal that came in the meantime; of several processes, the next call agrees on it.
        if (ending or asked.is_set()) and step < train.steps:
            raise Stopped(f"ended by SIGTERM at step {step:,}; the same command goes on from there")
        if train.patience and past.evaluations_since >= train.patience:
            break
    return past


def banner(setting: TrainContext, state: State, past: Progress) -> str:
    """What is about to be trained, on what, and what the split left out."""
    dataset = setting.dataset
    params = jax.eval_shape(functools.partial(trim_tables, setting.model), state.params)
    lines = [
        f"{dataset.path}: {dataset.sequences:,} sequences, {dataset.events:,} events, "
        f"{dataset.size('item') - RESERVED:,} items"
    ]
    for name, batches in setting.batches.items():
        packing, asked = batches.packing, setting.judges[name].asked
        padding = 1 - packing.length.sum() / (packing.rows * batches.layout.max_len)
        dropped = asked.dropped | {"too short to train on": batches.dropped}
        if name in LABELS and setting.config.data.window == "last":
            label = np.isfinite(asked.labels[name])
            unseen = label & ~events_inside(batches.windows, len(label))
            dropped |= {"training labels before the last events of their range": int(unseen.sum())}
        lines.append(
            f"{name}: {len(batches.windows.start):,} windows in {packing.rows:,} rows of "
            f"{batches.layout.max_len} ({padding:.1%} padding), {batches.rows} rows a step, "
            f"{len(asked.validation):,} validation examples"
            + "".join(f", {n:,} {why}" for why, n in dropped.items() if n)
        )
    lines.append(
        f"{count_params(params):,} parameters{origin_note(setting, params)} on "
        f"{setting.mesh.size} x {jax.default_backend()}{sharing_note(setting)}, "
        + (f"resumed at step {past.step:,}" if past.step else "a new run")
    )
    return "\n".join(lines)


def sharing_note(setting: TrainContext) -> str:
    """How the devices share tables; "" if each has all."""
    shares = setting.config.train.model_devices
    return f" ({shares} share each table)" if shares > 1 else ""


def origin_note(setting: TrainContext, params: Any) -> str:
    """Where the parameters came from, and how many are frozen, in brackets; "" if all is usual."""
    learning = setting.learning
    frozen = count_params(split_params(params, learning.frozen)[1])
    until = f" for {learning.thaw:,} steps" if learning.thaw else ""
    parts = [str(setting.taken)] if setting.taken else []
    parts += [f"{frozen:,} frozen{until}"] if frozen else []
    return f" ({'; '.join(parts)})" if parts else ""


def train(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Trains, or goes on training, the run in `workdir`; returns what became of it."""
    sharding.use_devices(config.train.cpu_devices)
    folder = pathlib.Path(workdir)
    setting, state = set_up(config, folder)
    state, past = resume_training(setting, state)
    first, train = processes.is_first(), config.train
    if first:
        print(banner(setting, state, past), file=sys.stderr)
    stopped = bool(train.patience) and past.evaluations_since >= train.patience
    if past.step < train.steps and not stopped:
        about = (folder, knobs(config), past.step, train.wandb)
        with (
            MetricsWriter(*about) if first else NoOutput() as writer,
            ProgressBar(train.steps, past.step, train.eval_every)
            if first
            else NoOutput() as progress,
            # Where there are several processes, JAX sees to it, and has them agree.
            stop_on_signals(*() if processes.several() else (signal.SIGTERM,)) as asked,
        ):
            past = run_steps(setting, state, past, writer, progress, asked)
    return {
        "run": str(folder),
        "step": past.step,
        f"validation/{train.monitor}": past.best,
        "best_step": past.best_step,
        "seconds": round(past.seconds, 1),
    }


def write_item_projection(folder: pathlib.Path) -> None:
    """Has TensorBoard's projector show the best vectors of the items; of many the most frequent."""
    run = load_run(folder)

    def table(model: Model) -> Array:
        return model.embedder.table("item")[RESERVED : RESERVED + PROJECTED]

    vectors = run.model.apply({"params": run.params, "given": run.given}, method=table)
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
