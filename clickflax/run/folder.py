"""The folder of a run: config, environment, vocabularies, checkpoints."""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from clickflax.batch import MASK, NEXT_EVENT, reserved_value
from clickflax.config.default import from_dict, override
from clickflax.config.resolve import tasks_of
from clickflax.data.check import open_checked
from clickflax.data.item_features import ITEM_PREFIX, ItemFeature, read_item_features
from clickflax.data.remote import is_url
from clickflax.data.store import Dataset, Vocabulary, open_vocabulary
from clickflax.data.variables import (
    STORED_NAME,
    VARIABLE,
    Variable,
    encode_value,
    variable_from_json,
)
from clickflax.model.attention import or_auto
from clickflax.model.model import Model
from clickflax.run.checksums import CONFIG, check_file, check_vocabularies
from clickflax.run.model import model_from_config
from clickflax.run.sharded_tables import trim_tables
from clickflax.runtime import checkpoint
from clickflax.runtime.files import REMEDY, read_json, write_json
from clickflax.runtime.redact import without_secrets
from clickflax.runtime.schema import check_schema
from clickflax.tasks.task import Task

# The progress of a training, kept with its checkpoints.
PROGRESS = {
    "step": range(1 << 62),
    "seconds": float,
    "best": (float, None),
    "best_step": range(1 << 62),
    "evaluations_since": range(1 << 62),
    "losses": [float],
    "unvalidated?": bool,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained model with its config, vocabularies and input schema.

    `cache` holds what other packages derive from the run, such as compiled programs; it lives as
    long as the run does.
    """

    folder: pathlib.Path
    config: ConfigDict
    model: Model
    params: Any
    checkpoint: str  # best or last
    tasks: dict[str, Task]
    items: Vocabulary
    vocabularies: dict[str, Vocabulary]
    variables: dict[str, Variable]
    features: dict[str, ItemFeature]
    constants: Any  # fixed arrays of the model, such as item features
    progress: dict[str, Any]  # of the checkpoint: step, seconds of training, best so far
    cache: dict[str, Any] = dataclasses.field(init=False, default_factory=dict, repr=False)


def event_variables(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of `data.variables` that are read of events, not of the catalog."""
    return tuple(name for name in names if not name.startswith(ITEM_PREFIX))


def encode_condition(
    config: ConfigDict,
    task: Task,
    variables: Mapping[str, Variable],
    vocabularies: Mapping[str, Vocabulary],
) -> dict[str, Any]:
    """The values of `config.eval.given` by column, as the model reads them.

    Conditioning variables of the next event that are not given are set to MASK.
    """
    given = dict(pair.split("=", 1) for pair in config.eval.given)
    values = {}
    for name in config.data.given:
        variable = variables[name]
        if NEXT_EVENT + name in variables:
            dtype = np.int32 if variable.size else np.float32
            values[NEXT_EVENT + name] = reserved_value(MASK, dtype)
        if task.conditional and name in given and name != task.head:
            column = NEXT_EVENT + name if task.causal else name
            values[column] = encode_value(name, variable, vocabularies.get(name), given[name])
    return values


def parse_condition(text: str | None) -> tuple[str, ...] | None:
    """The pairs of `--given action=buy,hour=14`: () for an empty text, None without the flag."""
    return None if text is None else tuple(filter(None, text.split(",")))


def constants_of(features: Mapping[str, ItemFeature]) -> dict[str, Any]:
    """The item features as the model's collection of constants."""
    arrays = {name: feature.values for name, feature in features.items()}
    return {"embedder": arrays} if arrays else {}


def data_path(config: ConfigDict, folder: pathlib.Path) -> str:
    """Path or URL of the data set of a run: that of the config, else the run's simulated shop."""
    return config.data.path or str(folder / "data")


def last_checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """The folder of the checkpoints from which a run resumes."""
    return folder / "checkpoints" / "last"


def keep_variables(
    dataset: Dataset,
    folder: pathlib.Path,
    variables: Mapping[str, Variable],
    features: Mapping[str, ItemFeature],
) -> None:
    """Keeps the input schema and the vocabularies, so that a run needs no data set to recommend.

    The catalog among them has the item features.
    """
    (folder / "vocab").mkdir(exist_ok=True)
    for name in variables.keys() & dataset.vocabularies.keys():
        shutil.copyfile(dataset.vocabulary(name).path, folder / "vocab" / f"{name}.parquet")
    numbers = {name: one.variable for name, one in features.items() if not one.size}
    described = {name: dataclasses.asdict(one) for name, one in {**variables, **numbers}.items()}
    write_json(folder / "variables.json", described)


def variables_of(folder: pathlib.Path) -> tuple[dict[str, Variable], dict[str, Variable]]:
    """The variables of events, and the numeric item features, of a run."""
    path = folder / "variables.json"
    described = read_json(path, {STORED_NAME: VARIABLE})
    check_file(folder, path.name)
    variables = {name: variable_from_json(values) for name, values in described.items()}
    events = {name: one for name, one in variables.items() if not name.startswith(ITEM_PREFIX)}
    return events, {name: one for name, one in variables.items() if name.startswith(ITEM_PREFIX)}


def vocabularies_of(folder: pathlib.Path) -> dict[str, Vocabulary]:
    """The vocabularies of a run. Raises FileNotFoundError if it has none of items."""
    check_vocabularies(folder)
    paths = {*(folder / "vocab").glob("*.parquet"), folder / "vocab" / "item.parquet"}
    return {path.stem: open_vocabulary(path) for path in sorted(paths)}


def check_catalog(
    kept: Mapping[str, Vocabulary], other: Mapping[str, Vocabulary], path: str
) -> None:
    """Raises ValueError if the vocabularies of a data set differ from those of the run."""
    for name in sorted(kept.keys() & other.keys()):
        tokens = kept[name].tokens()
        others = other[name].tokens()
        if tokens != others:
            raise ValueError(
                f"{path} has another vocabulary of {name!r} ({len(others):,} tokens) than the run "
                f"({len(tokens):,}), so that ids have other meanings. Use the data set that the "
                "run was trained on."
            )


def read_config(folder: str | pathlib.Path) -> ConfigDict:
    """The config that a run was trained with."""
    folder = pathlib.Path(folder)
    path = folder / CONFIG
    values = read_json(path, {str: object})
    check_file(folder, CONFIG)
    config = from_dict(values, f"{path}: ")
    if not config.tasks:
        raise ValueError(f"{path}: tasks is empty. {REMEDY}")
    return config


def load_run(folder: str | pathlib.Path, which: str = "best") -> Run:
    """Opens a run with its best parameters (`which="best"`) or its last ones.

    A run without a validation has no best parameters; then it opens with the last. Its tokens are
    read at first use: if another run is trained in its folder before, that raises ValueError.
    """
    if which not in ("best", "last"):
        raise ValueError(f"checkpoint {which!r} must be 'best' or 'last'.")
    folder = pathlib.Path(folder)
    config = read_config(folder)
    vocabularies = vocabularies_of(folder)
    variables, numbers = variables_of(folder)
    features = read_item_features(vocabularies["item"], config.data.variables, numbers)
    which, progress, params = load_checkpoint(folder, which)
    for vocabulary in vocabularies.values():  # else these may be parameters of other tokens
        vocabulary.check_unchanged()
    # A run that was trained with the attention kernel of one machine opens on any other.
    attention = or_auto(config.model.attention, jax.default_backend())
    runnable = override(config, [f"config.model.attention={attention}"])
    model = model_from_config(runnable, variables, features)
    return Run(
        folder=folder,
        config=config,
        model=model,
        params=trim_tables(model, params),
        checkpoint=which,
        tasks=tasks_of(config),
        items=vocabularies["item"],
        vocabularies=vocabularies,
        variables=variables,
        features=features,
        constants=constants_of(features),
        progress=progress,
    )


def check_progress(folder: pathlib.Path, progress: Any) -> None:
    """Raises ValueError if the progress in a checkpoint of a run does not have its schema."""
    check_schema(last_checkpoint(folder), progress, PROGRESS, "progress")


def load_checkpoint(folder: pathlib.Path, which: str) -> tuple[str, dict[str, Any], Any]:
    """The checkpoint of a run that is opened ("best" or "last"), its progress and its parameters.

    `seconds` of its progress are those of the whole run, as it takes all of it to know the best
    checkpoint; `seconds_to_here` are those up to the checkpoint.
    """
    here = checkpoint.on_host()
    progress, params = checkpoint.load_params(last_checkpoint(folder), here)
    check_progress(folder, progress)
    if which == "last" or progress["best"] is None:
        return "last", progress | {"seconds_to_here": progress["seconds"]}, params
    seconds = progress["seconds"]
    best = folder / "checkpoints" / "best"
    progress, params = checkpoint.load_params(best, here, progress["best_step"])
    return "best", progress | {"seconds": seconds, "seconds_to_here": progress["seconds"]}, params


def open_data(run: Run, path: str | pathlib.Path | None = None) -> Dataset:
    """The data set of a run, or another one with the same vocabularies.

    Raises ValueError for a URL that only the run names: it may be the run of a stranger.
    """
    stored = path is None and is_url(run.config.data.path)
    path = path or data_path(run.config, run.folder)
    if stored:
        raise ValueError(
            f"{run.folder} was trained on the data set at {without_secrets(str(path))}. A URL is "
            "opened only if the command names it: add --data=URL (in Python, data=URL). "
            "Credentials come from the environment or from this URL, and are not stored."
        )
    dataset = open_checked(path).with_sessions(run.config.data.chain)
    check_catalog(run.vocabularies, dataset.vocabularies, str(dataset.path))
    return dataset
