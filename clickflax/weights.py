"""What targets weigh in the loss of a training: a number of the log, or of a file of labels."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped
from ml_collections import ConfigDict

from clickflax.data.batches import Windows, following
from clickflax.data.split import inside
from clickflax.data.store import Dataset
from clickflax.questions import Asked
from clickflax.tasks.tasks import LABELS, NEXT, WEIGHT


def weigh(config: ConfigDict, dataset: Dataset, asked: Mapping[str, Asked]) -> dict[str, Asked]:
    """The tasks with what their targets weigh as one more label, where something says so.

    A target weighs what its event does, or its label in a file that has weights. Raises ValueError
    for a weight that is missing, infinite or negative, and where all that is trained on has none.
    """
    weight = None
    if config.data.weight:
        weight = dataset.spread(read_weight(dataset, config.data.weight))
    found = {}
    for name, one in asked.items():
        source = config.label.path
        if weight is not None and WEIGHT not in one.labels:
            own = following(weight) if name.startswith(NEXT) else weight
            one = one._replace(labels={**one.labels, WEIGHT: own})
            source = f"config.data.weight={config.data.weight!r}"
        if WEIGHT in one.labels:
            check_some(name, one, source)
        found[name] = one
    return found


def read_weight(dataset: Dataset, name: str) -> Float[np.ndarray, " E"]:
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


def check_some(name: str, asked: Asked, source: str) -> None:
    """Refuses a training in which no target weighs anything."""
    weight: Shaped[np.ndarray, " P"] = asked.labels[WEIGHT]
    ranges = Windows(asked.train.start, asked.train.stop - name.startswith(NEXT))
    trained = inside(ranges, len(weight))
    if name in LABELS:
        trained &= np.isfinite(asked.labels[name])
    if not (weight[trained] > 0).any():
        raise ValueError(f"{source}: all that {name} is trained on weighs 0; nothing to learn.")
