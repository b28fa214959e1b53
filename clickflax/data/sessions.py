"""Sessions: consecutive parts of a sequence, such as the visits or the baskets of a user.

In a batch, a SEP stands between two sessions of a sequence. Tasks, labels and splits are defined on
the events of the log; later, values and ranges of events are moved to their positions among events
and SEPs.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Shaped

from clickflax.batch import SEP, set_reserved
from clickflax.data.batches import Windows
from clickflax.data.durations import parse_gap

SESSION = "session"
SESSION_IN_0_1_0 = "part"


def is_session_number(name: str, columns: Collection[str]) -> bool:
    """Returns whether a variable is the number of the session in its sequence.

    Its name is `session`; configs and conditions of 0.1.0 have `part`. A variable of the log with
    that name, one of `columns`, takes precedence.
    """
    return name in (SESSION, SESSION_IN_0_1_0) and name not in columns


class Sessions(NamedTuple):
    """Session of each event, and its position when a SEP precedes every session but the first."""

    number: Int32[np.ndarray, " E"]  # of the session in its sequence; 0 is the first
    position: Int[np.ndarray, " E"]

    @property
    def length(self) -> int:
        """Number of events and SEPs."""
        return int(self.position[-1]) + 1

    def with_separators(self, values: Shaped[np.ndarray, "E ..."]) -> Shaped[np.ndarray, "P ..."]:
        """Returns the values at all positions: SEP, or NaN among numbers, between two sessions."""
        event = np.full(self.length, -1)
        event[self.position] = np.arange(len(values))
        return set_reserved(SEP, event < 0, values[event], np)

    def position_ranges(self, ranges: Windows, separator: bool) -> Windows:
        """Returns the positions of ranges of events; with `separator`, up to the SEP behind them.

        A range at whose end no SEP stands gets none.
        """
        position = np.append(self.position, self.length)
        start = position[ranges.start]
        stop = position[ranges.stop]
        if not separator:
            behind_last = position[ranges.stop - 1] + 1
            stop = np.where(ranges.stop > ranges.start, behind_last, start)
        return Windows(start, np.maximum(stop, start))


def find_sessions(
    by: str,
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
) -> Sessions:
    """Returns the sessions that `config.data.chain` describes.

    A session begins after a longer pause than the one named (`30m`), or at another value of the
    variable named (`invoice`). Raises ValueError for a variable with several values per event.
    """
    names = sorted(n for n, values in columns.items() if n != "time" and values.ndim == 1)
    if by in names:
        values = np.asarray(columns[by])
        begins = values != np.append(values[:1], values[:-1])
    elif not by[:1].isdigit():
        raise ValueError(
            f"config.data.chain={by!r} is neither a pause such as 30m nor one of the variables "
            f"with one value per event, {names}."
        )
    elif "time" not in columns:
        raise ValueError(f"config.data.chain={by!r} is a pause, and this data set has no times.")
    else:
        pause = parse_gap("config.data.chain", by)
        begins = np.diff(columns["time"], prepend=columns["time"][:1]) > pause
    begins[offsets[:-1]] = False
    begun = np.cumsum(begins)  # sessions after the first of their sequence
    number = begun - np.repeat(begun[offsets[:-1]], np.diff(offsets))
    return Sessions(number.astype(np.int32), np.arange(len(begins)) + begun)
