"""`clickflax train`: from a config to a run folder; started again, it goes on where it was."""

import hashlib
import itertools
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from clickflax.config import differences, from_dict, knobs, parse_train_flags, to_dict
from clickflax.data.batches import TrainingBatches, training_batches
from clickflax.data.simulate import Shop, simulate
from clickflax.data.split import Split
from clickflax.data.store import Dataset, open_dataset
from clickflax.events import RESERVED, Batch
from clickflax.evaluate import Ranker, evaluate, make_asker, split_of
from clickflax.model.model import Model
from clickflax.run import (
    build_model,
    check_catalog,
    checkpoint_folder,
    data_path,
    keep_vocabularies,
    load_run,
    read_json,
    variable_sizes,
    vocabularies_of,
    write_json,
)
from clickflax.runtime import checkpoint, sharding
from clickflax.runtime.environment import environment
from clickflax.runtime.log import MetricsWriter, Progress
from clickflax.runtime.optim import make_optimizer
from clickflax.tasks.tasks import REPLACE, Hiding, Task, find_task, most_hidden


class State(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]
    params: Any
    optimizer: optax.OptState


class Progressed(NamedTuple):
    """What a run knows of its own past, beside the state; kept with every checkpoint."""

    step: int = 0
    seconds: float = 0.0  # of training and validation, over all starts of the run
    best: float | None = None
    best_step: int = 0
    evaluations_since: int = 0  # without a new best


