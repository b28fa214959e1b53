"""Sample weights: targets weigh by a number of the log or of a label file, and less with age."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped
from ml_collections import ConfigDict

from clickflax.data.batches import Windows, shift_left
from clickflax.data.durations import parse_gap
from clickflax.data.splits.common import events_inside
from clickflax.data.store import Dataset
from clickflax.run.targets import TaskData
from clickflax.tasks.task import WEIGHT


def add_sample_weights(
    config: ConfigDict, dataset: Dataset, tasks: Mapping[str, TaskData]
) -> dict[str, TaskData]:
    """Adds the label WEIGHT to tasks whose targets do not all weigh the same.

    A target has the weight of its event, or of its label in a file with weights, times what its age
    leaves of it. Raises ValueError for a weight that is missing, infinite or negative, and if all
    targets of a training weigh 0.
    """
    weight = age = None
    if config.data.weight:
        weight = dataset.with_separators(column_weights(dataset, config.data.weight))
    if config.data.half_life:
        age = dataset.with_separators(age_weights(dataset, config.data.half_life))
    weighted = {}
    for name, data in tasks.items():
        of_target = shift_left if data.task.follows else np.asarray
        factors, sources = [], []
        if WEIGHT in data.labels:
            factors.append(data.labels[WEIGHT])
            sources.append(config.label.path)
        elif weight is not None:
            factors.append(of_target(weight))
            sources.append(f"config.data.weight={config.data.weight!r}")
        if age is not None:
            youngest = np.nanmin(age[events_inside(data.train, len(age))], initial=np.inf)
            # Events of the test are younger than all of training, and exp2 would overflow.
            factors.append(np.exp2(np.minimum(youngest - of_target(age), 0.0)))
            sources.append(f"config.data.half_life={config.data.half_life!r}")
        if factors:
            weights = np.prod(factors, axis=0, dtype=np.float32)
            data = data._replace(labels={**data.labels, WEIGHT: weights})
            check_some_weight(data, " with ".join(sources))
        weighted[name] = data
    return weighted


def age_weights(dataset: Dataset, half_life: str) -> Float[np.ndarray, " E"]:
    """Age of every event of a log in half-lives.

    A half-life is a time such as 30d, or a number of sequences if the log has no times.
    """
    columns, offsets = dataset.columns, dataset.offsets
    try:
        sequences = float(half_life)
    except ValueError:
        if "time" not in columns:
            raise ValueError(
                f"config.data.half_life={half_life!r} must be a number of sequences, as "
                f"{dataset.path} has no times."
            ) from None
        time = np.asarray(columns["time"])
        return (time.max() - time) / parse_gap("config.data.half_life", half_life)
    if "time" in columns or not 0 < sequences < np.inf:
        raise ValueError(
            f"config.data.half_life={half_life!r} must be a time such as 30d, or, if the log has "
            "no times, a number of sequences above 0."
        )
    since = np.arange(len(offsets) - 1)[::-1]  # sequences that came later
    return np.repeat(since / sequences, np.diff(offsets))


def column_weights(dataset: Dataset, name: str) -> Float[np.ndarray, " E"]:
    """Weight of every event of a log: its number in the column `name`."""
    numbers = sorted(dataset.columns.keys() - dataset.vocabularies.keys() - {"time"})
    if name not in numbers:
        raise ValueError(
            f"config.data.weight={name!r} is not a numeric variable of {dataset.path}; these are "
            f"{numbers}."
        )
    weight = np.asarray(dataset.columns[name])
    wrong = np.flatnonzero(~((weight >= 0) & np.isfinite(weight)))
    if len(wrong):
        raise ValueError(
            f"config.data.weight={name!r}: {len(wrong):,} events of {dataset.path} have a "
            f"weight that is missing, infinite or negative; that of event {wrong[0]:,} is "
            f"{weight[wrong[0]]:g}."
        )
    return weight


def check_some_weight(data: TaskData, source: str) -> None:
    """Raises ValueError if all targets that a task is trained on weigh 0."""
    weight: Shaped[np.ndarray, " P"] = data.labels[WEIGHT]
    stop = data.train.stop - 1 if data.task.follows else data.train.stop
    trained = events_inside(Windows(data.train.start, stop), len(weight))
    if not data.task.ranks:
        trained &= np.isfinite(data.labels[data.task.name])
    if not (weight[trained] > 0).any():
        raise ValueError(f"{source}: all targets that {data.task.name} is trained on weigh 0.")
