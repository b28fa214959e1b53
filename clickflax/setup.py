"""What a training stands on: checked, opened and built from its config, before the first step."""

import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from clickflax.asker import make_asker
from clickflax.config import differences, from_dict, knobs, to_dict
from clickflax.data.batches import TrainingBatches, training_batches
from clickflax.data.simulate import Shop, simulate
from clickflax.data.store import Dataset, open_dataset
from clickflax.data.variables import Variable, describe, read
from clickflax.evaluate import Judge, prefixed
from clickflax.events import RESERVED
from clickflax.feed import Advance, Feed, Source, many_at_once, one_by_one, resident_bytes
from clickflax.questions import Asked, ask_about, check_trainable, trained_events
from clickflax.run import (
    assignments,
    build_model,
    catalog_features,
    check_catalog,
    data_path,
    event_variables,
    heads_of,
    keep_variables,
    load_run,
    read_json,
    sizes_of,
    variables_of,
    vocabularies_of,
    write_json,
)
from clickflax.runtime import checkpoint, sharding
from clickflax.runtime.environment import environment
from clickflax.runtime.optim import make_optimizer
from clickflax.step import Objective, Shared, State, init_params, make_step
from clickflax.tasks.label_metrics import NAMES
from clickflax.tasks.losses import LABEL_LOSSES, softmax_loss
from clickflax.tasks.metrics import METRICS
from clickflax.tasks.tasks import LABELS, REPLACE, Hiding, Task, find_tasks, most_hidden

# The least and the most that a number may be.
RANGES = {
    "config.seed": (0, 2**31 - 1),
    "config.data.validation_users": (-1, math.inf),
    "config.mask.ratio": (0.001, 1),
    "config.mask.last": (0, 1),
    "config.label.after": (-1, math.inf),
    "config.label.classes": (2, math.inf),
    "config.label.positive": (0, math.inf),
    "config.model.width": (1, math.inf),
    "config.model.layers": (1, math.inf),
    "config.model.heads": (1, math.inf),
    "config.model.max_len": (2, math.inf),
    "config.model.feed_forward": (1, math.inf),
    "config.model.init_stddev": (0, math.inf),
    "config.model.dropout": (0, 0.99),
    "config.model.attention_dropout": (0, 0.99),
    "config.optim.learning_rate": (0, math.inf),
    "config.optim.warmup_steps": (0, math.inf),
    "config.optim.b1": (0, 1),
    "config.optim.b2": (0, 1),
    "config.optim.eps": (0, math.inf),
    "config.optim.weight_decay": (0, math.inf),
    "config.optim.clip_norm": (0, math.inf),
    "config.train.steps": (1, math.inf),
    "config.train.batch_size": (1, math.inf),
    "config.train.micro_rows": (0, math.inf),
    "config.train.softmax_chunk": (0, math.inf),
    "config.train.steps_at_once": (0, math.inf),
    "config.train.cpu_devices": (0, math.inf),
    "config.train.log_every": (1, math.inf),
    "config.train.eval_every": (1, math.inf),
    "config.train.patience": (0, math.inf),
    "config.eval.batch_size": (1, math.inf),
}


def check_config(config: ConfigDict) -> None:
    """Refuses values that make no sense and that no other part would notice."""
    values = knobs(config)
    for name, (least, most) in RANGES.items():
        if not least <= values[name] <= most:
            wanted = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise ValueError(f"{name}={values[name]} must be {wanted}.")
    if not config.eval.cutoffs or min(config.eval.cutoffs) < 1:
        raise ValueError(f"config.eval.cutoffs={config.eval.cutoffs} must be numbers from 1 on.")
    tasks = find_tasks(config.tasks, config.label.causal)
    if len(config.task_weights) not in (1, len(tasks)) or min(config.task_weights) <= 0:
        raise ValueError(
            f"config.task_weights={config.task_weights} must be one number above 0, or one for "
            f"each of config.tasks={tuple(tasks)}."
        )
    whole = [name for name in tasks if name == "returns" or name == "purchase"]
    if whole and not config.label.causal and (whole != ["purchase"] or not config.label.after):
        raise ValueError(
            f"{whole[-1]}: config.label.causal=False would read what comes after a label; only a "
            "purchase that is asked once (config.label.after) and labels of a file can be so."
        )
    if config.data.position_from == "end" and config.model.positions != "none":
        for name, task in tasks.items():
            if name in LABELS and task.causal:
                raise ValueError(
                    f"{name}: positions that are counted from the end tell how much is to come. "
                    "Set config.data.position_from='start', or config.label.causal=False."
                )
    known = [metric for name in tasks for metric in metrics_of(config, name)]
    for name, choices in {
        "config.train.monitor": known,
        "config.mask.replace": sorted(REPLACE),
        "config.label.kind": sorted(LABEL_LOSSES),
        "config.data.position_from": ["end", "start"],
    }.items():
        if values[name] not in choices:
            raise ValueError(f"{name}={values[name]!r} is not one of {choices}.")
    if config.model.attention == "cudnn" and config.data.packing:
        raise ValueError(
            "config.model.attention='cudnn' wants one sequence a row: set "
            "config.data.packing=False, or config.model.attention='auto'."
        )