def make_step(
    model: Model,
    task: Task,
    hiding: Hiding,
    optimizer: optax.GradientTransformation,
    micro_rows: int,
) -> Callable[[State, Batch, Key[Array, ""]], tuple[State, dict[str, Float[Array, ""]]]]:
    """One step on the rows of one device, to be run on all of them.

    The rows are worked on `micro_rows` at a time (0: all at once), and gradients are summed: over
    these, then over the devices, then divided once by the sum of the weights. Keys belong to the
    step and the place of the rows in the batch, so any number of devices gives the same numbers.
    """

    def loss_of(params: Any, rows: Batch, key: Key[Array, ""]) -> tuple[Array, Array]:
        prepare_key, dropout_key = jax.random.split(key)
        question = task.prepare(prepare_key, rows, hiding)
        hidden = model.apply(
            {"params": params},
            question.inputs,
            rows.segment,
            rows.position,
            task.causal,
            True,
            method="encode",
            rngs={"dropout": dropout_key},
        )
        if not task.causal:
            hidden = jnp.take_along_axis(hidden, question.places[..., None], axis=1)
        scores = model.apply({"params": params}, hidden, method="score")
        return task.loss(scores, question.targets, question.weights)

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, dict[str, Array]]:
        rows = batch.segment.shape[0]
        size = micro_rows or rows
        pieces = jax.tree.map(lambda x: x.reshape(rows // size, size, *x.shape[1:]), batch)
        first = jax.lax.axis_index(sharding.DATA) * (rows // size)
        key = jax.random.fold_in(key, state.step)

        def add(sums: Any, piece: tuple[Array, Batch]) -> tuple[Any, None]:
            index, rows = piece
            gradient = jax.value_and_grad(loss_of, has_aux=True)
            found = gradient(state.params, rows, jax.random.fold_in(key, first + index))
            return jax.tree.map(jnp.add, sums, found), None

        zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, state.params))
        sums, _ = jax.lax.scan(add, zero, (jnp.arange(rows // size), pieces))
        (loss, weight), gradient = jax.lax.psum(sums, sharding.DATA)
        weight = jnp.maximum(weight, 1.0)
        gradient = jax.tree.map(lambda g: g / weight, gradient)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss / weight, "gradient_norm": optax.global_norm(gradient)}
        return State(state.step + 1, params, moments), metrics

    return step


def init_params(model: Model, key: Key[Array, ""], batch: Batch) -> Any:
    """Fresh parameters."""

    def everything(model: Model, batch: Batch) -> Array:
        hidden = model.encode(batch.variables, batch.segment, batch.position, False, False)
        return model.score(hidden)

    row = jax.tree.map(lambda x: jnp.asarray(x[:1]), batch)
    return model.init(key, row, method=everything)["params"]


def fingerprint(batch: Batch) -> str:
    """Sixteen characters that tell one batch from another."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(batch):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


class Setting(NamedTuple):
    """What a run stands on, made from its config and never changed."""

    config: ConfigDict
    folder: pathlib.Path
    dataset: Dataset
    parts: Split
    batches: TrainingBatches
    step: Callable[..., Any]
    ranker: Ranker
    mesh: jax.sharding.Mesh
    key: Key[Array, ""]  # of masks and dropout


def check_config(config: ConfigDict) -> None:
    """Refuses values that no other part would notice."""
    measures = ("recall", "hit_rate", "precision", "ndcg", "mrr", "map")
    known = [f"{name}@{k}" for name in measures for k in config.eval.cutoffs]
    if config.train.monitor not in known:
        raise ValueError(f"train.monitor={config.train.monitor!r} is not one of {known}.")
    for name in ("steps", "batch_size", "log_every", "eval_every"):
        if config.train[name] < 1:
            raise ValueError(f"train.{name}={config.train[name]} must be at least 1.")
    if not 0 < config.mask.ratio <= 1 or not 0 <= config.mask.last <= 1:
        raise ValueError(
            f"mask.ratio and mask.last are shares, not {config.mask.ratio}, {config.mask.last}."
        )
    if config.mask.replace not in REPLACE:
        raise ValueError(f"mask.replace={config.mask.replace!r} is not one of {sorted(REPLACE)}.")
    if config.data.position_from not in ("end", "start"):
        raise ValueError(
            f"data.position_from={config.data.position_from!r} is not 'end' or 'start'."
        )


def last_checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """Where a run keeps what it goes on from."""
    return folder / "checkpoints" / "last"


def open_or_simulate(config: ConfigDict, folder: pathlib.Path) -> Dataset:
    """The data set that the config names; without a name, a simulated shop in the run folder."""
    path = data_path(config, folder)
    if not config.data.path and not (path / "dataset.json").is_file():
        simulate(path, Shop(sequences=20_000))
    return open_dataset(path)


def prepare_folder(config: ConfigDict, folder: pathlib.Path, dataset: Dataset) -> None:
    """Makes the folder of a run, or checks that it is the folder of this very run.

    Only the number of steps may differ: a run can be made longer.
    """
    if not (folder / "config.json").is_file():
        others = [p.name for p in folder.iterdir() if p.name != "data"] if folder.is_dir() else []
        if others:
            raise ValueError(f"{folder} is not empty and not the folder of a run: {others[:5]}.")
        folder.mkdir(parents=True, exist_ok=True)
        keep_vocabularies(dataset, folder, config.data.variables)
        origin = {"init_run": config.init.run or None}
        write_json(folder / "environment.json", environment(dataset.fingerprint) | origin)
        write_json(folder / "config.json", to_dict(config))
        return
    stored = differences(from_dict(read_json(folder / "config.json")), config)
    stored.pop("config.train.steps", None)
    if stored:
        lines = [f"{name}: {old!r} there, {new!r} now" for name, (old, new) in stored.items()]
        raise ValueError(
            f"{folder} holds another run's config. Name another workdir, or give the same values:\n  "
            + "\n  ".join(lines)
        )
    trained_on = read_json(folder / "environment.json")["data"]
    if trained_on != dataset.fingerprint:
        check_catalog(vocabularies_of(folder), dataset.vocabularies, str(dataset.path))
        raise ValueError(f"{dataset.path} is not the data that {folder} was trained on.")
    write_json(folder / "config.json", to_dict(config))


def set_up(config: ConfigDict, folder: pathlib.Path) -> tuple[Setting, State]:
    """Everything that a run needs, and its first state."""
    check_config(config)
    task = find_task(config.tasks)
    dataset = open_or_simulate(config, folder)
    sizes = variable_sizes(config.data.variables, dataset.vocabularies)
    model = build_model(config.model, sizes)
    parts = split_of(config, dataset)
    mesh = sharding.make_mesh()
    micro_rows = sharding.micro_rows(config.train.micro_rows, config.model.max_len)
    batches = training_batches(
        {name: dataset.columns[name] for name in config.data.variables},
        parts.train,
        max_len=config.model.max_len,
        window=config.data.window,
        stride=config.data.stride,
        packing=config.data.packing,
        batch_size=config.train.batch_size,
        rows_divide_by=mesh.size * (micro_rows or 1),
        position_from=config.data.position_from,
        follow=task.causal,
    )
    packing = batches.packing
    places = most_hidden(packing.length, packing.offsets, config.mask.ratio)
    mask = config.mask
    hiding = Hiding(mask.ratio, mask.replace, mask.last, places, sizes["item"] - RESERVED)
    optimizer = make_optimizer(config.optim, config.train.steps)
    step = make_step(model, task, hiding, optimizer, micro_rows)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    params = init_params(model, init_key, batches.batch(config.seed, 0))
    if config.init.run and checkpoint.newest(last_checkpoint(folder)) is None:
        params = start_from(config, params, dataset)
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    setting = Setting(
        config=config,
        folder=folder,
        dataset=dataset,
        parts=parts,
        batches=batches,
        step=sharding.compile_step(step, mesh, config.train.parallel),
        ranker=Ranker(make_asker(config, model, task, mesh), config.eval.filter_seen),
        mesh=mesh,
        key=sharding.replicate(key, mesh),
    )
    prepare_folder(config, folder, dataset)
    return setting, sharding.replicate(state, mesh)


def start_from(config: ConfigDict, params: Any, dataset: Dataset) -> Any:
    """The parameters of another run, where they fit; loud where they do not."""
    source = load_run(config.init.run)
    check_catalog(source.vocabularies, dataset.vocabularies, str(dataset.path))
    return checkpoint.transfer(params, source.params, config.init.skip, config.init.run)


def resume(setting: Setting, state: State) -> tuple[State, Progressed]:
    """The newest checkpoint of the run, or its beginning."""
    last = last_checkpoint(setting.folder)
    if checkpoint.newest(last) is None:
        return state, Progressed()
    progress, found = checkpoint.resume(last, params=state.params, optimizer=state.optimizer)
    step = sharding.replicate(jnp.asarray(progress["step"], jnp.int32), setting.mesh)
    return State(step, found["params"], found["optimizer"]), Progressed(**progress)


def check_finite(setting: Setting, step: int, metrics: dict[str, float]) -> None:
    """Stops a run whose loss or gradient is no number any more."""
    if all(map(math.isfinite, metrics.values())):
        return
    batch = fingerprint(setting.batches.batch(setting.config.seed, step))
    kept = checkpoint.newest(last_checkpoint(setting.folder))
    raise FloatingPointError(
        f"step {step + 1}: the loss is {metrics['loss']}, the gradient's norm "
        f"{metrics['gradient_norm']}; the batch has the fingerprint {batch}. The checkpoint of step "
        f"{kept or 0} is kept. Try a smaller optim.learning_rate, or optim.clip_norm."
    )


def validate(
    setting: Setting, state: State, past: Progressed, writer: MetricsWriter, progress: Progress
) -> Progressed:
    """Ranks the validation users, and saves the state, and the parameters when they are the best."""
    step, train = past.step, setting.config.train
    best = False
    if len(setting.parts.validation):
        metrics = evaluate(
            setting.ranker,
            state.params,
            setting.dataset.columns,
            setting.parts.validation,
            tuple(setting.config.eval.cutoffs),
        )
        value = metrics[train.monitor]
        best = past.best is None or value > past.best
        since = 0 if best else past.evaluations_since + 1
        past = past._replace(evaluations_since=since)
        if best:
            past = past._replace(best=value, best_step=step)
        named = {f"validation/{name}": number for name, number in metrics.items()}
        writer.write(step, {**named, "seconds": round(past.seconds, 2)})
        progress.evaluated(train.monitor, value, past.best or value, past.best_step)
    folder = setting.folder / "checkpoints"
    if best:
        checkpoint.save(folder / "best", step, past._asdict(), params=state.params)
    checkpoint.save(
        folder / "last", step, past._asdict(), params=state.params, optimizer=state.optimizer
    )
    return past


def run_steps(
    setting: Setting, state: State, past: Progressed, writer: MetricsWriter, progress: Progress
) -> Progressed:
    """The loop. The host looks at a step's metrics when the next one has been sent."""
    config, train = setting.config, setting.config.train
    sequences = (
        setting.batches.rows * len(setting.batches.windows.start) / setting.batches.packing.rows
    )
    begin, before = time.perf_counter(), past.seconds
    losses: list[float] = []

    def look(step: int, metrics: dict[str, Array]) -> None:
        numbers = {name: float(value) for name, value in metrics.items()}
        check_finite(setting, step, numbers)
        losses.append(numbers["loss"])
        progress.trained(step + 1, sequences, numbers["loss"])
        # Also where a run may resume: it could not know the losses before.
        if (step + 1) % train.log_every == 0 or ends_stretch(step):
            writer.write(step + 1, {**numbers, "loss": float(np.mean(losses))})
            losses.clear()

    def ends_stretch(step: int) -> bool:
        return (step + 1) % train.eval_every == 0 or step + 1 == train.steps

    sent: tuple[int, dict[str, Array]] | None = None
    for step in range(past.step, train.steps):
        batch = sharding.split_rows(setting.batches.batch(config.seed, step), setting.mesh)
        state, metrics = setting.step(state, batch, setting.key)
        if sent:
            look(*sent)
        sent = (step, metrics)
        if not ends_stretch(step):
            continue
        look(*sent)
        sent = None
        seconds = before + time.perf_counter() - begin
        with progress.evaluation():
            past = past._replace(step=step + 1, seconds=seconds)
            past = validate(setting, state, past, writer, progress)
        if train.patience and past.evaluations_since >= train.patience:
            break
    return past


def banner(setting: Setting, state: State, past: Progressed) -> str:
    """What is about to be trained, on what, and what the split left out."""
    batches, dataset = setting.batches, setting.dataset
    packing, windows = batches.packing, len(batches.windows.start)
    padding = 1 - packing.length.sum() / (packing.rows * batches.row_length)
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    dropped = "".join(f", {n:,} {why}" for why, n in setting.parts.dropped.items() if n)
    return (
        f"{dataset.path}: {dataset.sequences:,} sequences, {dataset.events:,} events, "
        f"{dataset.size('item') - RESERVED:,} items{dropped}\n"
        f"{' + '.join(setting.config.tasks)}: {windows:,} windows in {packing.rows:,} rows of "
        f"{batches.row_length} ({padding:.1%} padding), {batches.rows} rows a step, "
        f"{len(setting.parts.validation):,} validation users\n"
        f"{parameters:,} parameters on {setting.mesh.size} x {jax.default_backend()}, "
        + (f"resumed at step {past.step:,}" if past.step else "a new run")
    )


def train(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Trains, or goes on training, the run in `workdir`; returns what became of it."""
    sharding.use_devices(config.train.cpu_devices)
    folder = pathlib.Path(workdir)
    setting, state = set_up(config, folder)
    state, past = resume(setting, state)
    print(banner(setting, state, past), file=sys.stderr)
    train = config.train
    resumed_at = past.step if past.step else None
    stopped = bool(train.patience) and past.evaluations_since >= train.patience
    if past.step < train.steps and not stopped:
        with (
            MetricsWriter(folder, knobs(config), resumed_at) as writer,
            Progress(train.steps, past.step, train.eval_every) as progress,
        ):
            past = run_steps(setting, state, past, writer, progress)
    return {
        "run": str(folder),
        "step": past.step,
        f"validation/{train.monitor}": past.best,
        "best_step": past.best_step,
        "seconds": round(past.seconds, 1),
    }


def main(argv: list[str]) -> None:
    """`clickflax train --config=FILE --workdir=DIR`."""
    config, workdir = parse_train_flags(argv)
    print(json.dumps(train(config, workdir)))
