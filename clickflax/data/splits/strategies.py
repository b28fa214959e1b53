"""The ways to split a data set, by the names of `config.data.split`.

leave_one_out       the last event of a sequence is the test, the one before the validation
time                by two moments, or shares of the log; the items of a period are one question
ratio               by two shares of each sequence; all the items of a share are one question
sequence_time       whole sequences, by the moment at which they begin
parts               the source's own test file; the last event of its sequences
..._each            as time, ratio and parts, but every event of the test is a question
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int, Shaped

from clickflax.data.batches import Windows
from clickflax.data.packing import ramp
from clickflax.data.splits.common import (
    Examples,
    Split,
    SplitOptions,
    check_part,
    draw_validation_users,
    next_one,
    period,
    split_moments,
)


def leave_one_out(
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    part: Int[np.ndarray, " S"] | None,
    options: SplitOptions,
) -> Split:
    """The last event of each sequence is the test, the one before the validation.

    Sequences of one event are trained on only; those of two have no validation item. A user
    without a validation item is trained on all but the last event.
    """
    start, stop = offsets[:-1], offsets[1:]
    length = stop - start
    tested = np.flatnonzero(length >= 2)
    longer = np.flatnonzero(length >= 3)
    target, item = stop[longer] - 2, columns["item"]
    chosen = draw_validation_users(longer, target, target + 1, item, options.validation_users)
    held = np.where(length >= 2, 1, 0)
    held[chosen] = 2
    return Split(
        Windows(start, stop - held),
        next_one(chosen, start[chosen], stop[chosen] - 2, columns["item"]),
        next_one(tested, start[tested], stop[tested] - 1, columns["item"]),
        too_short(offsets),
    )


def parts_of(part: Int[np.ndarray, " S"] | None) -> Int[np.ndarray, " S"]:
    """Which file each sequence comes from, 0 or 1: the source's test file."""
    if part is None:
        raise ValueError(
            "data.split='parts' needs a data set with a test file of its own; "
            "this one has none: try leave_one_out."
        )
    return part


def by_parts(
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    part: Int[np.ndarray, " S"] | None,
    options: SplitOptions,
) -> Split:
    """The source's own test file: the last event of each of its sequences is the test.

    The last event of the training sequences that are drawn is the validation.
    """
    part = parts_of(part)
    start, stop = offsets[:-1], offsets[1:]
    length = stop - start
    tested = np.flatnonzero((part == 1) & (length >= 2))
    longer = np.flatnonzero((part == 0) & (length >= 2))
    target, item = stop[longer] - 1, columns["item"]
    chosen = draw_validation_users(longer, target, target + 1, item, options.validation_users)
    held = np.zeros(len(length), np.int64)
    held[chosen] = 1
    trained = part == 0
    return Split(
        Windows(start[trained], (stop - held)[trained]),
        next_one(chosen, start[chosen], stop[chosen] - 1, columns["item"]),
        next_one(tested, start[tested], stop[tested] - 1, columns["item"]),
        {"test sequences of one event": int(((part == 1) & (length < 2)).sum())},
    )


def by_sequence_time(
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    part: Int[np.ndarray, " S"] | None,
    options: SplitOptions,
) -> Split:
    """Whole sequences, such as sessions, by the time at which they begin: the last event of one
    that begins in a period is its target. What has not ended before the next period is left out.
    """
    first, second, end = split_moments(columns, options)
    start, stop = offsets[:-1], offsets[1:]
    begins, ends = columns["time"][start], columns["time"][stop - 1]
    trained = ends < first
    validated = (begins >= first) & (ends < second)
    tested = (begins >= second) & (ends < end)
    asks = stop - start >= 2
    longer = np.flatnonzero(validated & asks)
    target, item = stop[longer] - 1, columns["item"]
    chosen = draw_validation_users(longer, target, target + 1, item, options.validation_users)
    asked = np.flatnonzero(tested & asks)
    return Split(
        Windows(start[trained], stop[trained]),
        next_one(chosen, start[chosen], stop[chosen] - 1, columns["item"]),
        next_one(asked, start[asked], stop[asked] - 1, columns["item"]),
        {
            "sequences that end after their period": int((~(trained | validated | tested)).sum()),
            "sequences of one event to be asked": int(((validated | tested) & ~asks).sum()),
        },
    )


def by_time(
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    part: Int[np.ndarray, " S"] | None,
    options: SplitOptions,
) -> Split:
    """Everybody's events before a moment are the training, those of the period after it the
    targets: all the different items of it.
    """
    first, second, last = split_moments(columns, options)
    start, stop = offsets[:-1], offsets[1:]

    def before(moment: int) -> Int[np.ndarray, " S"]:
        earlier = np.concatenate([[0], np.cumsum(columns["time"] < moment)])
        return start + earlier[stop] - earlier[start]

    trained, known, until = before(first), before(second), before(last)
    candidates = np.flatnonzero((trained > start) & (known > trained))
    begin, end, item = trained[candidates], known[candidates], columns["item"]
    chosen = draw_validation_users(candidates, begin, end, item, options.validation_users)
    tested = np.flatnonzero((known > start) & (until > known))
    return Split(
        Windows(start, trained),
        period(chosen, start[chosen], trained[chosen], known[chosen], item),
        period(tested, start[tested], known[tested], until[tested], item),
        {
            "validation sequences without a history": int(
                ((trained == start) & (known > trained)).sum()
            ),
            "test sequences without a history": int(((known == start) & (until > known)).sum()),
            "events after the test": int((stop - until).sum()),
        },
    )


