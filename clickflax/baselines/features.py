"""Hand-made features of an event, from the events of its range up to it.

    events, distinct_items                  counts so far, the event itself included
    NAME=TOKEN, _share, _since              count of a value, its share, seconds since it last came
    NAME_before                             value of the previous event
    item_events, item_NAME=TOKEN            counts over the events of the same item
    seconds, gap, hour, weekday             since the first event; since the previous one; in UTC
    visits, visit_...                       visits so far; counts since the last pause of 30 minutes
    NAME, NAME_mean, NAME_max, NAME_first   a number: at the event, and statistics so far
    NAME_popularity                         training events with the event's value of a variable
    NAME_rate, item_rate_mean, ..._max      mean training label of a value: now, and of items so far

NAME is a categorical variable, except in the line on numbers; single values are counted if there
are few. If labels are classes, each class has a rate: item_rate2 is the share of class 2.
"""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.durations import DAY, HOUR, SECOND
from clickflax.data.packing import ramp

PAUSE = 30 * 60 * SECOND
FOLDS = 5
PRIOR = 20.0  # labels with the overall mean that are added to each value

Features = dict[str, Float[np.ndarray, " N"]]


@dataclasses.dataclass(frozen=True, eq=False)
class PastEvents:
    """The events of some ranges, one range after the other, and N events whose past is wanted."""

    owner: Int[np.ndarray, " E"]  # the range of each event
    begin: Int[np.ndarray, " E"]  # the first event of its range
    at: Int[np.ndarray, " N"]

    def total(
        self, values: Shaped[np.ndarray, " E"], begin: Int[np.ndarray, " E"] | None = None
    ) -> Float[np.ndarray, " N"]:
        """Sums from the first event of the range, or from `begin`, to the event."""
        begin = self.begin if begin is None else begin
        up_to = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return up_to[self.at + 1] - up_to[begin[self.at]]

    def last(self, where: Bool[np.ndarray, " E"]) -> Int[np.ndarray, " E"]:
        """Returns the last event so far `where` holds, in any range, or -1."""
        return np.maximum.accumulate(np.where(where, np.arange(len(where)), -1))

    def highest(self, values: Float[np.ndarray, " E"]) -> Float[np.ndarray, " N"]:
        """Returns the highest value so far, NaN if all are missing."""
        known, order = np.unique(values[np.isfinite(values)], return_inverse=True)
        level = np.zeros(len(values), np.int64)
        level[np.isfinite(values)] = order + 1
        # The keys of a later range are higher, so that a maximum never comes from another range.
        key = np.maximum.accumulate(self.owner * (len(known) + 1) + level)[self.at]
        return np.append(np.nan, known)[key % (len(known) + 1)]

    def mean(self, values: Float[np.ndarray, " E"]) -> Float[np.ndarray, " N"]:
        """Returns the mean so far of the values that are not missing, NaN if all are."""
        known = np.isfinite(values)
        count = self.total(known)
        total = self.total(np.where(known, values, 0.0))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def past_of_events(
    ranges: Windows, wanted: Bool[np.ndarray, " E"]
) -> tuple[PastEvents, Int[np.ndarray, " M"]]:
    """Returns the past of the wanted events, and the indices of its events in the log."""
    count = ranges.stop - ranges.start
    owner = np.repeat(np.arange(len(count)), count)
    source = np.repeat(ranges.start, count) + ramp(count)
    begin = np.repeat(np.cumsum(count) - count, count)
    return PastEvents(owner, begin, np.flatnonzero(wanted[source])), source


def value_features(
    past: PastEvents, columns: Mapping[str, np.ndarray], names: Mapping[str, list[str]]
) -> Features:
    """Returns counts, shares and recency of the values of each variable, and the previous value."""
    at = past.at
    begin = past.begin[at]
    events = (at - begin + 1).astype(np.float64)
    features = {"events": events}
    for name, tokens in names.items():
        ids = columns[name]
        features[f"{name}_before"] = np.where(at > begin, category_codes(ids[at - 1]), np.nan)
        for id, token in enumerate(tokens, start=RESERVED):
            count = past.total(ids == id)
            features[f"{name}={token}"] = count
            features[f"{name}={token}_share"] = count / events
            if "time" in columns:
                since = columns["time"][at] - columns["time"][past.last(ids == id)[at]]
                features[f"{name}={token}_since"] = np.where(count > 0, since / SECOND, np.nan)
    return features


