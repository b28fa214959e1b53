"""What each task of a run asks of a data set: of which events, and what it may read."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from ml_collections import ConfigDict

from clickflax.batch import CLS, MASK, NEXT_EVENT, PAD, RESERVED, reserved_value
from clickflax.config.default import of_task
from clickflax.data.batches import Windows, shift_left
from clickflax.data.splits.baskets import split_baskets
from clickflax.data.splits.common import Examples, SplitOptions, events_inside
from clickflax.data.splits.labels import LABEL_SOURCES, LabelExamples, LabelOptions, split_labels
from clickflax.data.splits.strategies import split_sequences
from clickflax.data.store import Dataset
from clickflax.data.variables import COUNT_PREFIX, SINCE_PREFIX
from clickflax.data.where import AND, OR, matches
from clickflax.tasks.task import BASKET, MAY_MASK, NEXT, WEIGHT, Task, find_tasks


class TaskData(NamedTuple):
    """What a task asks of a data set, P places with the SEPs of its chains. `columns` are read
    instead of those of the log, those of `hidden` not at all; `labels` are told in training, for
    each place.
    """

    task: Task
    train: Windows
    validation: Examples | LabelExamples
    test: Examples | LabelExamples
    columns: Mapping[str, Shaped[np.ndarray, "P ..."]]
    hidden: frozenset[str]
    labels: Mapping[str, Shaped[np.ndarray, " P"]]
    dropped: dict[str, int]

    def reads(
        self, columns: Mapping[str, Shaped[np.ndarray, "P ..."]]
    ) -> dict[str, Shaped[np.ndarray, "P ..."]]:
        """The columns of a model, as this task may read them."""
        columns = {name: self.columns.get(name, values) for name, values in columns.items()}
        return mask_columns(columns, self.hidden)


def mask_columns(
    columns: Mapping[str, Shaped[np.ndarray, "P ..."]], hidden: frozenset[str]
) -> dict[str, Shaped[np.ndarray, "P ..."]]:
    """The columns, some of them hidden everywhere."""
    return {
        name: np.full_like(values, reserved_value(MASK, values.dtype)) if name in hidden else values
        for name, values in columns.items()
    }


def hidden_after(config: ConfigDict, name: str, task: Task) -> frozenset[str]:
    """The columns `next.NAME` that would tell a task its answer, or what comes after a label."""
    return frozenset(
        NEXT_EVENT + variable
        for variable in config.data.given
        if variable == task.head or not name.startswith(NEXT)
    )


def make_task_data(config: ConfigDict, dataset: Dataset) -> dict[str, TaskData]:
    """What every task of a config asks."""
    check_condition_variables(config, dataset)
    tasks = find_tasks(config.tasks, config.label.causal, config.label.at)
    labels = [name for name in tasks if name in LABEL_SOURCES]
    if config.data.split == "parts" and 0 < len(labels) < len(tasks):
        raise ValueError(
            "data.split='parts': the validation of labels is other sequences than that of items. "
            "Take data.split='sequence_time' for tasks of both kinds."
        )
    found = {}
    for name, task in tasks.items():
        where = of_task(config.task_where, config.tasks, name)
        found[name] = (_label if name in LABEL_SOURCES else _values)(
            config, name, task, dataset, where
        )
    return found


def _options(config: ConfigDict) -> SplitOptions:
    """The knobs of a split."""
    return SplitOptions(**{name: config.data[name] for name in SplitOptions._fields})


def _label(config: ConfigDict, name: str, task: Task, dataset: Dataset, where: str) -> TaskData:
    """What a task with labels asks."""
    wanted = LabelOptions(**{key: config.label[key] for key in LabelOptions._fields})
    labelled = LABEL_SOURCES[name](dataset, wanted)
    if "action" in labelled.columns:
        alike = {config.label.buy, config.label.back}
        check_leaks(config, name, "action", lambda told: not told or len(told & alike) == 1)
    if name == "label":
        check_label_values(labelled.label, config.label.kind, config.label.classes)
    if where:
        label = np.where(matches(dataset, where), labelled.label, np.nan)
        labelled = labelled._replace(label=label)
    if task.ask == CLS:
        check_one_label_each(name, labelled.ranges, labelled.label)
    parts = split_labels(dataset, labelled, config.data.split, _options(config))
    train, validation, test = (
        LabelExamples(dataset.position_ranges(part.ranges), dataset.with_separators(part.label))
        for part in parts[:3]
    )
    columns = {
        column: dataset.with_separators(values) for column, values in labelled.columns.items()
    }
    if config.label.share < 1:
        train = draw_share(train, config.label.share, config.seed)
    label = {name: train.label.astype(np.float32)}
    if labelled.weight is not None:
        label[WEIGHT] = dataset.with_separators(labelled.weight).astype(np.float32)
    hidden = hidden_after(config, name, task)
    return TaskData(task, train.ranges, validation, test, columns, hidden, label, parts.dropped)


def _values(config: ConfigDict, name: str, task: Task, dataset: Dataset, where: str) -> TaskData:
    """What a task asks whose answers are the values of a variable."""
    values = dataset.ids(task.head)
    if dataset.size(task.head) < 2:
        raise ValueError(f"{name}: {task.head!r} has one value; there is nothing to choose from.")
    if task.ask == MASK:
        check_leaks(config, name, task.head, lambda told: True)
    if where:
        values = np.where(matches(dataset, where), values, values.dtype.type(PAD))
    columns = {**dataset.columns, "item": values}
    if name == BASKET:
        parts = split_baskets(config.data.split, dataset, values, _options(config))
    else:
        parts = split_sequences(
            config.data.split, dataset.offsets, columns, dataset.source_split, _options(config)
        )
    (validation, lost), (test, missing) = map(drop_unknown_targets, (parts.validation, parts.test))
    validation, test = (
        # To the history of a basket, the asker adds the SEP itself.
        Examples(
            sequence, dataset.position_ranges(history, separator=name != BASKET), targets, owner
        )
        for sequence, history, targets, owner in (validation, test)
    )
    dropped = {**parts.dropped, "targets without a value, or not asked for": lost + missing}
    train, spread = (
        dataset.position_ranges(parts.train, separator=True),
        dataset.with_separators(values),
    )
    labels = {}
    if name == BASKET:
        labels = {BASKET: spread}
    elif task.causal:
        labels = {NEXT + task.head: shift_left(spread)}
    elif where or dataset.sessions is not None or config.data.cls:
        labels = {MAY_MASK: (spread >= RESERVED).astype(np.int32)}
    hidden = hidden_after(config, name, task)
    return TaskData(task, train, validation, test, {}, hidden, labels, dropped)


def check_condition_variables(config: ConfigDict, dataset: Dataset) -> None:
    """Refuses to tell of the event that is asked for what has several values."""
    columns = dataset.columns
    several = [n for n in config.data.given if n in columns and columns[n].ndim > 1]
    if several:
        raise ValueError(
            f"data.given names {several[0]!r}, which has several values an event: it can be read of"
            " the events before, and not be told of the one that is asked for."
        )


def check_leaks(
    config: ConfigDict, name: str, variable: str, tells: Callable[[set[str]], bool]
) -> None:
    """Refuses variables that tell, at later events, what is hidden of earlier ones: those of values
    of `variable` for which `tells` holds; of none, where these are the event's own.
    """
    for one in config.data.variables:
        kind, dot, condition = one.partition(".")
        if kind + dot not in (COUNT_PREFIX, SINCE_PREFIX):
            continue
        for term in condition.split(AND):
            counted, _, values = term.partition("=")
            if counted == variable and tells(set(filter(None, values.split(OR)))):
                raise ValueError(f"{name}: {one!r} tells what the model is asked for.")


def draw_share(part: LabelExamples, share: float, seed: int) -> LabelExamples:
    """The labels of a share of the ranges of a part; of a smaller share, some of the same."""
    chance = np.random.default_rng(seed).permutation(len(part.ranges.start))
    kept = chance < max(1, round(share * len(chance)))
    ranges = Windows(part.ranges.start[kept], part.ranges.stop[kept])
    return LabelExamples(
        ranges, np.where(events_inside(ranges, len(part.label)), part.label, np.nan)
    )


def check_one_label_each(name: str, ranges: Windows, label: Float[np.ndarray, " E"]) -> None:
    """Refuses several labels of a sequence for the one CLS that it has."""
    known = np.append(0, np.cumsum(np.isfinite(label)))
    many = int((known[ranges.stop] - known[ranges.start] > 1).sum())
    if many:
        raise ValueError(
            f"{name}: {many:,} sequences have more than one label, and config.label.at='cls' asks "
            "once: set config.label.at='event', or config.label.after for a purchase."
        )


def drop_unknown_targets(examples: Examples) -> tuple[Examples, int]:
    """The examples without the targets that are missing, and how many these were."""
    known = examples.targets >= RESERVED
    kept, owner = np.unique(examples.owner[known], return_inverse=True)
    history = Windows(examples.history.start[kept], examples.history.stop[kept])
    left = Examples(examples.sequence[kept], history, examples.targets[known], owner)
    return left, int((~known).sum())


def check_trainable(asked: Mapping[str, TaskData]) -> None:
    """Refuses tasks whose labels have nothing to teach."""
    for name in asked.keys() & LABEL_SOURCES.keys():
        label = asked[name].labels[name]
        told = label[np.isfinite(label)]
        if not len(told):
            raise ValueError(f"{name}: no label is left to train on: {asked[name].dropped}.")
        if told.min() == told.max():
            raise ValueError(f"{name}: all labels to train on are {told[0]:g}; nothing to learn.")


def check_patience(config: ConfigDict, asked: Mapping[str, TaskData]) -> None:
    """Refuses to wait for a better validation where nothing is validated."""
    name = config.train.monitor.rpartition("/")[0] or config.tasks[0]
    if config.train.patience and not len(asked[name].validation):
        raise ValueError(
            f"config.train.patience={config.train.patience} stops by the validation of {name}, "
            f"which has no examples here ({asked[name].dropped}): set it to 0, or give the split "
            "of config.data a validation."
        )


def check_label_values(label: Float[np.ndarray, " E"], kind: str, classes: int) -> None:
    """Refuses labels that are not of the kind that `config.label` says."""
    told = label[np.isfinite(label)]
    allowed = {"binary": 2, "classes": classes}.get(kind, 0)
    wrong = told[~np.isin(told, np.arange(allowed))] if allowed else told[:0]
    if len(wrong):
        raise ValueError(
            f"config.label.kind={kind!r} wants labels from 0 to {allowed - 1}; there are "
            f"{len(wrong):,} others, such as {wrong[0]:g}."
        )


def events_in_training(asked: Mapping[str, TaskData], dataset: Dataset) -> Bool[np.ndarray, " E"]:
    """The events that some task reads in training."""
    found = np.zeros(dataset.length, bool)
    for one in asked.values():
        found |= events_inside(one.train, dataset.length)
    return found if dataset.sessions is None else found[dataset.sessions.position]
