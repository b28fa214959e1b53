"""Splits of item rankings, by the values of `config.data.split`.

leave_one_out       test: the last event of each sequence; validation: the one before it
time                the events of two periods; all items of a sequence in a period are one example
ratio               the last shares of each sequence; all items of a share are one example
sequence_time       whole sequences, by the time of their first event
parts               the source's test file, of whose sequences the last event is the test
..._each            as time, ratio and parts, with one example for each event

An extension registers its own strategy, a function of a log and the options:

    @SPLITS.register("mine")
    def split_mine(log: EventLog, options: SplitOptions) -> Split: ...
"""

import functools

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
    each_next_item,
    end_before,
    next_item,
    next_items,
    required_times,
    split_moments,
)


def leave_one_out(log: EventLog, options: SplitOptions) -> Split:
    """Tests on the last event of each sequence, and validates on the one before it.

    Sequences of one event are for training only; those of two have no validation item. Users
    without a validation item train on all but the last event.
    """
    tested = np.flatnonzero(log.length >= 2)
    longer = np.flatnonzero(log.length >= 3)
    target = log.stop[longer] - 2
    drawn = draw_validation_users(log, options, longer, target, target + 1)
    held_out = np.where(log.length >= 2, 1, 0)
    held_out[drawn] = 2
    return Split(
        Windows(log.start, log.stop - held_out),
        next_item(log, drawn, log.stop[drawn] - 2),
        next_item(log, tested, log.stop[tested] - 1),
        _too_short(log),
    )


def by_parts(log: EventLog, options: SplitOptions) -> Split:
    """Tests on the last event of each sequence of the source's test file.

    Validates on the last event of training sequences that are drawn.
    """
    source_split = _required_source_split(log)
    tested = np.flatnonzero((source_split == 1) & (log.length >= 2))
    longer = np.flatnonzero((source_split == 0) & (log.length >= 2))
    target = log.stop[longer] - 1
    drawn = draw_validation_users(log, options, longer, target, target + 1)
    held_out = np.zeros(len(log.length), np.int64)
    held_out[drawn] = 1
    trained = source_split == 0
    return Split(
        Windows(log.start[trained], (log.stop - held_out)[trained]),
        next_item(log, drawn, log.stop[drawn] - 1),
        next_item(log, tested, log.stop[tested] - 1),
        _short_tests(log, source_split),
    )


def by_each_event_of_parts(log: EventLog, options: SplitOptions) -> Split:
    """Tests on every event but the first of each sequence of the source's test file.

    Each prefix of a sequence is a history (SR-GNN: Wu et al., 2019). Validates in the same way on
    training sequences that are drawn, which are not trained on.
    """
    source_split = _required_source_split(log)
    longer = np.flatnonzero((source_split == 0) & (log.length >= 2))
    if not -1 < options.validation_users < len(longer):
        raise ValueError(
            f"config.data.validation_users={options.validation_users}: "
            "config.data.split='parts_each' does not train on validation sequences; name fewer "
            f"than the {len(longer):,} sequences there are."
        )
    drawn = draw_validation_users(log, options, longer, log.start[longer] + 1, log.stop[longer])
    trained = source_split == 0
    trained[drawn] = False
    tested = np.flatnonzero((source_split == 1) & (log.length >= 2))
    return Split(
        Windows(log.start[trained], log.stop[trained]),
        each_next_item(log, drawn, log.start[drawn] + 1, log.stop[drawn]),
        each_next_item(log, tested, log.start[tested] + 1, log.stop[tested]),
        _short_tests(log, source_split),
    )


def by_sequence_time(log: EventLog, options: SplitOptions) -> Split:
    """Splits whole sequences, such as sessions, by the time of their first event.

    The target is the last event of the sequence. A sequence that ends after its period is dropped.
    """
    time = required_times(log.time)
    first, second, end = split_moments(time, options)
    begins, ends = time[log.start], time[log.stop - 1]
    trained = ends < first
    validated = (begins >= first) & (ends < second)
    tested = (begins >= second) & (ends < end)
    has_history = log.length >= 2
    longer = np.flatnonzero(validated & has_history)
    target = log.stop[longer] - 1
    drawn = draw_validation_users(log, options, longer, target, target + 1)
    test = np.flatnonzero(tested & has_history)
    short = (validated | tested) & ~has_history
    return Split(
        Windows(log.start[trained], log.stop[trained]),
        next_item(log, drawn, log.stop[drawn] - 1),
        next_item(log, test, log.stop[test] - 1),
        {
            "sequences that end after their period": int((~(trained | validated | tested)).sum()),
            "sequences without a history": int(short.sum()),
        },
    )


