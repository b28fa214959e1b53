"""What a training stands on: checked, opened and built from its config, before the first step."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from clickflax.batch import Batch
from clickflax.config.check import check_config
from clickflax.config.default import differences, from_dict, to_dict
from clickflax.data.batches import TrainingBatches
from clickflax.data.item_features import ItemFeature
from clickflax.data.store import Dataset, open_dataset
from clickflax.data.variables import Variable
from clickflax.evaluation.evaluator import Evaluator
from clickflax.inference.predictor import make_predictor
from clickflax.model.model import Model
from clickflax.run.cold_start import cold_constants, zero_cold_items
from clickflax.run.folder import (
    check_catalog,
    constants_of,
    data_path,
    encode_condition,
    keep_variables,
    vocabularies_of,
)
from clickflax.run.inputs import InputSchema, find_input_schema
from clickflax.run.model import model_from_config, sizes_of
from clickflax.run.sample_weights import add_sample_weights
from clickflax.run.sharded_tables import keep_placed, pad_tables, place_on_mesh
from clickflax.run.targets import TaskData, check_patience, check_trainable, make_task_data
from clickflax.run.transfer import (
    TrainableParts,
    Transferred,
    plan_training,
    start_from,
)
from clickflax.runtime import processes, sharding
from clickflax.runtime.environment import add_start, environment
from clickflax.runtime.files import read_json, write_json
from clickflax.runtime.optim import make_optimizer
from clickflax.runtime.params import by_name, join_params, split_params, tree_of
from clickflax.simulation.main import Shop, simulate
from clickflax.training.input_pipeline import (
    Advance,
    RowSource,
    Step,
    StepInputs,
    host_steps,
    resident_bytes,
    resident_steps,
)
from clickflax.training.objectives import make_batches, make_objective
from clickflax.training.step import Objective, State, StepConstants, init_params, make_step


class TrainContext(NamedTuple):
    """What a run stands on, made from its config and never changed."""

    config: ConfigDict
    folder: pathlib.Path
    dataset: Dataset
    batches: dict[str, TrainingBatches]  # of each task
    advance: Advance
    at_once: int  # steps of one `advance`, at most
    judges: dict[str, Evaluator]  # of each task
    mesh: jax.sharding.Mesh
    model: Model
    taken: Transferred | None  # from the run that this one starts from, if it starts now
    learning: TrainableParts


def open_training_data(config: ConfigDict, folder: pathlib.Path) -> Dataset:
    """The data set that the config names; without a name, a simulated shop in the run folder."""
    path = data_path(config, folder)
    if not config.data.path and processes.is_first():
        if not pathlib.Path(path, "dataset.json").is_file():
            simulate(path, Shop(sequences=20_000))
    processes.wait_for_all("data")
    return open_dataset(path).with_sessions(config.data.chain)


def labels_fingerprint(config: ConfigDict) -> str | None:
    """SHA-256 of the file of labels, if a task asks for one."""
    if "label" not in config.tasks:
        return None
    return hashlib.sha256(pathlib.Path(config.label.path).read_bytes()).hexdigest()


# What may be otherwise when a run goes on: where its data lie, on what devices, and who is told.
MAY_CHANGE = tuple(
    f"config.{knob}"
    for knob in ("data.path", "train.cpu_devices", "train.model_devices", "train.wandb")
)


def prepare_folder(
    config: ConfigDict,
    folder: pathlib.Path,
    dataset: Dataset,
    variables: dict[str, Variable],
    features: dict[str, ItemFeature],
    taken: Transferred | None,
) -> None:
    """Makes the folder of a run, or checks that it is the folder of this very run.

    Only where it runs may differ, and the number of steps under a constant learning rate: a run can
    be made longer.
    """
    if not (folder / "config.json").is_file():
        # A start that was killed may have left these.
        ours = {"data", "vocab", "variables.json", "environment.json"}
        there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        others = [name for name in there if name not in ours and not name.startswith(".")]
        if others:
            raise ValueError(f"{folder} is not empty and not the folder of a run: {others[:5]}.")
        folder.mkdir(parents=True, exist_ok=True)
        keep_variables(dataset, folder, variables, features)
        origin = {
            "init_run": config.init.run or None,
            "init_vocab": taken.tokens if taken else None,
            "labels": labels_fingerprint(config),
        }
        write_json(folder / "environment.json", environment(dataset.fingerprint) | origin)
        write_json(folder / "config.json", to_dict(config))
        return
    stored = differences(from_dict(read_json(folder / "config.json")), config)
    for name in MAY_CHANGE:
        stored.pop(name, None)
    if config.optim.schedule == "constant":
        stored.pop("config.train.steps", None)
    if stored:
        lines = [f"{name}: {old!r} there, {new!r} now" for name, (old, new) in stored.items()]
        raise ValueError(
            f"{folder} holds another run's config. Name another workdir, or the same values:\n  "
            + "\n  ".join(lines)
        )
    stored = read_json(folder / "environment.json")
    if stored["labels"] != labels_fingerprint(config):
        raise ValueError(f"{config.label.path} has changed since {folder} was begun.")
    if stored["data"] != dataset.fingerprint:
        check_catalog(vocabularies_of(folder), dataset.vocabularies, str(dataset.path))
        raise ValueError(f"{dataset.path} is not the data that {folder} was trained on.")
    write_json(folder / "environment.json", add_start(stored))
    write_json(folder / "config.json", to_dict(config))


def first_params(
    config: ConfigDict,
    model: Model,
    key: Key[Array, ""],
    batch: Batch,
    reading: InputSchema,
    biases: Mapping[str, float],
    mesh: jax.sharding.Mesh,
) -> tuple[Any, Transferred | None]:
    """On the devices: fresh parameters, with these biases of heads that have any, or those of the
    run to start from, if any; and what was taken from it.
    """

    def fresh(key: Key[Array, ""]) -> Any:
        # Parameters have the shapes of what is read, not its values.
        row, given = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (batch, constants_of(reading.features))
        )
        params = init_params(model, key, row, given)
        return set_first_biases(zero_cold_items(params, reading.cold), biases)

    taken, stored = None, {}
    if reading.origin is not None:
        shapes = jax.eval_shape(fresh, key)
        chosen, taken = start_from(reading.origin, shapes, reading.tokens, config.init.skip)
        named = by_name(chosen)
        stored = {n: one for n, one in named.items() if not isinstance(one, jax.ShapeDtypeStruct)}

    def rest(key: Key[Array, ""]) -> Any:
        wanted, _ = split_params(fresh(key), stored)
        return keep_placed(pad_tables(wanted, mesh), mesh)

    # Not jitted, this would be many small programs, which take seconds to compile; and a table may
    # be too large for one device from the beginning.
    params = jax.jit(rest)(sharding.replicate(key, mesh))
    return join_params(params, place_on_mesh(tree_of(stored), mesh)), taken


def set_first_biases(params: Any, biases: Mapping[str, float]) -> Any:
    """The parameters with all biases of a head, where it has any, at one number."""
    named = by_name(params)
    names = {f"head_{head}/bias": value for head, value in biases.items()}
    changed = {n: jnp.full_like(named[n], value) for n, value in names.items() if n in named}
    return tree_of(named | changed)


def first_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    learning: TrainableParts,
    mesh: jax.sharding.Mesh,
) -> State:
    """The state before the first step; the optimiser knows nothing of what is never trained."""
    trained, _ = split_params(params, learning.never)
    moments = jax.jit(lambda trained: keep_placed(optimizer.init(trained), mesh))(trained)
    return State(place_on_mesh(np.zeros((), np.int32), mesh), params, moments)


def make_evaluators(
    config: ConfigDict,
    model: Model,
    dataset: Dataset,
    asked: Mapping[str, TaskData],
    reading: InputSchema,
    mesh: jax.sharding.Mesh,
) -> dict[str, Evaluator]:
    """What validates each task."""
    given, judges = constants_of(reading.features), {}
    for name, one in asked.items():
        told = encode_condition(config, name, one.task, reading.variables, dataset.vocabularies)
        asker = make_predictor(config, model, one.task, mesh, given, told)
        judges[name] = Evaluator(asker, one, reading.columns, config)
    return judges


def make_advance(
    config: ConfigDict,
    step: Step,
    batches: Mapping[str, TrainingBatches],
    objectives: Mapping[str, Objective],
    shared: StepConstants,
    mesh: jax.sharding.Mesh,
) -> tuple[Advance, int]:
    """What takes steps, and how many at once at most."""
    sources = {
        name: RowSource(one, sharding.groups(mesh) * objectives[name].micro_rows)
        for name, one in batches.items()
    }
    shared = sharding.replicate(shared, mesh)
    feed = StepInputs(step, sources, mesh, shared, config.seed, config.train.parallel)
    resident = sum(resident_bytes(one) for one in batches.values())
    at_once = sharding.steps_at_once(config.train.steps_at_once, resident)
    return (resident_steps(feed, at_once) if at_once > 1 else host_steps(feed)), at_once


def set_up(config: ConfigDict, folder: pathlib.Path) -> tuple[TrainContext, State]:
    """Everything that a run needs, and its first state."""
    check_config(config)
    if processes.several() and config.train.parallel == "pmap":
        raise ValueError("config.train.parallel='pmap' is for one process: leave it at 'jit'.")
    dataset = open_training_data(config, folder)
    asked = make_task_data(config, dataset)
    check_trainable(asked)
    check_patience(config, asked)
    asked = add_sample_weights(config, dataset, asked)
    reading = find_input_schema(config, folder, dataset, asked)
    sizes, given, cold = sizes_of(reading.variables), constants_of(reading.features), reading.cold
    model = model_from_config(config, reading.variables, reading.features)
    mesh = sharding.make_mesh(config.train.model_devices)
    batches = {name: make_batches(config, one, reading.columns) for name, one in asked.items()}
    objectives = {
        name: make_objective(config, name, one, batches[name], sizes, cold, mesh)
        for name, one in asked.items()
    }
    init_key, key = jax.random.split(jax.random.key(config.seed))
    batch = batches[config.tasks[0]].batch(config.seed, 0)
    biases = {one.head: one.first_bias for one in objectives.values() if one.sampling}
    params, taken = first_params(config, model, init_key, batch, reading, biases, mesh)
    learning = plan_training(config, params)
    optimizer = make_optimizer(config.optim, config.train.steps, learning.speed)
    step = make_step(model, objectives, optimizer, learning.never)
    shared = StepConstants(key, given | cold_constants(cold, config.model.tied))
    advance, at_once = make_advance(config, step, batches, objectives, shared, mesh)
    setting = TrainContext(
        config=config,
        folder=folder,
        dataset=dataset,
        batches=batches,
        advance=advance,
        at_once=at_once,
        judges=make_evaluators(config, model, dataset, asked, reading, mesh),
        mesh=mesh,
        model=model,
        taken=taken,
        learning=learning,
    )
    processes.wait_for_all("reading")  # of what the run has been so far
    if processes.is_first():
        prepare_folder(config, folder, dataset, reading.variables, reading.features, taken)
    processes.wait_for_all("folder")
    state = first_state(params, optimizer, learning, mesh)
    return setting, state
