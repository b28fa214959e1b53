"""The features of every label of a part, side by side, and what they know of the training."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from clickflax.baselines.features import (
    FOLDS,
    Features,
    code,
    folds_of,
    look_back,
    of_items,
    of_numbers,
    of_times,
    of_values,
    rates,
)
from clickflax.batch import RESERVED
from clickflax.data.item_features import read_item_features
from clickflax.data.splits.common import events_inside
from clickflax.data.splits.labels import LabelExamples
from clickflax.data.store import Dataset
from clickflax.data.variables import SEQUENCE_PREFIX, find_column
from clickflax.run.targets import TaskData

VALUES = 20  # of a variable, at most, that are counted one by one
CODES = 250  # that trees take as they are; scikit-learn's have 255 bins
LABELS = 1_000_000  # to train on, at most; of more, as many at random


class Log(NamedTuple):
    """What may be read of the events: ids and how many there are, numbers, and times if any."""

    ids: dict[str, Int[np.ndarray, " E"]]
    sizes: dict[str, int]
    numbers: dict[str, Float[np.ndarray, " E"]]
    time: dict[str, Int[np.ndarray, " E"]]
    tokens: dict[str, list[str]]  # of the variables whose values are counted
    sequence: Int[np.ndarray, " E"]


class Known(NamedTuple):
    """What was learned of the ids: how often they were trained on, and their mean labels."""

    counts: dict[str, Int[np.ndarray, " I"]]
    rates: dict[str, dict[str, Float[np.ndarray, "folds I"]]]  # by the kind of mean, by variable
    fold: Int[np.ndarray, " S"]


class Table(NamedTuple):
    """The features of N labels by name, those that are codes and no quantities, and the labels."""

    columns: Features
    codes: tuple[str, ...]
    label: Float[np.ndarray, " N"]

    def matrix(self) -> Float[np.ndarray, "N F"]:
        """The features side by side."""
        return np.stack(list(self.columns.values()), axis=1)

    def telling(self) -> tuple[str, ...]:
        """The names of the features that are not the same at every label."""
        return tuple(
            name
            for name, values in self.columns.items()
            if not np.array_equal(values[1:], values[:-1], equal_nan=True)
        )

    def only(self, names: tuple[str, ...]) -> "Table":
        """The same with these features alone."""
        columns = {name: self.columns[name] for name in names}
        return Table(columns, tuple(name for name in self.codes if name in names), self.label)

    def is_code(self) -> Bool[np.ndarray, " F"]:
        """Which of the columns of the matrix are codes."""
        return np.array([name in self.codes for name in self.columns])


def read_log(dataset: Dataset, asked: TaskData, variables: tuple[str, ...]) -> Log:
    """Every column of the log that has one value an event, as the task may read it, and the
    features of items and sequences that are among the `variables` of the config.
    """
    one = {name: np.asarray(ids) for name, ids in dataset.columns.items() if ids.ndim == 1}
    columns = asked.reads(one)
    sizes = {name: dataset.size(name) for name in dataset.vocabularies if name in one}
    for name in variables:
        if name.startswith(SEQUENCE_PREFIX):
            found = find_column(dataset, name, None)
            columns[name], sizes[name] = found.values, found.size
    for name, feature in read_item_features(dataset.vocabulary("item"), variables, {}).items():
        if feature.values.shape[1] == 1:  # neither several values nor a vector
            columns[name] = feature.values[:, 0][columns["item"]]
            sizes[name] = feature.size
    time = {"time": columns.pop("time")} if "time" in columns else {}
    return Log(
        ids={name: values for name, values in columns.items() if sizes.get(name)},
        sizes={name: size for name, size in sizes.items() if size},
        numbers={name: values for name, values in columns.items() if not sizes.get(name)},
        time=time,
        tokens={
            name: dataset.vocabulary(name).tokens()
            for name in dataset.vocabularies
            if name in one and name != "item" and dataset.size(name) - RESERVED <= VALUES
        },
        sequence=np.repeat(np.arange(dataset.sequences), np.diff(dataset.offsets)),
    )


def learn(log: Log, train: LabelExamples, kind: str) -> Known:
    """Counts of the events of training, and means of its labels: of each class, if there are."""
    events = np.flatnonzero(events_inside(train.ranges, len(train.label)))
    labelled = np.flatnonzero(np.isfinite(train.label))
    label = train.label[labelled]
    fold = folds_of(int(log.sequence[-1]) + 1)
    means = {"rate": label}
    if kind == "classes":
        means = {f"rate{c:g}": (label == c).astype(np.float64) for c in np.unique(label)}
    sizes = log.sizes
    return Known(
        {name: np.bincount(ids[events], minlength=sizes[name]) for name, ids in log.ids.items()},
        {
            mean: {
                name: rates(ids[labelled], values, fold[log.sequence[labelled]], sizes[name])
                for name, ids in log.ids.items()
            }
            for mean, values in means.items()
        },
        fold,
    )


def make_table(log: Log, known: Known, part: LabelExamples, trained: bool) -> Table:
    """The features of the labels of a part. Those that are `trained` on, LABELS at most, know the
    mean labels of the sequences of other folds alone.
    """
    asked = np.isfinite(part.label)
    if trained and asked.sum() > LABELS:
        some = np.random.default_rng(0).choice(np.flatnonzero(asked), LABELS, replace=False)
        asked = np.isin(np.arange(len(asked)), some)
    past, source = look_back(part.ranges, asked)
    columns = {name: values[source] for name, values in {**log.ids, **log.time}.items()}
    found = {
        **of_values(past, columns, log.tokens),
        **of_items(past, columns, log.tokens),
        **of_times(past, columns, log.tokens),
        **of_numbers(past, {name: values[source] for name, values in log.numbers.items()}),
    }
    fold = known.fold[log.sequence[source]] if trained else np.full(len(source), FOLDS)
    for name in log.ids:
        ids = columns[name]
        if log.sizes[name] - RESERVED <= CODES:
            found[name] = code(ids[past.at])
        found[f"{name}_popularity"] = known.counts[name][ids[past.at]].astype(np.float64)
        for mean, tables in known.rates.items():
            rate = tables[name][fold, ids]
            found[f"{name}_{mean}"] = rate[past.at]
            if name == "item":
                found[f"{name}_{mean}_mean"] = past.mean(rate)
                found[f"{name}_{mean}_max"] = past.highest(rate)
    codes = {"hour", "weekday", *log.ids, *(f"{name}_before" for name in log.tokens)}
    return Table(
        {name: values.astype(np.float32) for name, values in found.items()},
        tuple(name for name in found if name in codes),
        part.label[source[past.at]],
    )
