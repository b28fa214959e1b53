"""Hand-made features of an event, from the events of its range up to it: what one would try first.

    events, distinct_items                  so far, the event itself included
    NAME=TOKEN, _share, _since              how often a value came, of how many, seconds since
    NAME_before                             the value of the event before
    item_events, item_NAME=TOKEN            so far, of the item of the event alone
    seconds, gap, hour, weekday             since the first event; since the one before; in UTC
    visits, visit_...                       the same counts since the last pause of 30 minutes
    NAME, NAME_mean, NAME_max, NAME_first   of a number: now and so far
    NAME_popularity                         events of training that have this value of a variable
    NAME_rate, item_rate_mean, ..._max      the mean label of a value in training: now and so far

NAME is a categorical variable but for numbers; the values of one that has few are counted. Of
labels that are classes, each has its own rate: item_rate2 is the share of class 2.
"""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.packing import ramp
from clickflax.data.variables import DAY, HOUR, SECOND

PAUSE = 30 * 60 * SECOND
FOLDS = 5
PRIOR = 20.0  # labels of the mean kind that every value is given

Features = dict[str, Float[np.ndarray, " N"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Past:
    """The events of some ranges, one range after the other, and those that are asked about."""

    owner: Int[np.ndarray, " E"]  # the range of each event
    begin: Int[np.ndarray, " E"]  # the first event of its range
    at: Int[np.ndarray, " N"]

    def total(
        self, values: Shaped[np.ndarray, " E"], begin: Int[np.ndarray, " E"] | None = None
    ) -> Float[np.ndarray, " N"]:
        """The sum from the first event of the range, or from `begin` on, to the event asked."""
        begin = self.begin if begin is None else begin
        upto = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return upto[self.at + 1] - upto[begin[self.at]]

    def last(self, where: Bool[np.ndarray, " E"]) -> Int[np.ndarray, " E"]:
        """The last event so far for which something holds, in whatever range; -1: there is none."""
        return np.maximum.accumulate(np.where(where, np.arange(len(where)), -1))

    def highest(self, values: Float[np.ndarray, " E"]) -> Float[np.ndarray, " N"]:
        """The highest value so far that is not missing, NaN where all are."""
        known, rank = np.unique(values[np.isfinite(values)], return_inverse=True)
        place = np.zeros(len(values), np.int64)
        place[np.isfinite(values)] = rank + 1
        # Of a later range all keys are higher, so that a maximum never comes from another range.
        key = np.maximum.accumulate(self.owner * (len(known) + 1) + place)[self.at]
        return np.append(np.nan, known)[key % (len(known) + 1)]

    def mean(self, values: Float[np.ndarray, " E"]) -> Float[np.ndarray, " N"]:
        """The mean so far of what is not missing, NaN where all is."""
        there = np.isfinite(values)
        count = self.total(there)
        total = self.total(np.where(there, values, 0.0))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def look_back(ranges: Windows, asked: Bool[np.ndarray, " E"]) -> tuple[Past, Int[np.ndarray, " M"]]:
    """The past of the asked events of a log, and which events of the log it is made of."""
    count = ranges.stop - ranges.start
    owner = np.repeat(np.arange(len(count)), count)
    source = np.repeat(ranges.start, count) + ramp(count)
    begin = np.repeat(np.cumsum(count) - count, count)
    return Past(owner, begin, np.flatnonzero(asked[source])), source


def of_values(
    past: Past, columns: Mapping[str, np.ndarray], names: Mapping[str, list[str]]
) -> Features:
    """How often the values of each variable came so far, and when last; and the value before."""
    at, begin = past.at, past.begin[past.at]
    events = (at - begin + 1).astype(np.float64)
    found = {"events": events}
    for name, tokens in names.items():
        ids = columns[name]
        found[f"{name}_before"] = np.where(at > begin, code(ids[at - 1]), np.nan)
        for id, token in enumerate(tokens, start=RESERVED):
            count = past.total(ids == id)
            found[f"{name}={token}"], found[f"{name}={token}_share"] = count, count / events
            if "time" in columns:
                since = columns["time"][at] - columns["time"][past.last(ids == id)[at]]
                found[f"{name}={token}_since"] = np.where(count > 0, since / SECOND, np.nan)
    return found


def of_items(
    past: Past, columns: Mapping[str, np.ndarray], names: Mapping[str, list[str]]
) -> Features:
    """How many items came so far, and what happened to the item of the event."""
    item = columns["item"]
    order = np.lexsort((item, past.owner))  # stable: events of an item stay in their order
    new = np.ones(len(item), bool)
    new[1:] = (np.diff(item[order]) != 0) | (np.diff(past.owner[order]) != 0)
    place = np.empty(len(item), np.int64)
    place[order] = np.arange(len(item))
    first = np.maximum.accumulate(np.where(new, np.arange(len(item)), 0))
    # The events of each item of a range as if they were a range of their own.
    alone = Past(past.owner[order], first, place[past.at])
    is_new = np.zeros(len(item), bool)
    is_new[order[new]] = True
    found = {"distinct_items": past.total(is_new), "item_events": alone.total(np.ones(len(item)))}
    for name, tokens in names.items():
        for id, token in enumerate(tokens, start=RESERVED):
            found[f"item_{name}={token}"] = alone.total(columns[name][order] == id)
    return found


def of_times(
    past: Past, columns: Mapping[str, np.ndarray], names: Mapping[str, list[str]]
) -> Features:
    """Seconds, hour and weekday, and the counts since the last pause; nothing without times."""
    if "time" not in columns:
        return {}
    time, at = columns["time"], past.at
    index = np.arange(len(time))
    gap = np.where(past.begin == index, np.nan, np.diff(time, prepend=0) / SECOND)
    starts = ~(gap < PAUSE / SECOND)  # that of the first event is NaN
    visit = past.last(starts)
    found = {
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
            found[f"visit_{name}={token}"] = past.total(columns[name] == id, visit)
    return found


def of_numbers(past: Past, numbers: Mapping[str, Float[np.ndarray, " E"]]) -> Features:
    """Each number now, on average, at its highest and at its first so far."""
    found = {}
    for name, values in numbers.items():
        found[name] = values[past.at]
        found[f"{name}_mean"] = past.mean(values)
        found[f"{name}_max"] = past.highest(values)
        found[f"{name}_first"] = values[past.begin[past.at]]
    return found


def code(ids: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Ids as codes from 0 on, NaN for the reserved ones."""
    return np.where(ids >= RESERVED, ids - RESERVED, np.nan).astype(np.float64)


def others(names: Sequence[str], without: Sequence[str]) -> tuple[str, ...]:
    """The names that no pattern of `without` matches; ValueError for one that matches none, and
    where nothing is left.
    """
    matched = {pattern: set(fnmatch.filter(names, pattern)) for pattern in without}
    for pattern, found in matched.items():
        if not found:
            raise ValueError(f"--without {pattern}: no feature of {', '.join(names)} is like that.")
    left = tuple(name for name in names if not any(name in one for one in matched.values()))
    if names and not left:
        raise ValueError(f"--without {' '.join(without)} leaves no feature.")
    return left


def folds_of(sequences: int) -> Int[np.ndarray, " S"]:
    """A fold for each sequence, at random and always the same."""
    return np.random.default_rng(0).integers(0, FOLDS, sequences)


def rates(
    ids: Int[np.ndarray, " N"],
    values: Float[np.ndarray, " N"],
    fold: Int[np.ndarray, " N"],
    size: int,
) -> Float[np.ndarray, "folds I"]:
    """The mean of `values` by id, smoothed: without those of fold f in row f, of all in the last.

    An id that has none gets the mean of all.
    """
    cell = fold * size + ids
    total = np.bincount(cell, values, FOLDS * size).reshape(FOLDS, size)
    count = np.bincount(cell, minlength=FOLDS * size).reshape(FOLDS, size)
    total = np.concatenate([total.sum(0) - total, total.sum(0, keepdims=True)])
    count = np.concatenate([count.sum(0) - count, count.sum(0, keepdims=True)])
    overall = total.sum(1, keepdims=True) / np.maximum(count.sum(1, keepdims=True), 1)
    return (total + PRIOR * overall) / (count + PRIOR)
