"""What a training stands on: checked, opened and built from its config, before the first step."""

import functools
import hashlib
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Key
from ml_collections import ConfigDict

from clickflax.asker import make_asker
from clickflax.checks import check_config
from clickflax.cold import cold_items, left_out, without_own
from clickflax.config import differences, from_dict, to_dict
from clickflax.data.batches import TrainingBatches
from clickflax.data.features import Feature, read_features
from clickflax.data.simulate import Shop, simulate
from clickflax.data.store import Dataset, open_dataset
from clickflax.data.variables import Variable, describe, read
from clickflax.evaluate import Judge
from clickflax.events import AFTER, Batch
from clickflax.feed import Advance, Feed, Source, many_at_once, one_by_one, resident_bytes
from clickflax.model.model import Model
from clickflax.objectives import make_batches, make_objective
from clickflax.questions import ask_about, check_trainable, trained_events
from clickflax.run import (
    Run,
    assignments,
    build_model,
    check_catalog,
    data_path,
    event_variables,
    given_of,
    heads_of,
    keep_variables,
    load_run,
    read_json,
    sizes_of,
    told_of,
    variables_of,
    vocabularies_of,
    write_json,
)
from clickflax.runtime import checkpoint, sharding
from clickflax.runtime.environment import environment
from clickflax.runtime.optim import make_optimizer
from clickflax.runtime.params import split
from clickflax.step import Shared, State, init_params, make_step
from clickflax.tasks.tasks import NEXT
from clickflax.transfer import (
    Learning,
    Taken,
    Tokens,
    check_tokens,
    how_to_learn,
    start_from,
    tokens_of,
    tokens_of_run,
)
from clickflax.weights import weigh


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
    taken: Taken | None  # from the run that this one starts from, if it starts now
    learning: Learning


def last_checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """Where a run keeps what it goes on from."""
    return folder / "checkpoints" / "last"


def open_or_simulate(config: ConfigDict, folder: pathlib.Path) -> Dataset:
    """The data set that the config names; without a name, a simulated shop in the run folder."""
    path = data_path(config, folder)
    if not config.data.path and not (path / "dataset.json").is_file():
        simulate(path, Shop(sequences=20_000))
    return open_dataset(path).chained(config.data.chain)


def labels_fingerprint(config: ConfigDict) -> str | None:
    """SHA-256 of the file of labels, if a task asks for one."""
    if "label" not in config.tasks:
        return None
    return hashlib.sha256(pathlib.Path(config.label.path).read_bytes()).hexdigest()


