"""Feature tables of label baselines: one row per label, with statistics of the training labels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from clickflax.baselines.features import (
    FOLDS,
    Features,
    assign_folds,
    category_codes,
    item_history_features,
    mean_labels,
    number_features,
    past_of_events,
    time_features,
    value_features,
)
from clickflax.batch import RESERVED
from clickflax.data.derived import SEQUENCE_PREFIX
from clickflax.data.item_features import read_item_features
from clickflax.data.splits.common import events_inside
from clickflax.data.splits.labels import LabelExamples
from clickflax.data.store import Dataset
from clickflax.data.variables import find_column
from clickflax.run.targets import TaskData

MOST_VALUES = 20  # a variable with more has no counts of single values
MOST_CODES = 250  # a variable with more is not a feature itself; scikit-learn's trees have 255 bins
MOST_TRAIN_LABELS = 1_000_000  # of more, as many are drawn at random


class EventColumns(NamedTuple):
    """Columns of the events: ids and the sizes of their vocabularies, numbers, and any times."""

    ids: dict[str, Int[np.ndarray, " E"]]
    sizes: dict[str, int]
    numbers: dict[str, Float[np.ndarray, " E"]]
    time: dict[str, Int[np.ndarray, " E"]]
    tokens: dict[str, list[str]]  # of the variables whose values are counted
    sequence: Int[np.ndarray, " E"]


class TrainingStatistics(NamedTuple):
    """Training events of each id, mean training labels of each id, and the fold of each sequence.

    `rates` are by the name of the mean, such as rate or rate2 (the share of class 2), and by
    variable.
    """

    counts: dict[str, Int[np.ndarray, " I"]]
    rates: dict[str, dict[str, Float[np.ndarray, "folds I"]]]
    fold: Int[np.ndarray, " S"]


class FeatureTable(NamedTuple):
    """The features of N labels by name, the names of those that are codes, and the labels."""

    columns: Features
    codes: tuple[str, ...]
    label: Float[np.ndarray, " N"]

    def matrix(self) -> Float[np.ndarray, "N F"]:
        """Returns the features as columns of a matrix."""
        return np.stack(list(self.columns.values()), axis=1)

    def varying(self) -> tuple[str, ...]:
        """Returns the names of the features that differ between labels."""
        return tuple(
            name
            for name, values in self.columns.items()
            if not np.array_equal(values[1:], values[:-1], equal_nan=True)
        )

    def select(self, names: tuple[str, ...]) -> "FeatureTable":
        """Returns the table with these features only."""
        columns = {name: self.columns[name] for name in names}
        codes = tuple(name for name in self.codes if name in names)
        return FeatureTable(columns, codes, self.label)

    def is_code(self) -> Bool[np.ndarray, " F"]:
        """Returns a mask of the columns of `matrix` that are codes."""
        return np.array([name in self.codes for name in self.columns])


def read_event_columns(
    dataset: Dataset, data: TaskData, variables: tuple[str, ...]
) -> EventColumns:
    """Reads the columns of the log with one value per event, as the task may read them.

    Features of items and sequences are added if `variables` of the config name them.
    """
    single = {name: np.asarray(ids) for name, ids in dataset.columns.items() if ids.ndim == 1}
    columns = data.reads(single)
    sizes = {name: dataset.size(name) for name in dataset.vocabularies if name in single}
    for name in variables:
        if name.startswith(SEQUENCE_PREFIX):
            column = find_column(dataset, name)
            columns[name] = column.values
            sizes[name] = column.size
    for name, feature in read_item_features(dataset.vocabulary("item"), variables, {}).items():
        if feature.values.shape[1] == 1:  # neither multi-valued nor a vector
            columns[name] = feature.values[:, 0][columns["item"]]
            sizes[name] = feature.size
    time = {"time": columns.pop("time")} if "time" in columns else {}
    return EventColumns(
        ids={name: values for name, values in columns.items() if sizes.get(name)},
        sizes={name: size for name, size in sizes.items() if size},
        numbers={name: values for name, values in columns.items() if not sizes.get(name)},
        time=time,
        tokens={
            name: dataset.vocabulary(name).tokens()
            for name in dataset.vocabularies
            if name in single and name != "item" and dataset.size(name) - RESERVED <= MOST_VALUES
        },
        sequence=np.repeat(np.arange(dataset.sequences), np.diff(dataset.offsets)),
    )


def training_statistics(
    columns: EventColumns, train: LabelExamples, kind: str
) -> TrainingStatistics:
    """Counts the training events, and averages the training labels; by class if `kind` has any."""
    events = np.flatnonzero(events_inside(train.ranges, len(train.label)))
    labelled = np.flatnonzero(np.isfinite(train.label))
    label = train.label[labelled]
    fold = assign_folds(int(columns.sequence[-1]) + 1)
    means = {"rate": label}
    if kind == "classes":
        means = {f"rate{c:g}": (label == c).astype(np.float64) for c in np.unique(label)}
    sizes = columns.sizes
    label_fold = fold[columns.sequence[labelled]]
    counts = {
        name: np.bincount(ids[events], minlength=sizes[name]) for name, ids in columns.ids.items()
    }
    rates = {
        mean: {
            name: mean_labels(ids[labelled], values, label_fold, sizes[name])
            for name, ids in columns.ids.items()
        }
        for mean, values in means.items()
    }
    return TrainingStatistics(counts, rates, fold)


def make_feature_table(
    columns: EventColumns, statistics: TrainingStatistics, examples: LabelExamples, trained: bool
) -> FeatureTable:
    """Returns the features of the labels of a split.

    For labels that are `trained` on, MOST_TRAIN_LABELS at most, the mean labels of a value leave
    out the sequences of their own fold.
    """
    labelled = np.isfinite(examples.label)
    if trained and labelled.sum() > MOST_TRAIN_LABELS:
        chance = np.random.default_rng(0)
        drawn = chance.choice(np.flatnonzero(labelled), MOST_TRAIN_LABELS, replace=False)
        labelled = np.isin(np.arange(len(labelled)), drawn)
    past, source = past_of_events(examples.ranges, labelled)
    values = {name: column[source] for name, column in {**columns.ids, **columns.time}.items()}
    features = {
        **value_features(past, values, columns.tokens),
        **item_history_features(past, values, columns.tokens),
        **time_features(past, values, columns.tokens),
        **number_features(past, {name: each[source] for name, each in columns.numbers.items()}),
    }
    fold = statistics.fold[columns.sequence[source]] if trained else np.full(len(source), FOLDS)
    for name in columns.ids:
        ids = values[name]
        if columns.sizes[name] - RESERVED <= MOST_CODES:
            features[name] = category_codes(ids[past.at])
        popularity = statistics.counts[name][ids[past.at]]
        features[f"{name}_popularity"] = popularity.astype(np.float64)
        for mean, tables in statistics.rates.items():
            rate = tables[name][fold, ids]
            features[f"{name}_{mean}"] = rate[past.at]
            if name == "item":
                features[f"{name}_{mean}_mean"] = past.mean(rate)
                features[f"{name}_{mean}_max"] = past.highest(rate)
    codes = {"hour", "weekday", *columns.ids, *(f"{name}_before" for name in columns.tokens)}
    return FeatureTable(
        {name: column.astype(np.float32) for name, column in features.items()},
        tuple(name for name in features if name in codes),
        examples.label[source[past.at]],
    )
