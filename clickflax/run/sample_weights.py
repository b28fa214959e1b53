"""What targets weigh in the loss of a training: a number of the log or of a file of labels, and
less the older they are.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped
from ml_collections import ConfigDict

from clickflax.data.batches import Windows, shift_left
from clickflax.data.durations import parse_gap
from clickflax.data.splits.common import events_inside
from clickflax.data.store import Dataset
from clickflax.run.targets import TaskData
from clickflax.tasks.task import LABELS, NEXT, WEIGHT


def add_sample_weights(
    config: ConfigDict, dataset: Dataset, asked: Mapping[str, TaskData]
) -> dict[str, TaskData]:
    """The tasks with what their targets weigh as one more label, where something says so.

    A target weighs what its event does, or its label in a file that has weights, times what its age
    leaves of it. Raises ValueError for a weight that is missing, infinite or negative, and where
    all that is trained on has none.
    """
    weight = age = None
    if config.data.weight:
        weight = dataset.with_separators(column_weights(dataset, config.data.weight))
    if config.data.half_life:
        age = dataset.with_separators(age_weights(dataset, config.data.half_life))
    found = {}
    for name, one in asked.items():
        own = shift_left if name.startswith(NEXT) else np.asarray
        factors, sources = [], []
        if WEIGHT in one.labels:
            factors.append(one.labels[WEIGHT])
            sources.append(config.label.path)
        elif weight is not None:
            factors.append(own(weight))
            sources.append(f"config.data.weight={config.data.weight!r}")
        if age is not None:
            youngest = np.nanmin(age[events_inside(one.train, len(age))], initial=np.inf)
            factors.append(np.exp2(np.minimum(youngest - own(age), 0.0)))  # or the test overflows
            sources.append(f"config.data.half_life={config.data.half_life!r}")
        if factors:
            weights = np.prod(factors, axis=0, dtype=np.float32)
            one = one._replace(labels={**one.labels, WEIGHT: weights})
            check_some_weight(name, one, " with ".join(sources))
        found[name] = one
    return found


def age_weights(dataset: Dataset, half_life: str) -> Float[np.ndarray, " E"]:
    """The age of every event of a log, in half-lives: these are a time such as 30d, or a number of
    sequences where the log has an order alone.
    """
    columns, offsets = dataset.columns, dataset.offsets
    try:
        sequences = float(half_life)
    except ValueError:
        if "time" not in columns:
            raise ValueError(
                f"config.data.half_life={half_life!r}: {dataset.path} has no times, so that it "
                "must be a number of sequences."
            ) from None
        time = np.asarray(columns["time"])
        return (time.max() - time) / parse_gap("config.data.half_life", half_life)
    if "time" in columns or not 0 < sequences < np.inf:
        raise ValueError(
            f"config.data.half_life={half_life!r} is not a time such as 30d; where a log has "
            "no times, it is a number of sequences above 0."
        )
    since = np.arange(len(offsets) - 1)[::-1]  # sequences that came later
    return np.repeat(since / sequences, np.diff(offsets))


def column_weights(dataset: Dataset, name: str) -> Float[np.ndarray, " E"]:
    """The weight of every event of a log."""
    numbers = sorted(dataset.columns.keys() - dataset.vocabularies.keys() - {"time"})
    if name not in numbers:
        raise ValueError(
            f"config.data.weight={name!r} is not a number of {dataset.path}; these are: {numbers}."
        )
    weight = np.asarray(dataset.columns[name])
    wrong = np.flatnonzero(~((weight >= 0) & np.isfinite(weight)))
    if len(wrong):
        raise ValueError(
            f"config.data.weight={name!r}: {len(wrong):,} events of {dataset.path} have no finite "
            f"weight of 0 or more; that of event {wrong[0]:,} is {weight[wrong[0]]:g}."
        )
    return weight


def check_some_weight(name: str, asked: TaskData, source: str) -> None:
    """Refuses a training in which no target weighs anything."""
    weight: Shaped[np.ndarray, " P"] = asked.labels[WEIGHT]
    ranges = Windows(asked.train.start, asked.train.stop - name.startswith(NEXT))
    trained = events_inside(ranges, len(weight))
    if name in LABELS:
        trained &= np.isfinite(asked.labels[name])
    if not (weight[trained] > 0).any():
        raise ValueError(f"{source}: all that {name} is trained on weighs 0; nothing to learn.")
