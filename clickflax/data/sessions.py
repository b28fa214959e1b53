"""Chains: sequences of several parts, such as the sessions or the baskets of a user.

A SEP stands between two parts. Questions are put, labels made and data sets split on the events of
the log; only then do these move apart, to the places where they stand in their chain.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Shaped

from clickflax.batch import SEP, set_reserved
from clickflax.data.batches import Windows
from clickflax.data.durations import parse_gap


class Sessions(NamedTuple):
    """Where the events of a data set stand once a SEP goes before every part but the first."""

    number: Int32[np.ndarray, " E"]  # of the part in its sequence; 0 is the first
    place: Int[np.ndarray, " E"]

    @property
    def places(self) -> int:
        """Events and SEPs together."""
        return int(self.place[-1]) + 1

    def spread(self, values: Shaped[np.ndarray, "E ..."]) -> Shaped[np.ndarray, "P ..."]:
        """A value at every place: the id SEP, or NaN, where no event is."""
        event = np.full(self.places, -1)
        event[self.place] = np.arange(len(values))
        return set_reserved(SEP, event < 0, values[event], np)

    def ranges(self, windows: Windows, opened: bool) -> Windows:
        """The places of ranges of events; `opened` ones end with the SEP after them, if any."""
        after = np.append(self.place, self.places)
        start, stop = after[windows.start], after[windows.stop]
        if not opened:
            some = windows.stop > windows.start
            stop = np.where(some, after[windows.stop - 1] + 1, start)
        return Windows(start, np.maximum(stop, start))


def find_sessions(
    by: str,
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
) -> Sessions:
    """The parts that `config.data.chain` describes: a pause (30m) that is longer, or a variable
    (invoice) of another value than before, begins a new one; not one of several values an event.
    """
    names = sorted(n for n, values in columns.items() if n != "time" and values.ndim == 1)
    if by in names:
        values = np.asarray(columns[by])
        begins = values != np.append(values[:1], values[:-1])
    elif not by[:1].isdigit():
        raise ValueError(
            f"data.chain={by!r} is neither a pause such as 30m nor one of the variables that have "
            f"one value an event, {names}."
        )
    elif "time" not in columns:
        raise ValueError(f"data.chain={by!r} is a pause, and this data set has no times.")
    else:
        begins = np.diff(columns["time"], prepend=columns["time"][:1]) > parse_gap("data.chain", by)
    begins[offsets[:-1]] = False
    before = np.cumsum(begins)
    number = before - np.repeat(before[offsets[:-1]], np.diff(offsets))
    return Sessions(number.astype(np.int32), np.arange(len(begins)) + before)
