"""What each task of a run asks of a data set: of which events, and what it may read."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from ml_collections import ConfigDict

from clickflax.data.batches import Windows, following
from clickflax.data.labels import LABELS, LabelOptions, LabelPart, split_labels
from clickflax.data.split import Examples, SplitOptions, inside, split
from clickflax.data.store import Dataset
from clickflax.events import RESERVED
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

    def reads(
        self, columns: Mapping[str, Shaped[np.ndarray, " E"]]
    ) -> dict[str, Shaped[np.ndarray, " E"]]:
        """The columns of a model, as this task may read them."""
        return {name: self.columns.get(name, values) for name, values in columns.items()}


def ask_about(config: ConfigDict, dataset: Dataset) -> dict[str, Asked]:
    """What every task of a config asks."""
    tasks = find_tasks(config.tasks, config.label.causal)
    labels = [name for name in tasks if name in LABELS]
    if config.data.split == "parts" and 0 < len(labels) < len(tasks):
        raise ValueError(
            "data.split='parts': the validation of labels is other sequences than that of items. "
            "Take data.split='sequence_time' for tasks of both kinds."
        )
    return {name: _asked(config, name, task, dataset) for name, task in tasks.items()}


def _asked(config: ConfigDict, name: str, task: Task, dataset: Dataset) -> Asked:
    """What one task asks."""
    data = config.data
    options = SplitOptions(data.validation_users, data.validation_from, data.test_from)
    if name in LABELS:
        wanted = LabelOptions(**{key: config.label[key] for key in LabelOptions._fields})
        labelled = LABELS[name](dataset, wanted)
        if name == "label":
            check_labels(labelled.label, config.label.kind, config.label.classes)
        parts = split_labels(dataset, labelled, data.split, options)
        train, validation, test, dropped = parts
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
    validation, lost = known_targets(parts.validation)
    test, missing = known_targets(parts.test)
    dropped = {**parts.dropped, "targets without a value": lost + missing}
    return Asked(task, parts.train, validation, test, {}, labels, dropped)


def known_targets(examples: Examples) -> tuple[Examples, int]:
    """The examples without the targets that are missing, and how many these were."""
    known = examples.targets >= RESERVED
    kept, owner = np.unique(examples.owner[known], return_inverse=True)
    history = Windows(examples.history.start[kept], examples.history.stop[kept])
    left = Examples(examples.sequence[kept], history, examples.targets[known], owner)
    return left, int((~known).sum())


def check_trainable(asked: Mapping[str, Asked]) -> None:
    """Refuses tasks whose labels have nothing to teach."""
    for name in asked.keys() & LABELS.keys():
        label = asked[name].labels[name]
        told = label[np.isfinite(label)]
        if not len(told):
            raise ValueError(f"{name}: no label is left to train on: {asked[name].dropped}.")
        if told.min() == told.max():
            raise ValueError(f"{name}: all labels to train on are {told[0]:g}; nothing to learn.")


def check_labels(label: Float[np.ndarray, " E"], kind: str, classes: int) -> None:
    """Refuses labels that are not of the kind that `config.label` says."""
    told = label[np.isfinite(label)]
    allowed = {"binary": 2, "classes": classes}.get(kind, 0)
    wrong = told[~np.isin(told, np.arange(allowed))] if allowed else told[:0]
    if len(wrong):
        raise ValueError(
            f"config.label.kind={kind!r} wants labels from 0 to {allowed - 1}; there are "
            f"{len(wrong):,} others, such as {wrong[0]:g}."
        )


def trained_events(asked: Mapping[str, Asked], events: int) -> Bool[np.ndarray, " E"]:
    """The events that some task reads in training."""
    found = np.zeros(events, bool)
    for one in asked.values():
        found |= inside(one.train, events)
    return found
