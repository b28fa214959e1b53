"""What each task of a run asks of a data set: of which events, and what it may read."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from ml_collections import ConfigDict

from clickflax.data.batches import Windows, following
from clickflax.data.condition import chosen
from clickflax.data.labels import LABELS, LabelOptions, LabelPart, split_labels
from clickflax.data.split import Examples, SplitOptions, inside, split, split_baskets
from clickflax.data.store import Dataset
from clickflax.data.variables import COUNT
from clickflax.events import AFTER, CLS, MASK, PAD, RESERVED, value_of
from clickflax.tasks.tasks import ASKED, BASKET, NEXT, Task, find_tasks


class Asked(NamedTuple):
    """What a task asks of a data set, P places with the SEPs of its chains. `columns` are read
    instead of those of the log, those of `hidden` not at all; `labels` are told in training, for
    each place.
    """

    task: Task
    train: Windows
    validation: Examples | LabelPart
    test: Examples | LabelPart
    columns: Mapping[str, Shaped[np.ndarray, "P ..."]]
    hidden: frozenset[str]
    labels: Mapping[str, Shaped[np.ndarray, " P"]]
    dropped: dict[str, int]

    def reads(
        self, columns: Mapping[str, Shaped[np.ndarray, "P ..."]]
    ) -> dict[str, Shaped[np.ndarray, "P ..."]]:
        """The columns of a model, as this task may read them."""
        return {
            name: np.full_like(values, value_of(MASK, values.dtype))
            if name in self.hidden
            else self.columns.get(name, values)
            for name, values in columns.items()
        }


def ask_about(config: ConfigDict, dataset: Dataset) -> dict[str, Asked]:
    """What every task of a config asks."""
    check_told(config, dataset)
    tasks = find_tasks(config.tasks, config.label.causal, config.label.at)
    labels = [name for name in tasks if name in LABELS]
    if config.data.split == "parts" and 0 < len(labels) < len(tasks):
        raise ValueError(
            "data.split='parts': the validation of labels is other sequences than that of items. "
            "Take data.split='sequence_time' for tasks of both kinds."
        )
    where = dict(zip(tasks, config.task_where * len(tasks), strict=False))
    return {
        name: (_label if name in LABELS else _values)(config, name, task, dataset, where[name])
        for name, task in tasks.items()
    }


def _options(config: ConfigDict) -> SplitOptions:
    """The knobs of a split."""
    data = config.data
    return SplitOptions(data.validation_users, data.validation_from, data.test_from)


def _label(config: ConfigDict, name: str, task: Task, dataset: Dataset, where: str) -> Asked:
    """What a task with labels asks."""
    wanted = LabelOptions(**{key: config.label[key] for key in LabelOptions._fields})
    labelled = LABELS[name](dataset, wanted)
    check_counts(config, name, tuple(labelled.columns))
    if name == "label":
        check_labels(labelled.label, config.label.kind, config.label.classes)
    if where:
        label = np.where(chosen(dataset, where), labelled.label, np.nan)
        labelled = labelled._replace(label=label)
    if task.ask == CLS:
        check_once(name, labelled.ranges, labelled.label)
    parts = split_labels(dataset, labelled, config.data.split, _options(config))
    train, validation, test = (
        LabelPart(dataset.ranges(part.ranges), dataset.spread(part.label)) for part in parts[:3]
    )
    columns = {column: dataset.spread(values) for column, values in labelled.columns.items()}
    label = {name: train.label.astype(np.float32)}
    # What comes after a label would tell it.
    hidden = frozenset(AFTER + variable for variable in config.data.given)
    return Asked(task, train.ranges, validation, test, columns, hidden, label, parts.dropped)


def _values(config: ConfigDict, name: str, task: Task, dataset: Dataset, where: str) -> Asked:
    """What a task asks whose answers are the values of a variable."""
    values = dataset.ids(task.head)
    if dataset.size(task.head) < 2:
        raise ValueError(f"{name}: {task.head!r} has one value; there is nothing to choose from.")
    if task.ask == MASK:
        check_counts(config, name, (task.head,))
    if where:
        values = np.where(chosen(dataset, where), values, values.dtype.type(PAD))
    columns = {**dataset.columns, "item": values}
    if name == BASKET:
        parts = split_baskets(config.data.split, dataset, values, _options(config))
    else:
        parts = split(config.data.split, dataset.offsets, columns, dataset.part, _options(config))
    (validation, lost), (test, missing) = map(known_targets, (parts.validation, parts.test))
    validation, test = (
        # To the history of a basket, the asker adds the SEP itself.
        Examples(sequence, dataset.ranges(history, opened=name != BASKET), targets, owner)
        for sequence, history, targets, owner in (validation, test)
    )
    dropped = {**parts.dropped, "targets without a value, or not asked for": lost + missing}
    train, spread = dataset.ranges(parts.train, opened=True), dataset.spread(values)
    labels = {}
    if name == BASKET:
        labels = {BASKET: spread}
    elif task.causal:
        labels = {NEXT + task.head: following(spread)}
    elif where or dataset.chain is not None or config.data.cls:
        labels = {ASKED: (spread >= RESERVED).astype(np.int32)}
    hidden = frozenset(
        AFTER + variable
        for variable in config.data.given
        if variable == task.head or not name.startswith(NEXT)
    )
    return Asked(task, train, validation, test, {}, hidden, labels, dropped)


def check_told(config: ConfigDict, dataset: Dataset) -> None:
    """Refuses to tell of the event that is asked for what has several values."""
    several = [name for name in config.data.given if dataset.columns[name].ndim > 1]
    if several:
        raise ValueError(
            f"data.given names {several[0]!r}, which has several values an event: it can be read of"
            " the events before, and not be told of the one that is asked for."
        )


def check_counts(config: ConfigDict, name: str, hidden: tuple[str, ...]) -> None:
    """Refuses to count, for later events to read, what is hidden of earlier ones."""
    for variable in hidden:
        counts = [one for one in config.data.variables if one.startswith(f"{COUNT}{variable}=")]
        if counts:
            raise ValueError(f"{name}: {counts[0]!r} counts what the model is asked for.")


def check_once(name: str, ranges: Windows, label: Float[np.ndarray, " E"]) -> None:
    """Refuses several labels of a sequence for the one CLS that it has."""
    known = np.append(0, np.cumsum(np.isfinite(label)))
    many = int((known[ranges.stop] - known[ranges.start] > 1).sum())
    if many:
        raise ValueError(
            f"{name}: {many:,} sequences have more than one label, and config.label.at='cls' asks "
            "once: set config.label.at='event', or config.label.after for a purchase."
        )


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


def trained_events(asked: Mapping[str, Asked], dataset: Dataset) -> Bool[np.ndarray, " E"]:
    """The events that some task reads in training."""
    found = np.zeros(dataset.places, bool)
    for one in asked.values():
        found |= inside(one.train, dataset.places)
    return found if dataset.chain is None else found[dataset.chain.place]
