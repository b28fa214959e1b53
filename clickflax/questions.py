"""What each task of a run asks of a data set: of which events, and what it may read."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from ml_collections import ConfigDict

from clickflax.data.batches import Windows, following
from clickflax.data.labels import LABELS, LabelOptions, LabelPart, split_labels
from clickflax.data.split import Examples, SplitOptions, inside, split
from clickflax.data.store import Dataset
from clickflax.tasks.tasks import NEXT, Task, find_tasks


class Asked(NamedTuple):
    """What a task asks of a data set. `columns` are read instead of those of the log; `labels` are
    told in training, for each event.
    """

    task: Task
    train: Windows
    validation: Examples | LabelPart
    test: Examples | LabelPart
    columns: Mapping[str, Shaped[np.ndarray, " E"]]
    labels: Mapping[str, Shaped[np.ndarray, " E"]]
    dropped: dict[str, int]


def ask_about(config: ConfigDict, dataset: Dataset) -> dict[str, Asked]:
    """What every task of a config asks."""
    tasks = find_tasks(config.tasks, config.label.causal)
    return {name: _asked(config, name, task, dataset) for name, task in tasks.items()}


def _asked(config: ConfigDict, name: str, task: Task, dataset: Dataset) -> Asked:
    """What one task asks."""
    data = config.data
    options = SplitOptions(data.validation_users, data.validation_from, data.test_from)
    if name in LABELS:
        wanted = LabelOptions(**{key: config.label[key] for key in LabelOptions._fields})
        labelled = LABELS[name](dataset, wanted)
        parts = split_labels(dataset, labelled, data.split, options)
        train, validation, test, dropped = parts
        if not len(train):
            raise ValueError(f"{name}: no label is left to train on in {dataset.path}: {dropped}.")
        label = {name: train.label.astype(np.float32)}
        return Asked(task, train.ranges, validation, test, labelled.columns, label, dropped)
    vocabulary = dataset.vocabulary(task.head)
    if vocabulary.size < 2:
        raise ValueError(f"{name}: {task.head!r} has one value; there is nothing to choose from.")
    values = dataset.columns[task.head]
    parts = split(
        data.split,
        dataset.offsets,
        {**dataset.columns, "item": values},
        dataset.part,
        options,
    )
    labels = {NEXT + task.head: following(values)} if task.causal else {}
    return Asked(task, parts.train, parts.validation, parts.test, {}, labels, parts.dropped)


def trained_events(asked: Mapping[str, Asked], events: int) -> Bool[np.ndarray, " E"]:
    """The events that some task reads in training."""
    found = np.zeros(events, bool)
    for one in asked.values():
        found |= inside(one.train, events)
    return found