def by_time(log: EventLog, options: SplitOptions) -> Split:
    """Trains on all events before a moment; the distinct items of the period after it are targets.

    A sequence is one example, with its events before the period as the history.
    """
    time = required_times(log.time)
    first, second, end = (end_before(log, time, moment) for moment in split_moments(time, options))
    candidates = np.flatnonzero((first > log.start) & (second > first))
    drawn = draw_validation_users(log, options, candidates, first[candidates], second[candidates])
    tested = np.flatnonzero((second > log.start) & (end > second))
    new_in_validation = (first == log.start) & (second > first)
    new_in_test = (second == log.start) & (end > second)
    return Split(
        Windows(log.start, first),
        next_items(log, drawn, first[drawn], second[drawn]),
        next_items(log, tested, second[tested], end[tested]),
        {
            "validation sequences without a history": int(new_in_validation.sum()),
            "test sequences without a history": int(new_in_test.sum()),
            "events after the test": int((log.stop - end).sum()),
        },
    )


def by_each_event(log: EventLog, options: SplitOptions) -> Split:
    """Trains on all events before a moment; each event of the period after it is an example.

    The history of an example is all earlier events of its sequence.
    """
    time = required_times(log.time)
    first, second, end = split_moments(time, options)
    sequence = np.repeat(np.arange(len(log.length)), log.length)
    event = np.arange(len(time))
    has_history = event > log.start[sequence]
    tested = np.flatnonzero(has_history & (time >= second) & (time < end))
    validated = np.flatnonzero(has_history & (time >= first) & (time < second))
    drawn = draw_validation_users(log, options, validated, validated, validated + 1)
    new = (time >= first) & (time < end) & ~has_history
    return Split(
        Windows(log.start, end_before(log, time, first)),
        next_item(log, sequence[drawn], drawn),
        next_item(log, sequence[tested], tested),
        {
            "events without a history": int(new.sum()),
            "events after the test": int((time >= end).sum()),
        },
    )


def by_ratio(log: EventLog, options: SplitOptions, each: bool = False) -> Split:
    """Trains on the first events of each sequence; a share of the last ones are targets.

    The distinct items of a share are the targets of one example, or `each` event is an example.
    """
    first, second = _shares(log, options)
    validated = np.flatnonzero(second > first)
    drawn = draw_validation_users(log, options, validated, first[validated], second[validated])
    tested = np.flatnonzero(log.stop > second)
    examples = each_next_item if each else next_items
    return Split(
        Windows(log.start, first),
        examples(log, drawn, first[drawn], second[drawn]),
        examples(log, tested, second[tested], log.stop[tested]),
        _too_short(log),
    )


SPLITS: Registry[SplitStrategy] = Registry(
    "split",
    {
        "leave_one_out": leave_one_out,
        "time": by_time,
        "time_each": by_each_event,
        "sequence_time": by_sequence_time,
        "ratio": by_ratio,
        "ratio_each": functools.partial(by_ratio, each=True),
        "parts": by_parts,
        "parts_each": by_each_event_of_parts,
    },
)


def split_sequences(name: str, log: EventLog, options: SplitOptions) -> Split:
    """Splits a log by the strategy `name`.

    Raises ValueError if there is no such strategy, or if it would train on the source's test file.
    """
    strategy = SPLITS.find(name, "config.data.split")
    check_source_split(name, log.source_split)
    return strategy(log, options)


def _required_source_split(log: EventLog) -> Int[np.ndarray, " S"]:
    """Returns 1 for the sequences of the source's test file, 0 for the others.

    Raises ValueError if the source has no test file.
    """
    if log.source_split is None:
        raise ValueError(
            "config.data.split='parts' needs a data set with a test file of its own; "
            "this one has none: try leave_one_out."
        )
    return log.source_split


def _short_tests(log: EventLog, source_split: Int[np.ndarray, " S"]) -> dict[str, int]:
    """Returns the number of sequences of the source's test file that have no history."""
    return {"test sequences of one event": int(((source_split == 1) & (log.length < 2)).sum())}


def _too_short(log: EventLog) -> dict[str, int]:
    """Returns the number of sequences that are too short for a test or a validation."""
    return {
        "sequences too short for a test": int((log.length < 2).sum()),
        "sequences too short for a validation item": int((log.length < 3).sum()),
    }


def _shares(
    log: EventLog, options: SplitOptions
) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"]]:
    """Returns the first event of the validation and of the test of each sequence.

    Shares are rounded down, but have at least one event. Of two events the last is the test; a
    sequence of one event has neither.
    """
    tested = np.maximum((log.length * options.test_share).astype(np.int64), 1)
    tested = np.where(log.length >= 2, tested, 0)
    validated = np.maximum((log.length * options.validation_share).astype(np.int64), 1)
    validated = np.where(log.length >= 3, validated, 0) if options.validation_share else 0 * tested
    second = log.stop - tested
    return second - validated, second