def item_history_features(
    past: PastEvents, columns: Mapping[str, np.ndarray], names: Mapping[str, list[str]]
) -> Features:
    """Returns the number of distinct items, and counts over the events of the event's item."""
    item = columns["item"]
    order = np.lexsort((item, past.owner))  # stable: events of an item keep their order
    new = np.ones(len(item), bool)
    new[1:] = (np.diff(item[order]) != 0) | (np.diff(past.owner[order]) != 0)
    index = np.empty(len(item), np.int64)
    index[order] = np.arange(len(item))
    first = np.maximum.accumulate(np.where(new, np.arange(len(item)), 0))
    # The events of each item of a range form a range of their own.
    of_item = PastEvents(past.owner[order], first, index[past.at])
    is_new = np.zeros(len(item), bool)
    is_new[order[new]] = True
    features = {
        "distinct_items": past.total(is_new),
        "item_events": of_item.total(np.ones(len(item))),
    }
    for name, tokens in names.items():
        for id, token in enumerate(tokens, start=RESERVED):
            features[f"item_{name}={token}"] = of_item.total(columns[name][order] == id)
    return features


def time_features(
    past: PastEvents, columns: Mapping[str, np.ndarray], names: Mapping[str, list[str]]
) -> Features:
    """Returns seconds, hour, weekday, and counts since the last pause; {} without times."""
    if "time" not in columns:
        return {}
    time = columns["time"]
    at = past.at
    index = np.arange(len(time))
    gap = np.where(past.begin == index, np.nan, np.diff(time, prepend=0) / SECOND)
    starts = ~(gap < PAUSE / SECOND)  # the gap of the first event is NaN
    visit = past.last(starts)
    features = {
        "seconds": (time[at] - time[past.begin[at]]) / SECOND,
        "gap": gap[at],
        "hour": (time[at] % DAY // HOUR).astype(np.float64),
        "weekday": ((time[at] // DAY + 3) % 7).astype(np.float64),  # 1970 began on a Thursday
        "visits": past.total(starts),
        "visit_seconds": (time[at] - time[visit[at]]) / SECOND,
        "visit_events": past.total(np.ones(len(time)), visit),
    }
    for name, tokens in names.items():
        for id, token in enumerate(tokens, start=RESERVED):
            features[f"visit_{name}={token}"] = past.total(columns[name] == id, visit)
    return features


def number_features(past: PastEvents, numbers: Mapping[str, Float[np.ndarray, " E"]]) -> Features:
    """Returns each number at the event, and its mean, maximum and first value so far."""
    features = {}
    for name, values in numbers.items():
        features[name] = values[past.at]
        features[f"{name}_mean"] = past.mean(values)
        features[f"{name}_max"] = past.highest(values)
        features[f"{name}_first"] = values[past.begin[past.at]]
    return features


def category_codes(ids: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Returns ids as codes from 0, NaN for reserved ids."""
    return np.where(ids >= RESERVED, ids - RESERVED, np.nan).astype(np.float64)


def select_features(names: Sequence[str], without: Sequence[str]) -> tuple[str, ...]:
    """Returns the names that match no pattern of `without`.

    Raises ValueError if a pattern matches no name, or if no name is left.
    """
    matched = {pattern: set(fnmatch.filter(names, pattern)) for pattern in without}
    for pattern, matches in matched.items():
        if not matches:
            raise ValueError(f"--without {pattern} matches no feature of {', '.join(names)}.")
    left = tuple(name for name in names if not any(name in each for each in matched.values()))
    if names and not left:
        raise ValueError(f"--without {' '.join(without)} leaves no feature.")
    return left


def assign_folds(sequences: int) -> Int[np.ndarray, " S"]:
    """Returns a random fold for each sequence, the same in every call."""
    return np.random.default_rng(0).integers(0, FOLDS, sequences)


def mean_labels(
    ids: Int[np.ndarray, " N"],
    values: Float[np.ndarray, " N"],
    fold: Int[np.ndarray, " N"],
    size: int,
) -> Float[np.ndarray, "folds I"]:
    """Returns smoothed means of `values` by id: row f leaves out fold f, the last row nothing.

    An id without values has the overall mean.
    """
    cell = fold * size + ids
    total = np.bincount(cell, values, FOLDS * size).reshape(FOLDS, size)
    count = np.bincount(cell, minlength=FOLDS * size).reshape(FOLDS, size)
    total = np.concatenate([total.sum(0) - total, total.sum(0, keepdims=True)])
    count = np.concatenate([count.sum(0) - count, count.sum(0, keepdims=True)])
    overall = total.sum(1, keepdims=True) / np.maximum(count.sum(1, keepdims=True), 1)
    return (total + PRIOR * overall) / (count + PRIOR)
