"""Set-up of a training: data, model, step and evaluators, made from its config."""

import pathlib
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from clickflax.config.check import check_config
from clickflax.config.check_numbers import check_memory
from clickflax.data.batches import TrainingBatches
from clickflax.data.check import open_checked
from clickflax.data.store import Dataset
from clickflax.evaluation.evaluator import Evaluator, make_evaluator
from clickflax.inference.predictor import make_predictor
from clickflax.model.model import Model
from clickflax.run.cold_start import cold_constants
from clickflax.run.folder import constants_of, data_path, encode_condition
from clickflax.run.inputs import InputSchema, find_input_schema
from clickflax.run.model import model_from_config
from clickflax.run.sample_weights import add_sample_weights
from clickflax.run.targets import TaskData, check_patience, check_trainable, make_task_data
from clickflax.run.transfer import TrainableParts, Transferred, plan_training
from clickflax.runtime import processes, sharding
from clickflax.runtime.optim import make_optimizer
from clickflax.simulation.main import Shop, simulate
from clickflax.training.init import first_params, first_state
from clickflax.training.input_pipeline import RowSource, StepInputs, Steps, make_steps
from clickflax.training.objectives import make_batches, make_objective
from clickflax.training.step import State, StepConstants, make_step
from clickflax.training.workdir import open_workdir


class TrainData(NamedTuple):
    """What a training reads: the data set, its targets, the input schema, the batches."""

    dataset: Dataset
    tasks: dict[str, TaskData]
    schema: InputSchema
    batches: dict[str, TrainingBatches]  # of each task


class TrainContext(NamedTuple):
    """Everything that a training needs and does not change."""

    config: ConfigDict
    folder: pathlib.Path
    data: TrainData
    model: Model
    mesh: jax.sharding.Mesh
    steps: Steps
    evaluators: dict[str, Evaluator]  # of each task
    transferred: Transferred | None  # from the run that this one starts from, if it starts now
    parts: TrainableParts


def open_training_data(config: ConfigDict, folder: pathlib.Path) -> Dataset:
    """The data set of a config; if it names none, a simulated shop in the run folder."""
    path = data_path(config, folder)
    if not config.data.path and processes.is_first():
        if not pathlib.Path(path, "dataset.json").is_file():
            simulate(path, Shop(sequences=20_000))
    processes.wait_for_all("data")
    return open_checked(path).with_sessions(config.data.chain)


def set_up_data(config: ConfigDict, folder: pathlib.Path) -> TrainData:
    """Opens the data set and makes targets, input schema and batches of every task."""
    dataset = open_training_data(config, folder)
    tasks = make_task_data(config, dataset)
    check_trainable(tasks)
    check_patience(config, tasks)
    tasks = add_sample_weights(config, dataset, tasks)
    schema = find_input_schema(config, folder, dataset, tasks)
    batches = {name: make_batches(config, data, schema.columns) for name, data in tasks.items()}
    return TrainData(dataset, tasks, schema, batches)


def set_up_steps(
    config: ConfigDict,
    data: TrainData,
    model: Model,
    mesh: jax.sharding.Mesh,
) -> tuple[Steps, State, Transferred | None, TrainableParts]:
    """The input pipeline with its step, the first state, and what was transferred into it."""
    schema = data.schema
    objectives = {
        name: make_objective(config, one, data.batches[name], schema, mesh)
        for name, one in data.tasks.items()
    }
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    example = data.batches[config.tasks[0]].batch(config.seed, 0)
    biases = {one.head: one.first_bias for one in objectives.values() if one.sampling}
    params, transferred = first_params(config, model, init_key, example, schema, biases, mesh)
    parts = plan_training(config, params)
    optimizer = make_optimizer(config.optim, config.train.steps, parts.speed)
    inputs = StepInputs(
        step=make_step(model, objectives, optimizer, parts.never),
        sources={
            name: RowSource(batches, sharding.groups(mesh) * objectives[name].micro_rows)
            for name, batches in data.batches.items()
        },
        mesh=mesh,
        constants=sharding.replicate(step_constants(config, schema, step_key), mesh),
        seed=config.seed,
        parallel=config.train.parallel,
    )
    steps = make_steps(inputs, config.train.steps_at_once, data.batches)
    return steps, first_state(params, optimizer, parts, mesh), transferred, parts


def step_constants(config: ConfigDict, schema: InputSchema, key: Key[Array, ""]) -> StepConstants:
    """What is the same in all steps: the key, item features, and the items left out as cold."""
    cold = cold_constants(schema.cold, config.model.tied)
    return StepConstants(key, constants_of(schema.features) | cold)


def set_up_evaluators(
    config: ConfigDict, data: TrainData, model: Model, mesh: jax.sharding.Mesh
) -> dict[str, Evaluator]:
    """The evaluators of the validation of every task."""
    schema: Any = data.schema
    constants = constants_of(schema.features)
    evaluators = {}
    for name, one in data.tasks.items():
        conditions = encode_condition(config, one.task, schema.variables, data.dataset.vocabularies)
        predictor = make_predictor(config, model, one.task, mesh, constants, conditions)
        evaluators[name] = make_evaluator(predictor, one, schema.columns, config)
    return evaluators


def set_up(config: ConfigDict, folder: pathlib.Path) -> tuple[TrainContext, State]:
    """Everything that a training needs, and its first state; makes or checks the run folder."""
    check_config(config)
    if available := sharding.device_bytes():
        check_memory(config, available, "more than a device here has")
    if processes.several() and config.train.parallel == "pmap":
        raise ValueError(
            "config.train.parallel='pmap' trains with one process: leave it at 'jit' for several."
        )
    data = set_up_data(config, folder)
    mesh = sharding.make_mesh(config.train.model_devices)
    model = model_from_config(config, data.schema.variables, data.schema.features)
    steps, state, transferred, parts = set_up_steps(config, data, model, mesh)
    evaluators = set_up_evaluators(config, data, model, mesh)
    processes.wait_for_all("reading")  # of what an earlier start has left in the folder
    if processes.is_first():
        open_workdir(config, folder, data.dataset, data.schema, transferred)
    processes.wait_for_all("folder")
    context = TrainContext(
        config=config,
        folder=folder,
        data=data,
        model=model,
        mesh=mesh,
        steps=steps,
        evaluators=evaluators,
        transferred=transferred,
        parts=parts,
    )
    return context, state
