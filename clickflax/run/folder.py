"""The folder of a run: what it keeps, and what it answers with."""

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
from clickflax.data.item_features import ITEM_PREFIX, ItemFeature, read_item_features
from clickflax.data.store import Dataset, Vocabulary, open_dataset, open_vocabulary
from clickflax.data.variables import Variable, encode_value, variable_from_json
from clickflax.model.attention import or_auto
from clickflax.model.model import Model
from clickflax.run.model import model_from_config
from clickflax.run.sharded_tables import trim_tables
from clickflax.runtime import checkpoint
from clickflax.runtime.files import read_json, write_json
from clickflax.tasks.task import MASKED, NEXT, Task, find_tasks


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained model, and what its numbers mean."""

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
    given: Any  # what the model is given of the catalog, see `Shared`
    progress: dict[str, Any]  # of the checkpoint: step, seconds of training, best so far


def event_variables(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of `data.variables` that are no features of the items."""
    return tuple(name for name in names if not name.startswith(ITEM_PREFIX))


def encode_condition(
    config: ConfigDict,
    name: str,
    task: Task,
    variables: Mapping[str, Variable],
    vocabularies: Mapping[str, Vocabulary],
) -> dict[str, Any]:
    """What `config.eval.given` tells of the event that a task asks for, as columns have it; of the
    rest, a model that is used to be told something is told that it is told nothing.
    """
    words = dict(pair.split("=", 1) for pair in config.eval.given)
    may = name.startswith((NEXT, MASKED))
    found = {}
    for given in config.data.given:
        variable = variables[given]
        if NEXT_EVENT + given in variables:
            found[NEXT_EVENT + given] = reserved_value(
                MASK, np.int32 if variable.size else np.float32
            )
        if may and given in words and given != task.head:
            column = NEXT_EVENT + given if task.causal else given
            found[column] = encode_value(given, variable, vocabularies.get(given), words[given])
    return found


def parse_condition(text: str | None) -> tuple[str, ...] | None:
    """The pairs of `--given action=buy,hour=14`; none for an empty text, None without one."""
    return None if text is None else tuple(filter(None, text.split(",")))


def constants_of(features: Mapping[str, ItemFeature]) -> dict[str, Any]:
    """The arrays of the features of the items, as the model wants them given."""
    arrays = {name: feature.values for name, feature in features.items()}
    return {"embedder": arrays} if arrays else {}


def data_path(config: ConfigDict, folder: pathlib.Path) -> str:
    """The data set of a run, a folder or a URL: the one that the config names, else its simulated
    shop.
    """
    return config.data.path or str(folder / "data")


def last_checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """Where a run keeps what it goes on from."""
    return folder / "checkpoints" / "last"


def keep_variables(
    dataset: Dataset,
    folder: pathlib.Path,
    variables: Mapping[str, Variable],
    features: Mapping[str, ItemFeature],
) -> None:
    """Keeps how variables are read, and their vocabularies: the run can then be asked alone.

    The tokens of the features of items are in the catalog that is kept.
    """
    (folder / "vocab").mkdir(exist_ok=True)
    for name in variables.keys() & dataset.vocabularies.keys():
        shutil.copyfile(dataset.vocabulary(name).path, folder / "vocab" / f"{name}.parquet")
    numbers = {name: one.variable for name, one in features.items() if not one.size}
    described = {name: dataclasses.asdict(one) for name, one in {**variables, **numbers}.items()}
    write_json(folder / "variables.json", described)


def variables_of(folder: pathlib.Path) -> tuple[dict[str, Variable], dict[str, Variable]]:
    """How a run reads the variables of an event, and numbers that are features of the items."""
    described = read_json(folder / "variables.json")
    found = {name: variable_from_json(values) for name, values in described.items()}
    events = {name: one for name, one in found.items() if not name.startswith(ITEM_PREFIX)}
    return events, {name: one for name, one in found.items() if name.startswith(ITEM_PREFIX)}


def vocabularies_of(folder: pathlib.Path) -> dict[str, Vocabulary]:
    """The vocabularies that a run keeps."""
    return {
        path.stem: open_vocabulary(path) for path in sorted((folder / "vocab").glob("*.parquet"))
    }


def check_catalog(
    kept: Mapping[str, Vocabulary], other: Mapping[str, Vocabulary], what: str
) -> None:
    """Refuses vocabularies that differ: their ids mean other things."""
    for name in sorted(kept.keys() & other.keys()):
        vocabulary, theirs = kept[name], other[name].tokens()
        if vocabulary.tokens() != theirs:
            raise ValueError(
                f"{what} has another vocabulary of {name!r}: {len(theirs):,} tokens, the run has "
                f"{len(vocabulary.tokens()):,}, and the same id means another one. Use the data "
                "set that the run was trained on."
            )


def read_config(folder: str | pathlib.Path) -> ConfigDict:
    """The config that a run was trained with."""
    return from_dict(read_json(pathlib.Path(folder) / "config.json"))


def load_run(folder: str | pathlib.Path, which: str = "best") -> Run:
    """Opens a run: its config, its vocabularies, and its best parameters, or the last ones.

    A run without validation has no best ones: then the last.
    """
    if which not in ("best", "last"):
        raise ValueError(f"{which!r} is no checkpoint: there are best and last.")
    folder = pathlib.Path(folder)
    config = read_config(folder)
    vocabularies = vocabularies_of(folder)
    variables, numbers = variables_of(folder)
    features = read_item_features(vocabularies["item"], config.data.variables, numbers)
    here = checkpoint.on_host()
    progress, params = checkpoint.load_params(last_checkpoint(folder), here)
    if which == "best" and progress["best"] is not None:
        of_run = progress["seconds"]
        best = folder / "checkpoints" / "best"
        progress, params = checkpoint.load_params(best, here, progress["best_step"])
        # It took the whole run to know that this one is the best.
        progress = progress | {"seconds": of_run, "seconds_to_here": progress["seconds"]}
    else:
        which, progress = "last", progress | {"seconds_to_here": progress["seconds"]}
    # The attention kernel of the training may not run on this machine.
    attention = or_auto(config.model.attention, jax.default_backend())
    here_config = override(config, [f"config.model.attention={attention}"])
    model = model_from_config(here_config, variables, features)
    return Run(
        folder=folder,
        config=config,
        model=model,
        params=trim_tables(model, params),
        checkpoint=which,
        tasks=find_tasks(config.tasks, config.label.causal, config.label.at),
        items=vocabularies["item"],
        vocabularies=vocabularies,
        variables=variables,
        features=features,
        given=constants_of(features),
        progress=progress,
    )


def open_data(run: Run, path: str | pathlib.Path | None = None) -> Dataset:
    """The data set of a run, or another one with the same catalog."""
    path = path or data_path(run.config, run.folder)
    dataset = open_dataset(path).with_sessions(run.config.data.chain)
    check_catalog(run.vocabularies, dataset.vocabularies, str(dataset.path))
    return dataset
