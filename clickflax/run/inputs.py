"""How a run reads its data set: as before, as the run that it starts from, or as it finds best."""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from ml_collections import ConfigDict

from clickflax.batch import NEXT_EVENT
from clickflax.data.batches import BatchLayout
from clickflax.data.item_features import ItemFeature, read_item_features
from clickflax.data.store import Dataset
from clickflax.data.variables import Variable, describe_variables, read_columns
from clickflax.run.cold_start import cold_items
from clickflax.run.folder import Run, event_variables, last_checkpoint, load_run, variables_of
from clickflax.run.model import assignments
from clickflax.run.targets import TaskData, events_in_training
from clickflax.run.transfer import Tokens, check_tokens, tokens_of, tokens_of_run
from clickflax.runtime import checkpoint
from clickflax.tasks.task import NEXT


class InputSchema(NamedTuple):
    """What a run reads of its data set, and the run that it starts from, if any."""

    variables: dict[str, Variable]
    columns: dict[str, Shaped[np.ndarray, "P ..."]]
    features: dict[str, ItemFeature]
    tokens: Tokens
    cold: Bool[np.ndarray, " V"]  # see `cold_items`
    origin: Run | None


def batch_layout(config: ConfigDict) -> BatchLayout:
    """Returns the layout of the rows that a config describes."""
    return BatchLayout(
        max_len=config.model.max_len,
        packing=config.data.packing,
        position_from=config.data.position_from,
        cls=config.data.cls,
    )


def previous_variables(
    folder: pathlib.Path, origin: Run | None, resumed: bool
) -> dict[str, Variable]:
    """How the run read its variables and the features of its items so far, or the run `origin`."""
    if resumed:
        variables, numbers = variables_of(folder)
        return variables | numbers
    if origin:
        return origin.variables | {name: one.variable for name, one in origin.features.items()}
    return {}


def choose_variables(
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
    found = describe_variables(dataset, names, quantiles, trained, after)
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
        grows = name.removeprefix(NEXT_EVENT) in dataset.vocabularies and not kept.edges
        found[name] = found[name] if grows else kept
    return found


def find_input_schema(
    config: ConfigDict, folder: pathlib.Path, dataset: Dataset, asked: Mapping[str, TaskData]
) -> InputSchema:
    """How the run reads its data: as before, as the run that it starts from, or anew."""
    resumed = checkpoint.newest(last_checkpoint(folder)) is not None
    # The run to start from may be gone when this one goes on.
    origin = load_run(config.init.run) if config.init.run and not resumed else None
    before = previous_variables(folder, origin, resumed)
    trained = events_in_training(asked, dataset)
    variables = choose_variables(config, before, dataset, trained)
    features = read_item_features(dataset.vocabulary("item"), config.data.variables, before)
    tokens = tokens_of(dataset.vocabularies, variables, features)
    if origin and config.init.vocab == "same":
        check_tokens(tokens_of_run(origin), tokens, config.init.run)
    cold = cold_items(dataset, features, trained)
    return InputSchema(variables, read_columns(dataset, variables), features, tokens, cold, origin)
