"""Targets of a run: what each task predicts in each split, and what it may read."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from ml_collections import ConfigDict

from clickflax.batch import CLS, MASK, NEXT_EVENT, PAD, RESERVED, reserved_value
from clickflax.config.default import of_task
from clickflax.config.resolve import tasks_of
from clickflax.data.batches import Windows, shift_left
from clickflax.data.derived import COUNT_PREFIX, SINCE_PREFIX
from clickflax.data.splits.baskets import split_baskets
from clickflax.data.splits.common import EventLog, Examples, SplitOptions, events_inside
from clickflax.data.splits.labels import LabelExamples, LabelOptions, split_labels
from clickflax.data.splits.strategies import split_sequences
from clickflax.data.store import Dataset
from clickflax.data.where import AND, OR, matches
from clickflax.tasks.task import MAY_MASK, WEIGHT, Task


class TaskData(NamedTuple):
    """Targets of a task in a data set with P positions, the SEPs between sessions included.

    The task reads `columns` instead of those of the log, and MASK in those of `hidden`. `labels`
    has the targets and sample weights of training, one for each position.
    """

    task: Task
    train: Windows
    validation: Examples | LabelExamples
    test: Examples | LabelExamples
    columns: Mapping[str, Shaped[np.ndarray, "P ..."]]
    hidden: frozenset[str]
    labels: Mapping[str, Shaped[np.ndarray, " P"]]
    dropped: dict[str, int]

    def examples(self, split: str) -> Examples | LabelExamples:
        """The examples of the "validation" or of the "test"."""
        return {"validation": self.validation, "test": self.test}[split]

    def ranking_examples(self, split: str) -> Examples:
        """The examples of a split; raises TypeError if the task predicts labels."""
        examples = self.examples(split)
        if not isinstance(examples, Examples):
            raise TypeError(f"{self.task.name} predicts labels: use label_examples.")
        return examples

    def label_examples(self, split: str) -> LabelExamples:
        """The examples of a split; raises TypeError if the task ranks."""
        examples = self.examples(split)
        if not isinstance(examples, LabelExamples):
            raise TypeError(f"{self.task.name} ranks: use ranking_examples.")
        return examples

    def some_examples(self, split: str, path: object) -> Examples | LabelExamples:
        """The examples of a split of the data set at `path`; raises ValueError if it has none."""
        examples = self.examples(split)
        if not len(examples):
            raise ValueError(
                f"{self.task.name}: the {split} of {path} has no examples: {self.dropped}."
            )
        return examples

    def reads(
        self, columns: Mapping[str, Shaped[np.ndarray, "P ..."]]
    ) -> dict[str, Shaped[np.ndarray, "P ..."]]:
        """The columns of a model as this task may read them."""
        columns = {name: self.columns.get(name, values) for name, values in columns.items()}
        return mask_columns(columns, self.hidden)


def mask_columns(
    columns: Mapping[str, Shaped[np.ndarray, "P ..."]], hidden: frozenset[str]
) -> dict[str, Shaped[np.ndarray, "P ..."]]:
    """The columns, with MASK everywhere in those of `hidden`."""
    return {
        name: np.full_like(values, reserved_value(MASK, values.dtype)) if name in hidden else values
        for name, values in columns.items()
    }


def hidden_conditions(config: ConfigDict, task: Task) -> frozenset[str]:
    """The columns `next.NAME` that a task may not read: its target, or what follows a label."""
    return frozenset(
        NEXT_EVENT + variable
        for variable in config.data.given
        if variable == task.head or not task.follows
    )


def make_task_data(config: ConfigDict, dataset: Dataset) -> dict[str, TaskData]:
    """The targets of every task of a config."""
    check_condition_variables(config, dataset)
    tasks = tasks_of(config)
    if config.data.split == "parts" and len({task.ranks for task in tasks.values()}) > 1:
        raise ValueError(
            "config.data.split='parts' validates labels on other sequences than items. Take "
            "config.data.split='sequence_time' for tasks of both kinds."
        )
    return {
        name: (_rankings if task.ranks else _labels)(
            config, task, dataset, of_task(config.task_where, config.tasks, name)
        )
        for name, task in tasks.items()
    }


def _options(config: ConfigDict) -> SplitOptions:
    """The knobs of a split."""
    return SplitOptions(**{name: config.data[name] for name in SplitOptions._fields})


def _labels(config: ConfigDict, task: Task, dataset: Dataset, where: str) -> TaskData:
    """Targets of a task with labels, only of events that match `where`."""
    assert task.labels is not None
    name = task.name
    options = LabelOptions(**{key: config.label[key] for key in LabelOptions._fields})
    labelled = task.labels(dataset, options)
    if "action" in labelled.columns:
        alike = {config.label.buy, config.label.back}
        check_leaks(config, name, "action", lambda one: not one or len(one & alike) == 1)
    check_label_values(name, labelled.label, task.kind.name, config.label.classes)
    if where:
        label = np.where(matches(dataset, where), labelled.label, np.nan)
        labelled = labelled._replace(label=label)
    if task.query == CLS:
        check_one_label_each(name, labelled.ranges, labelled.label)
    splits = split_labels(dataset, labelled, config.data.split, _options(config))
    train, validation, test = (
        LabelExamples(dataset.position_ranges(one.ranges), dataset.with_separators(one.label))
        for one in splits[:3]
    )
    columns = {
        column: dataset.with_separators(values) for column, values in labelled.columns.items()
    }
    if config.label.share < 1:
        train = draw_share(train, config.label.share, config.seed)
    labels = {name: train.label.astype(np.float32)}
    if labelled.weight is not None:
        labels[WEIGHT] = dataset.with_separators(labelled.weight).astype(np.float32)
    hidden = hidden_conditions(config, task)
    return TaskData(task, train.ranges, validation, test, columns, hidden, labels, splits.dropped)


def _rankings(config: ConfigDict, task: Task, dataset: Dataset, where: str) -> TaskData:
    """Targets of a task that ranks the values of a variable, only of events that match `where`."""
    values = dataset.ids(task.head)
    if dataset.size(task.head) < 2:
        raise ValueError(f"{task.name}: {task.head!r} has one value; there is nothing to rank.")
    if task.masks:
        check_leaks(config, task.name, task.head, lambda counted: True)
    if where:
        values = np.where(matches(dataset, where), values, values.dtype.type(PAD))
    log = EventLog(
        offsets=dataset.offsets,
        item=values,
        time=dataset.columns.get("time"),
        source_split=dataset.source_split,
        session_bounds=dataset.session_bounds,
    )
    split = split_baskets if task.baskets else split_sequences
    splits = split(config.data.split, log, _options(config))
    validation, lost_in_validation = drop_unknown_targets(splits.validation)
    test, lost_in_test = drop_unknown_targets(splits.test)
    validation, test = (
        # The query of a basket is the SEP after its history, which must not be there twice.
        Examples(
            sequence, dataset.position_ranges(history, separator=not task.baskets), targets, owner
        )
        for sequence, history, targets, owner in (validation, test)
    )
    lost = {"targets without a value, or not selected": lost_in_validation + lost_in_test}
    spread = dataset.with_separators(values)
    labels = {}
    if task.baskets:
        labels = {task.name: spread}
    elif task.follows:
        labels = {task.name: shift_left(spread)}
    elif where or dataset.sessions is not None or config.data.cls:
        labels = {MAY_MASK: (spread >= RESERVED).astype(np.int32)}
    return TaskData(
        task=task,
        train=dataset.position_ranges(splits.train, separator=True),
        validation=validation,
        test=test,
        columns={},
        hidden=hidden_conditions(config, task),
        labels=labels,
        dropped={**splits.dropped, **lost},
    )


def check_condition_variables(config: ConfigDict, dataset: Dataset) -> None:
    """Raises ValueError if `data.given` names a multi-valued variable."""
    columns = dataset.columns
    several = [name for name in config.data.given if name in columns and columns[name].ndim > 1]
    if several:
        raise ValueError(
            f"config.data.given names {several[0]!r}, which has several values per event. Such a "
            "variable can be read of earlier events (config.data.variables), but not given."
        )


def check_leaks(
    config: ConfigDict, task: str, variable: str, reveals: Callable[[set[str]], bool]
) -> None:
    """Raises ValueError for variables that reveal, at later events, what a task hides of earlier
    ones: counts and times since of those values of `variable` for which `reveals` holds.

    `reveals` gets the set of counted values; it is empty where the event's own value is counted.
    """
    for name in config.data.variables:
        kind, dot, condition = name.partition(".")
        if kind + dot not in (COUNT_PREFIX, SINCE_PREFIX):
            continue
        for term in condition.split(AND):
            counted, _, values = term.partition("=")
            if counted == variable and reveals(set(filter(None, values.split(OR)))):
                raise ValueError(
                    f"config.data.variables: {name!r} reveals the targets of {task}: leave it out."
                )


def draw_share(examples: LabelExamples, share: float, seed: int) -> LabelExamples:
    """The labels of a random share of the ranges; a smaller share is a subset of a larger one."""
    order = np.random.default_rng(seed).permutation(len(examples.ranges.start))
    kept = order < max(1, round(share * len(order)))
    ranges = Windows(examples.ranges.start[kept], examples.ranges.stop[kept])
    inside = events_inside(ranges, len(examples.label))
    return LabelExamples(ranges, np.where(inside, examples.label, np.nan))


def check_one_label_each(task: str, ranges: Windows, label: Float[np.ndarray, " E"]) -> None:
    """Raises ValueError for several labels of a sequence, which has one CLS."""
    known = np.append(0, np.cumsum(np.isfinite(label)))
    many = int((known[ranges.stop] - known[ranges.start] > 1).sum())
    if many:
        raise ValueError(
            f"{task}: {many:,} sequences have more than one label, and config.label.at='cls' "
            "predicts once per sequence: set config.label.at='event', or config.label.after for a "
            "purchase."
        )


def drop_unknown_targets(examples: Examples) -> tuple[Examples, int]:
    """The examples without missing targets, and how many these were."""
    known = examples.targets >= RESERVED
    kept, owner = np.unique(examples.owner[known], return_inverse=True)
    history = Windows(examples.history.start[kept], examples.history.stop[kept])
    left = Examples(examples.sequence[kept], history, examples.targets[known], owner)
    return left, int((~known).sum())


def check_trainable(tasks: Mapping[str, TaskData]) -> None:
    """Raises ValueError for labels of which a training could learn nothing."""
    for name, data in tasks.items():
        if data.task.ranks:
            continue
        labels = data.labels[name]
        labels = labels[np.isfinite(labels)]
        if not len(labels):
            raise ValueError(f"{name}: no label is left to train on: {data.dropped}.")
        if labels.min() == labels.max():
            raise ValueError(f"{name}: all labels to train on are {labels[0]:g}.")


def check_patience(config: ConfigDict, tasks: Mapping[str, TaskData]) -> None:
    """Raises ValueError for early stopping without a validation."""
    name = config.train.monitor.rpartition("/")[0] or config.tasks[0]
    if config.train.patience and not len(tasks[name].validation):
        raise ValueError(
            f"config.train.patience={config.train.patience} stops by the validation of {name}, "
            f"which has no examples ({tasks[name].dropped}): set it to 0, or give the split of "
            "config.data a validation."
        )


def check_label_values(task: str, label: Float[np.ndarray, " E"], kind: str, classes: int) -> None:
    """Raises ValueError for labels that are not of their kind: 0 or 1, or classes from 0 on."""
    labels = label[np.isfinite(label)]
    allowed = {"binary": 2, "classes": classes}.get(kind, 0)
    wrong = labels[~np.isin(labels, np.arange(allowed))] if allowed else labels[:0]
    if len(wrong):
        raise ValueError(
            f"{task}: labels of the kind {kind!r} must be whole numbers from 0 to {allowed - 1}; "
            f"{len(wrong):,} are not, such as {wrong[0]:g}. See config.label.kind."
        )


def events_in_training(tasks: Mapping[str, TaskData], dataset: Dataset) -> Bool[np.ndarray, " E"]:
    """The events that any task reads in training."""
    trained = np.zeros(dataset.length, bool)
    for data in tasks.values():
        trained |= events_inside(data.train, dataset.length)
    return trained if dataset.sessions is None else trained[dataset.sessions.position]