def by_each_event(
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    part: Int[np.ndarray, " S"] | None,
    options: SplitOptions,
) -> Split:
    """Everybody's events before a moment are the training; every one of the period after it is a
    target, and all that was before it in its sequence the history.
    """
    first, second, end = split_moments(columns, options)
    time = columns["time"]
    sequence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    later, known = time >= first, np.arange(len(time)) > offsets[sequence]
    tested = np.flatnonzero(known & (time >= second) & (time < end))
    validated = np.flatnonzero(known & later & (time < second))
    start, item = offsets[sequence], columns["item"]
    drawn = draw_validation_users(
        validated, validated, validated + 1, item, options.validation_users
    )
    earlier = np.concatenate([[0], np.cumsum(~later)])
    return Split(
        Windows(offsets[:-1], offsets[:-1] + np.diff(earlier[offsets])),
        next_one(sequence[drawn], start[drawn], drawn, item),
        next_one(sequence[tested], start[tested], tested, item),
        {
            "events without a history": int((later & ~known & (time < end)).sum()),
            "events after the test": int((time >= end).sum()),
        },
    )


def by_parts_each(
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    part: Int[np.ndarray, " S"] | None,
    options: SplitOptions,
) -> Split:
    """The source's own test file, of whose sequences every event but the first is a target, as that
    of a prefix of its own (SR-GNN: Wu et al., 2019). So are all of the training sequences that are
    drawn for the validation, which are not trained on.
    """
    part = parts_of(part)
    start, stop, length = offsets[:-1], offsets[1:], np.diff(offsets)
    longer = np.flatnonzero((part == 0) & (length >= 2))
    if not -1 < options.validation_users < len(longer):
        raise ValueError(
            f"data.validation_users={options.validation_users}: data.split='parts_each' does not "
            f"train on what is validated; name fewer than the {len(longer):,} sequences there are."
        )
    drawn = draw_validation_users(
        longer, start[longer] + 1, stop[longer], columns["item"], options.validation_users
    )
    trained = part == 0
    trained[drawn] = False
    tested = np.flatnonzero((part == 1) & (length >= 2))
    item = columns["item"]
    return Split(
        Windows(start[trained], stop[trained]),
        every_next(drawn, start[drawn] + 1, stop[drawn], start, item),
        every_next(tested, start[tested] + 1, stop[tested], start, item),
        {"test sequences of one event": int(((part == 1) & (length < 2)).sum())},
    )


def shares(
    offsets: Int[np.ndarray, " bounds"], options: SplitOptions
) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"]]:
    """Where the validation and the test of each sequence begin: the last events are shared out,
    rounded down, but at least one to each part; of two events the last is the test, and a
    sequence of one has neither.
    """
    length = np.diff(offsets)
    tested = np.maximum((length * options.test_share).astype(np.int64), 1)
    tested = np.where(length >= 2, tested, 0)
    validated = np.maximum((length * options.validation_share).astype(np.int64), 1)
    validated = np.where(length >= 3, validated, 0) if options.validation_share else 0 * tested
    second = offsets[1:] - tested
    return second - validated, second


def by_ratio(
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    part: Int[np.ndarray, " S"] | None,
    options: SplitOptions,
    each: bool = False,
) -> Split:
    """The first events of each sequence are the training, a share of the last ones the validation
    and the test: all their different items are targets, or `each` event is one, with a history of
    its own, all the events before it.
    """
    start, stop, item = offsets[:-1], offsets[1:], columns["item"]
    first, second = shares(offsets, options)
    asked = np.flatnonzero(second > first)
    drawn = draw_validation_users(
        asked, first[asked], second[asked], item, options.validation_users
    )
    tested = np.flatnonzero(stop > second)

    def examples(
        some: Int[np.ndarray, " U"], begin: Int[np.ndarray, " S"], end: Int[np.ndarray, " S"]
    ) -> Examples:
        if each:
            return every_next(some, begin[some], end[some], start, item)
        return period(some, start[some], begin[some], end[some], item)

    return Split(
        Windows(start, first),
        examples(drawn, first, second),
        examples(tested, second, stop),
        too_short(offsets),
    )


def too_short(offsets: Int[np.ndarray, " bounds"]) -> dict[str, int]:
    """The sequences from which no part can be taken."""
    length = np.diff(offsets)
    return {
        "sequences too short for a test": int((length < 2).sum()),
        "sequences too short for a validation item": int((length < 3).sum()),
    }


def every_next(
    sequence: Int[np.ndarray, " U"],
    begin: Int[np.ndarray, " U"],
    end: Int[np.ndarray, " U"],
    start: Int[np.ndarray, " S"],
    item: Int[np.ndarray, " E"],
) -> Examples:
    """Each event from `begin` to `end` of some sequences, after all the events before it."""
    count = end - begin
    owner = np.repeat(sequence, count)
    at = np.repeat(begin, count) + ramp(count)
    return next_one(owner, start[owner], at, item)


SPLITS: dict[str, Callable[..., Split]] = {
    "leave_one_out": leave_one_out,
    "time": by_time,
    "time_each": by_each_event,
    "sequence_time": by_sequence_time,
    "ratio": by_ratio,
    "ratio_each": functools.partial(by_ratio, each=True),
    "parts": by_parts,
    "parts_each": by_parts_each,
}


def split_sequences(
    name: str,
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    part: Int[np.ndarray, " S"] | None,
    options: SplitOptions,
) -> Split:
    """Splits a data set as `config.data.split` says."""
    if name not in SPLITS:
        raise ValueError(f"data.split={name!r} is not one of {sorted(SPLITS)}.")
    check_part(name, part)
    return SPLITS[name](offsets, columns, part, options)
