"""How often, so far, and when last: `action=cart`, `item`, or `item&action=cart`.

A name with values chooses the events that are counted; a name alone has each event look only at
those with its own value, as of its item or its part, within its sequence in any case.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from clickflax.batch import RESERVED
from clickflax.data.store import Dataset
from clickflax.data.where import AND, matches


class MatchingEvents(NamedTuple):
    """The events of a data set in groups, each in one piece and in the order of time.

    Everything but `order` is by place in that order.
    """

    order: Int64[np.ndarray, " E"]  # the event at each place
    first: Int64[np.ndarray, " E"]  # the place at which its group begins
    counted: Bool[np.ndarray, " E"]
    missing: Bool[np.ndarray, " E"]  # whether it has no value of its own, and is in no group

    def count(self) -> Float[np.ndarray, " E"]:
        """Of each event, how many are counted so far, itself included; NaN in no group."""
        before = np.append(0, np.cumsum(self.counted))
        found = np.empty(len(self.order))
        found[self.order] = np.where(self.missing, np.nan, before[1:] - before[self.first])
        return found

    def last(self) -> Int64[np.ndarray, " E"]:
        """Of each event, the last one before it that is counted; -1: there is none."""
        place = np.maximum.accumulate(np.where(self.counted, np.arange(len(self.order)), -1))
        place = np.append(-1, place)[:-1]
        found = np.empty(len(self.order), np.int64)
        found[self.order] = np.where(
            self.missing | (place < self.first), -1, self.order[np.maximum(place, 0)]
        )
        return found


def count_matching(dataset: Dataset, condition: str) -> MatchingEvents:
    """The groups of events that a condition counts together.

    Raises ValueError for a condition of which one does not know at once whether an event meets it.
    """
    terms = condition.split(AND)
    names = [term for term in terms if "=" not in term]
    values = [term for term in terms if "=" in term]
    if any(term.startswith("part=-") for term in values):
        raise ValueError(f"data.variables: which part is {condition!r} is known only at the end.")
    counted = matches(dataset, AND.join(values))
    keys = [np.repeat(np.arange(dataset.sequences), np.diff(dataset.offsets))]
    missing = np.zeros(dataset.events, bool)
    for name in names:
        if name == "part":
            if dataset.sessions is None:
                raise ValueError(f"data.variables: {condition!r} needs parts: set data.chain.")
            keys.append(dataset.sessions.number)
            continue
        ids = dataset.ids(name)
        missing |= ids < RESERVED
        keys.append(ids)
    order = np.arange(dataset.events)
    if names:
        order = np.lexsort(keys[::-1])  # stable: the events of a group stay in their order
    begins = np.arange(dataset.events) == 0
    for key in keys:
        begins[1:] |= np.diff(key[order]) != 0
    first = np.maximum.accumulate(np.where(begins, np.arange(dataset.events), 0))
    return MatchingEvents(order, first, counted[order], missing[order])
