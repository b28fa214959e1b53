"""Input schema of a run: reused on resume, inherited from `init.run`, or inferred from training
data.
"""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from ml_collections import ConfigDict

from clickflax.batch import NEXT_EVENT
from clickflax.config.resolve import tasks_of
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


class InputSchema(NamedTuple):
    """Variables and features that a run reads of its data set, and the run it starts from."""

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
    """The schema of the run so far, or of the run that it starts from; {} if there is neither."""
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
    """The schema of the variables: as `before`, else inferred from the events in `trained`.

    A vocabulary is always that of the data set. Raises ValueError if a variable was of another kind
    before.
    """
    quantiles = assignments("data.quantiles", config.data.quantiles)
    names = event_variables(config.data.variables)
    follows = any(task.follows for task in tasks_of(config).values())
    after = config.data.given if follows else ()
    described = describe_variables(dataset, names, quantiles, trained, after)
    run = config.init.run or "the run"
    for name in described.keys() & before.keys():
        kept = before[name]
        if bool(kept.size) != bool(described[name].size):
            raise ValueError(
                f"{run} reads {name!r} as {'ids' if kept.size else 'a number'}, and this config "
                "does not: use its config.data.quantiles, or its data set."
            )
        if kept.several != described[name].several:
            raise ValueError(
                f"{run} reads {name!r} as {'several values' if kept.several else 'one value'} per "
                f"event, which {dataset.path} does not have: prepare it as the data of the run, or "
                "leave the variable out."
            )
        grows = name.removeprefix(NEXT_EVENT) in dataset.vocabularies and not kept.edges
        described[name] = described[name] if grows else kept
    return described


def find_input_schema(
    config: ConfigDict, folder: pathlib.Path, dataset: Dataset, tasks: Mapping[str, TaskData]
) -> InputSchema:
    """The input schema of a run that starts or resumes, and the columns that it reads."""
    resumed = checkpoint.newest(last_checkpoint(folder)) is not None
    # A resumed run does not need the run that it started from.
    origin = load_run(config.init.run) if config.init.run and not resumed else None
    before = previous_variables(folder, origin, resumed)
    trained = events_in_training(tasks, dataset)
    variables = choose_variables(config, before, dataset, trained)
    features = read_item_features(dataset.vocabulary("item"), config.data.variables, before)
    tokens = tokens_of(dataset.vocabularies, variables, features)
    if origin and config.init.vocab == "same":
        check_tokens(tokens_of_run(origin), tokens, config.init.run)
    cold = cold_items(dataset, features, trained)
    return InputSchema(variables, read_columns(dataset, variables), features, tokens, cold, origin)
