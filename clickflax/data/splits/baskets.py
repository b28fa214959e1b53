"""Splits of the task `basket`: the distinct items of a session are the targets of one example.

leave_one_out       test: the last session of each sequence; validation: the one before it
time, time_each     the sessions that begin in a period, each an example
"""

import numpy as np
from jaxtyping import Int

from clickflax.batch import Registry
from clickflax.data.batches import Windows
from clickflax.data.splits.common import (
    EventLog,
    Split,
    SplitOptions,
    SplitStrategy,
    check_source_split,
    draw_validation_users,
    end_before,
    next_items,
    required_times,
    split_moments,
)


def last_baskets(log: EventLog, options: SplitOptions) -> Split:
    """Tests on the last session of each sequence, and validates on the one before it."""
    bounds = _required_bounds(log)
    last = np.searchsorted(bounds, log.stop) - 1
    sessions = last - np.searchsorted(bounds, log.start) + 1
    tested = np.flatnonzero(sessions >= 2)
    longer = np.flatnonzero(sessions >= 3)
    begin, end = bounds[last - 1], bounds[last]
    drawn = draw_validation_users(log, options, longer, begin[longer], end[longer])
    held_out = np.where(sessions >= 2, 1, 0)
    held_out[drawn] = 2
    return Split(
        Windows(log.start, bounds[last + 1 - held_out]),
        next_items(log, drawn, begin[drawn], end[drawn]),
        next_items(log, tested, end[tested], bounds[last + 1][tested]),
        {"sequences of one session": int((sessions < 2).sum())},
    )


def later_baskets(log: EventLog, options: SplitOptions) -> Split:
    """Tests and validates on sessions that begin in a period; trains on all earlier events."""
    bounds = _required_bounds(log)
    time = required_times(log.time)
    first, second, last = split_moments(time, options)
    begin, end = bounds[:-1], bounds[1:]
    sequence = np.searchsorted(log.offsets, begin, side="right") - 1
    has_history = begin > log.start[sequence]
    begins = time[begin]
    tested = np.flatnonzero(has_history & (begins >= second) & (begins < last))
    validated = np.flatnonzero(has_history & (begins >= first) & (begins < second))
    drawn = draw_validation_users(log, options, validated, begin[validated], end[validated])
    new = (begins >= first) & (begins < last) & ~has_history
    return Split(
        Windows(log.start, end_before(log, time, first)),
        next_items(log, sequence[drawn], begin[drawn], end[drawn]),
        next_items(log, sequence[tested], begin[tested], end[tested]),
        {
            "sessions without a history": int(new.sum()),
            "sessions after the test": int((begins >= last).sum()),
        },
    )


BASKET_SPLITS: Registry[SplitStrategy] = Registry(
    "split of baskets",
    {"leave_one_out": last_baskets, "time": later_baskets, "time_each": later_baskets},
)


def split_baskets(name: str, log: EventLog, options: SplitOptions) -> Split:
    """Splits the sessions of a log by the strategy `name`.

    Raises ValueError if there is no such strategy for baskets, or if it would train on the source's
    test file.
    """
    check_source_split(name, log.source_split)
    if name not in BASKET_SPLITS:
        raise ValueError(
            f"config.data.split={name!r} does not split baskets: set one of "
            f"{sorted(BASKET_SPLITS)}."
        )
    return BASKET_SPLITS[name](log, options)


def _required_bounds(log: EventLog) -> Int[np.ndarray, " session_bounds"]:
    """Returns the first event of each session, and the end. Raises ValueError if there are none."""
    if log.session_bounds is None:
        raise ValueError("baskets are sessions: set config.data.chain.")
    return log.session_bounds
