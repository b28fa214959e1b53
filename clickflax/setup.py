"""What a training stands on: checked, opened and built from its config, before the first step."""

import functools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from clickflax.asker import make_asker
from clickflax.config import differences, from_dict, knobs, to_dict
from clickflax.data.batches import TrainingBatches, training_batches
from clickflax.data.simulate import Shop, simulate
from clickflax.data.split import Split
from clickflax.data.store import Dataset, open_dataset
from clickflax.evaluate import Ranker, split_of
from clickflax.events import RESERVED
from clickflax.feed import Advance, Feed, many_at_once, one_by_one, resident_bytes
from clickflax.run import (
    build_model,
    check_catalog,
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
from clickflax.runtime.optim import make_optimizer
from clickflax.step import State, init_params, make_step
from clickflax.tasks.metrics import METRICS
from clickflax.tasks.tasks import REPLACE, Hiding, find_task, most_hidden

# The least and the most that a number may be.
RANGES = {
    "config.seed": (0, 2**31 - 1),
    "config.data.validation_users": (-1, math.inf),
    "config.mask.ratio": (0.001, 1),
    "config.mask.last": (0, 1),
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
    known = [f"{name}@{k}" for name in METRICS for k in config.eval.cutoffs]
    for name, choices in {
        "config.train.monitor": known,
        "config.mask.replace": sorted(REPLACE),
        "config.data.position_from": ["end", "start"],
    }.items():
        if values[name] not in choices:
            raise ValueError(f"{name}={values[name]!r} is not one of {choices}.")
    if config.model.attention == "cudnn" and config.data.packing:
        raise ValueError(
            "config.model.attention='cudnn' wants one sequence a row: set "
            "config.data.packing=False, or config.model.attention='auto'."
        )


class Setting(NamedTuple):
    """What a run stands on, made from its config and never changed."""

    config: ConfigDict
    folder: pathlib.Path
    dataset: Dataset
    parts: Split
    batches: TrainingBatches
    advance: Advance
    at_once: int  # steps of one `advance`, at most
    ranker: Ranker
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


def prepare_folder(config: ConfigDict, folder: pathlib.Path, dataset: Dataset) -> None:
    """Makes the folder of a run, or checks that it is the folder of this very run.

    Only the place of the data may differ, and the number of steps under a constant learning rate:
    a run can be made longer.
    """
    if not (folder / "config.json").is_file():
        # A start that was killed may have left these.
        ours = {"data", "vocab", "environment.json"}
        there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        others = [name for name in there if name not in ours and not name.startswith(".")]
        if others:
            raise ValueError(f"{folder} is not empty and not the folder of a run: {others[:5]}.")
        folder.mkdir(parents=True, exist_ok=True)
        keep_vocabularies(dataset, folder, config.data.variables)
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


def set_up(config: ConfigDict, folder: pathlib.Path) -> tuple[Setting, State]:
    """Everything that a run needs, and its first state."""
    check_config(config)
    task = find_task(config.tasks)
    dataset = open_or_simulate(config, folder)
    sizes = variable_sizes(config.data.variables, dataset.vocabularies)
    model = build_model(config.model, sizes)
    parts = split_of(config, dataset)
    mesh = sharding.make_mesh()
    batches = training_batches(
        {name: dataset.columns[name] for name in config.data.variables},
        parts.train,
        max_len=config.model.max_len,
        window=config.data.window,
        stride=config.data.stride,
        packing=config.data.packing,
        batch_size=config.train.batch_size,
        position_from=config.data.position_from,
        follow=task.causal,
    )
    rows = -(-batches.rows // mesh.size)
    micro_rows = sharding.micro_rows(config.train.micro_rows, config.model.max_len, rows)
    packing = batches.packing
    places = most_hidden(packing.length, packing.offsets, config.mask.ratio)
    mask = config.mask
    hiding = Hiding(mask.ratio, mask.replace, mask.last, places, sizes["item"] - RESERVED)
    optimizer = make_optimizer(config.optim, config.train.steps)
    targets = micro_rows * (config.model.max_len if task.causal else places)
    chunk = sharding.chunk_items(config.train.softmax_chunk, targets, hiding.items)
    step = make_step(model, task, hiding, optimizer, micro_rows, chunk)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    # Not jitted, these two would be many small programs, which take seconds to compile.
    make_params, make_moments = (
        jax.jit(functools.partial(init_params, model)),
        jax.jit(optimizer.init),
    )
    params = make_params(init_key, batches.batch(config.seed, 0))
    if config.init.run and checkpoint.newest(last_checkpoint(folder)) is None:
        params = start_from(config, params, dataset)
    state = State(jnp.zeros((), jnp.int32), params, make_moments(params))
    feed = Feed(
        step=step,
        batches=batches,
        mesh=mesh,
        key=sharding.replicate(key, mesh),
        seed=config.seed,
        parallel=config.train.parallel,
        rows_divide_by=mesh.size * micro_rows,
    )
    at_once = sharding.steps_at_once(config.train.steps_at_once, resident_bytes(batches))
    setting = Setting(
        config=config,
        folder=folder,
        dataset=dataset,
        parts=parts,
        batches=batches,
        advance=many_at_once(feed, at_once) if at_once > 1 else one_by_one(feed),
        at_once=at_once,
        ranker=Ranker(make_asker(config, model, task, mesh), config.eval.filter_seen),
        mesh=mesh,
    )
    prepare_folder(config, folder, dataset)
    return setting, sharding.replicate(state, mesh)


def start_from(config: ConfigDict, params: Any, dataset: Dataset) -> Any:
    """The parameters of another run, where they fit; loud where they do not."""
    source = load_run(config.init.run)
    check_catalog(source.vocabularies, dataset.vocabularies, str(dataset.path))
    return checkpoint.transfer(params, source.params, config.init.skip, config.init.run)
