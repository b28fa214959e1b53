"""Matching events before each event: how many, and the last one.

A condition is `action=cart`, `item`, or both, `item&action=cart`. A term with values selects the
events that count. A name alone restricts them to events with the value of the event itself, such as
its item or its session. Only events of the same sequence count.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from clickflax.batch import RESERVED
from clickflax.data.sessions import is_session_number
from clickflax.data.store import Dataset
from clickflax.data.where import AND, matches


class MatchingEvents(NamedTuple):
    """The E events of a data set sorted by group, and by time within a group.

    All fields but `order` have a value for each index in that order.
    """

    order: Int64[np.ndarray, " E"]  # events
    first: Int64[np.ndarray, " E"]  # index of the first event of the group
    matching: Bool[np.ndarray, " E"]
    missing: Bool[np.ndarray, " E"]  # the event has no value, and so belongs to no group

    def count(self) -> Float[np.ndarray, " E"]:
        """Returns the number of matching events up to each event, itself included.

        NaN for events without a group.
        """
        before = np.append(0, np.cumsum(self.matching))
        counts = np.empty(len(self.order))
        counts[self.order] = np.where(self.missing, np.nan, before[1:] - before[self.first])
        return counts

    def last(self) -> Int64[np.ndarray, " E"]:
        """Returns the last matching event before each event, or -1."""
        indices = np.arange(len(self.order))
        latest = np.maximum.accumulate(np.where(self.matching, indices, -1))
        latest = np.append(-1, latest)[:-1]
        none = self.missing | (latest < self.first)
        events = np.empty(len(self.order), np.int64)
        events[self.order] = np.where(none, -1, self.order[np.maximum(latest, 0)])
        return events


def count_matching(dataset: Dataset, condition: str) -> MatchingEvents:
    """Returns the events in the groups of a condition, and which of them match.

    Raises ValueError for a condition that is known only after the event.
    """
    terms = condition.split(AND)
    names = [term for term in terms if "=" not in term]
    values = [term for term in terms if "=" in term]
    for term in values:
        name, _, value = term.partition("=")
        if is_session_number(name, dataset.columns) and value.startswith("-"):
            raise ValueError(
                f"config.data.variables: {condition!r} is known only at the end of the sequence: "
                "number sessions from 0."
            )
    matching = matches(dataset, AND.join(values))
    keys = [np.repeat(np.arange(dataset.sequences), np.diff(dataset.offsets))]
    missing = np.zeros(dataset.events, bool)
    for name in names:
        if is_session_number(name, dataset.columns):
            if dataset.sessions is None:
                raise ValueError(
                    f"config.data.variables: {condition!r} needs sessions: set config.data.chain."
                )
            keys.append(dataset.sessions.number)
            continue
        ids = dataset.ids(name)
        missing |= ids < RESERVED
        keys.append(ids)
    order = np.arange(dataset.events)
    if names:
        order = np.lexsort(keys[::-1])  # stable: the events of a group stay in order
    begins = np.arange(dataset.events) == 0
    for key in keys:
        begins[1:] |= np.diff(key[order]) != 0
    first = np.maximum.accumulate(np.where(begins, np.arange(dataset.events), 0))
    return MatchingEvents(order, first, matching[order], missing[order])