def metrics_of(config: ConfigDict, name: str) -> list[str]:
    """The metrics of a task that may be monitored."""
    if name in LABELS:
        own = list(NAMES[config.label.kind if name == "label" else "binary"])
    else:
        own = [f"{metric}@{k}" for metric in METRICS for k in config.eval.cutoffs]
    return own if len(config.tasks) == 1 else list(prefixed(name, dict.fromkeys(own)))


class Setting(NamedTuple):
    """What a run stands on, made from its config and never changed."""

    config: ConfigDict
    folder: pathlib.Path
    dataset: Dataset
    batches: dict[str, TrainingBatches]  # of each task
    advance: Advance
    at_once: int  # steps of one `advance`, at most
    judges: dict[str, Judge]  # of each task
    mesh: jax.sharding.Mesh


def last_checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """Where a run keeps what it goes on from."""
    return folder / "checkpoints" / "last"


def open_or_simulate(config: ConfigDict, folder: pathlib.Path) -> Dataset:
    """The data set that the config names; without a name, a simulated shop in the run folder."""
    path = data_path(config, folder)
    if not config.data.path and not (path / "dataset.json").is_file():
        simulate(path, Shop(sequences=20_000))
    return open_dataset(path)


def prepare_folder(
    config: ConfigDict, folder: pathlib.Path, dataset: Dataset, variables: dict[str, Variable]
) -> None:
    """Makes the folder of a run, or checks that it is the folder of this very run.

    Only the place of the data may differ, and the number of steps under a constant learning rate:
    a run can be made longer.
    """
    if not (folder / "config.json").is_file():
        # A start that was killed may have left these.
        ours = {"data", "vocab", "variables.json", "environment.json"}
        there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        others = [name for name in there if name not in ours and not name.startswith(".")]
        if others:
            raise ValueError(f"{folder} is not empty and not the folder of a run: {others[:5]}.")
        folder.mkdir(parents=True, exist_ok=True)
        keep_variables(dataset, folder, variables)
        origin = {"init_run": config.init.run or None}
        write_json(folder / "environment.json", environment(dataset.fingerprint) | origin)
        write_json(folder / "config.json", to_dict(config))
        return
    stored = differences(from_dict(read_json(folder / "config.json")), config)
    stored.pop("config.data.path", None)
    if config.optim.schedule == "constant":
        stored.pop("config.train.steps", None)
    if stored:
        lines = [f"{name}: {old!r} there, {new!r} now" for name, (old, new) in stored.items()]
        raise ValueError(
            f"{folder} holds another run's config. Name another workdir, or the same values:\n  "
            + "\n  ".join(lines)
        )
    trained_on = read_json(folder / "environment.json")["data"]
    if trained_on != dataset.fingerprint:
        check_catalog(vocabularies_of(folder), dataset.vocabularies, str(dataset.path))
        raise ValueError(f"{dataset.path} is not the data that {folder} was trained on.")
    write_json(folder / "config.json", to_dict(config))


def kept_variables(variables: Mapping[str, Variable], folder: pathlib.Path) -> dict[str, Variable]:
    """How a run reads those of `variables` that it has. Raises ValueError where it reads another
    kind, or ids of another number.
    """
    kept = {name: value for name, value in variables_of(folder).items() if name in variables}
    for name, value in kept.items():
        if bool(value.size) != bool(variables[name].size):
            raise ValueError(
                f"{folder} reads {name!r} as {'ids' if value.size else 'a number'}, and this "
                "config does not: take its data.quantiles, or its data set."
            )
    return kept


def make_batches(
    config: ConfigDict, asked: Asked, columns: Mapping[str, np.ndarray]
) -> TrainingBatches:
    """The rows that a task is trained on."""
    return training_batches(
        asked.reads(columns),
        asked.labels,
        asked.train,
        max_len=config.model.max_len,
        window=config.data.window,
        stride=config.data.stride,
        packing=config.data.packing,
        batch_size=config.train.batch_size,
        position_from=config.data.position_from,
        follow=asked.task.causal and asked.task.head not in LABELS,
    )