def prepare_folder(
    config: ConfigDict,
    folder: pathlib.Path,
    dataset: Dataset,
    variables: dict[str, Variable],
    features: dict[str, Feature],
    taken: Taken | None,
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
    stored.pop("config.data.path", None)
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
    write_json(folder / "config.json", to_dict(config))


def read_before(folder: pathlib.Path, origin: Run | None, resumed: bool) -> dict[str, Variable]:
    """How the run read its variables and the features of its items so far, or the run `origin`."""
    if resumed:
        variables, numbers = variables_of(folder)
        return variables | numbers
    if origin:
        return origin.variables | {name: one.variable for name, one in origin.features.items()}
    return {}


def how_to_read(
    config: ConfigDict,
    before: dict[str, Variable],
    dataset: Dataset,
    trained: Bool[np.ndarray, " E"],
) -> dict[str, Variable]:
    """How the run reads its variables: as `before`, otherwise as those events say that are trained
    on; a vocabulary is that of the data set. Raises ValueError where `before` is another kind.
    """
    quantiles = assignments("data.quantiles", config.data.quantiles)
    names = event_variables(config.data.variables)
    after = config.data.given if any(name.startswith(NEXT) for name in config.tasks) else ()
    found = describe(dataset, names, quantiles, trained, after)
    for name in found.keys() & before.keys():
        kept = before[name]
        if bool(kept.size) != bool(found[name].size):
            raise ValueError(
                f"{config.init.run or 'the run'} reads {name!r} as "
                f"{'ids' if kept.size else 'a number'}, and this config does not: take its "
                "data.quantiles, or its data set."
            )
        if kept.several != found[name].several:
            raise ValueError(
                f"{config.init.run or 'the run'} reads {name!r} as "
                f"{'several values' if kept.several else 'one value'} an event, and {dataset.path} "
                "has it otherwise: prepare it as the data of the run, or leave it out."
            )
        grows = name.removeprefix(AFTER) in dataset.vocabularies and not kept.edges
        found[name] = found[name] if grows else kept
    return found


def first_params(
    config: ConfigDict,
    model: Model,
    key: Key[Array, ""],
    batch: Batch,
    given: Any,
    cold: Bool[np.ndarray, " V"],
    origin: Run | None,
    tokens: Tokens,
) -> tuple[Any, Taken | None]:
    """Fresh parameters, or those of the run `origin`, if any, and what was taken from it."""
    # Not jitted, this would be many small programs, which take seconds to compile.
    params = jax.jit(functools.partial(init_params, model))(key, batch, given)
    params = without_own(params, cold)
    return start_from(origin, params, tokens, config.init.skip) if origin else (params, None)


def first_state(params: Any, optimizer: optax.GradientTransformation, learning: Learning) -> State:
    """The state before the first step; the optimiser knows nothing of what is never trained."""
    trained, _ = split(params, learning.never)
    return State(jnp.zeros((), jnp.int32), params, jax.jit(optimizer.init)(trained))


def set_up(config: ConfigDict, folder: pathlib.Path) -> tuple[Setting, State]:
    """Everything that a run needs, and its first state."""
    check_config(config)
    dataset = open_or_simulate(config, folder)
    asked = ask_about(config, dataset)
    check_trainable(asked)
    asked = weigh(config, dataset, asked)
    resumed = checkpoint.newest(last_checkpoint(folder)) is not None
    # The run to start from may be gone when this one goes on.
    origin = load_run(config.init.run) if config.init.run and not resumed else None
    before = read_before(folder, origin, resumed)
    trained = trained_events(asked, dataset)
    variables = how_to_read(config, before, dataset, trained)
    features = read_features(dataset.vocabulary("item"), config.data.variables, before)
    cold = cold_items(dataset, features, trained)
    tokens = tokens_of(dataset.vocabularies, variables, features)
    if origin and config.init.vocab == "same":
        check_tokens(tokens_of_run(origin), tokens, config.init.run)
    sizes, columns, given = sizes_of(variables), read(dataset, variables), given_of(features)
    model = build_model(config.model, sizes, sizes_of(features), *heads_of(config))
    mesh = sharding.make_mesh()
    batches = {name: make_batches(config, one, columns) for name, one in asked.items()}
    objectives = {
        name: make_objective(config, name, one.task, batches[name], sizes, cold, mesh.size)
        for name, one in asked.items()
    }
    init_key, key = jax.random.split(jax.random.key(config.seed))
    batch = batches[config.tasks[0]].batch(config.seed, 0)
    params, taken = first_params(config, model, init_key, batch, given, cold, origin, tokens)
    learning = how_to_learn(config, params)
    optimizer = make_optimizer(config.optim, config.train.steps, learning.speed)
    state = first_state(params, optimizer, learning)
    feed = Feed(
        step=make_step(model, objectives, optimizer, learning.never),
        sources={
            name: Source(one, mesh.size * objectives[name].micro_rows)
            for name, one in batches.items()
        },
        mesh=mesh,
        shared=sharding.replicate(Shared(key, given | left_out(cold, config.model.tied)), mesh),
        seed=config.seed,
        parallel=config.train.parallel,
    )
    resident = sum(resident_bytes(one) for one in batches.values())
    at_once = sharding.steps_at_once(config.train.steps_at_once, resident)
    setting = Setting(
        config=config,
        folder=folder,
        dataset=dataset,
        batches=batches,
        advance=many_at_once(feed, at_once) if at_once > 1 else one_by_one(feed),
        at_once=at_once,
        judges={
            name: Judge(
                make_asker(
                    config,
                    model,
                    one.task,
                    mesh,
                    given,
                    told_of(config, name, one.task, variables, dataset.vocabularies),
                ),
                one,
                columns,
                config,
            )
            for name, one in asked.items()
        },
        mesh=mesh,
        taken=taken,
        learning=learning,
    )
    prepare_folder(config, folder, dataset, variables, features, taken)
    return setting, sharding.replicate(state, mesh)