def make_objective(
    config: ConfigDict,
    name: str,
    task: Task,
    batches: TrainingBatches,
    sizes: Mapping[str, int],
    devices: int,
) -> Objective:
    """What a task is in a step."""
    mask, rows = config.mask, -(-batches.rows // devices)
    micro_rows = sharding.micro_rows(config.train.micro_rows, config.model.max_len, rows)
    packing = batches.packing
    places = most_hidden(packing.length, packing.offsets, mask.ratio)
    hiding = Hiding(mask.ratio, mask.replace, mask.last, places, sizes["item"] - RESERVED)
    if name in LABELS:
        kind = config.label.kind if name == "label" else "binary"
        loss = LABEL_LOSSES[kind]
        if kind == "binary":
            loss = functools.partial(loss, positive=config.label.positive)
    else:
        targets = micro_rows * (config.model.max_len if task.causal else places)
        items = sizes[task.head] - RESERVED
        chunk = sharding.chunk_items(config.train.softmax_chunk, targets, items)
        loss = functools.partial(softmax_loss, chunk=chunk)
    weights = config.task_weights
    return Objective(
        share=weights[list(config.tasks).index(name) if len(weights) > 1 else 0],
        causal=task.causal,
        head=task.head,
        prepare=lambda key, batch: task.prepare(key, batch, hiding),
        loss=loss,
        micro_rows=micro_rows,
    )


def set_up(config: ConfigDict, folder: pathlib.Path) -> tuple[Setting, State]:
    """Everything that a run needs, and its first state."""
    check_config(config)
    dataset = open_or_simulate(config, folder)
    asked = ask_about(config, dataset)
    check_trainable(asked)
    names, quantiles = config.data.variables, assignments("data.quantiles", config.data.quantiles)
    trained = trained_events(asked, dataset.events)
    variables = describe(dataset, event_variables(names), quantiles, trained)
    resumed = checkpoint.newest(last_checkpoint(folder)) is not None
    if resumed:
        variables |= kept_variables(variables, folder)
    elif config.init.run:  # what its tables and its numbers mean
        variables |= kept_variables(variables, pathlib.Path(config.init.run))
    sizes = sizes_of(variables)
    features, given = catalog_features(names, dataset.vocabulary("item"))
    model = build_model(config.model, sizes, features, *heads_of(config))
    columns = read(dataset, variables)
    mesh = sharding.make_mesh()
    batches = {name: make_batches(config, one, columns) for name, one in asked.items()}
    objectives = {
        name: make_objective(config, name, one.task, batches[name], sizes, mesh.size)
        for name, one in asked.items()
    }
    optimizer = make_optimizer(config.optim, config.train.steps)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    # Not jitted, these two would be many small programs, which take seconds to compile.
    make_params, make_moments = (
        jax.jit(functools.partial(init_params, model)),
        jax.jit(optimizer.init),
    )
    params = make_params(init_key, batches[config.tasks[0]].batch(config.seed, 0), given)
    if config.init.run and not resumed:
        params = start_from(config, params, dataset)
    state = State(jnp.zeros((), jnp.int32), params, make_moments(params))
    feed = Feed(
        step=make_step(model, objectives, optimizer),
        sources={
            name: Source(one, mesh.size * objectives[name].micro_rows)
            for name, one in batches.items()
        },
        mesh=mesh,
        shared=sharding.replicate(Shared(key, given), mesh),
        seed=config.seed,
        parallel=config.train.parallel,
    )
    resident = sum(resident_bytes(one) for one in batches.values())
    at_once = sharding.steps_at_once(config.train.steps_at_once, resident)
    judges = {
        name: Judge(make_asker(config, model, one.task, mesh, given), one, columns, config)
        for name, one in asked.items()
    }
    setting = Setting(
        config=config,
        folder=folder,
        dataset=dataset,
        batches=batches,
        advance=many_at_once(feed, at_once) if at_once > 1 else one_by_one(feed),
        at_once=at_once,
        judges=judges,
        mesh=mesh,
    )
    prepare_folder(config, folder, dataset, variables)
    return setting, sharding.replicate(state, mesh)


def start_from(config: ConfigDict, params: Any, dataset: Dataset) -> Any:
    """The parameters of another run, where they fit; loud where they do not."""
    source = load_run(config.init.run)
    check_catalog(source.vocabularies, dataset.vocabularies, str(dataset.path))
    return checkpoint.transfer(params, source.params, config.init.skip, config.init.run)
