"""What is trained on, and which histories are asked about: for validation and for the test."""

import datetime
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from clickflax.data.batches import Windows, ramp
from clickflax.events import RESERVED

# The draw of validation users belongs to the protocol: runs of other seeds get the same users.
VALIDATION_SEED = 0


class Examples(NamedTuple):
    """Histories, and the items that came after each.

    Target t is an item of example `owner[t]`; `owner` ascends.
    """

    sequence: Int[np.ndarray, " U"]
    history: Windows
    targets: Int[np.ndarray, " T"]
    owner: Int[np.ndarray, " T"]

    def __len__(self) -> int:
        return len(self.sequence)


class Split(NamedTuple):
    """Ranges of events to train on, examples, and a count of what fell out and why."""

    train: Windows
    validation: Examples
    test: Examples
    dropped: dict[str, int]


class SplitOptions(NamedTuple):
    """See `config.data`."""

    validation_users: int
    validation_from: str
    test_from: str


def next_one(
    sequence: Int[np.ndarray, " U"],
    start: Int[np.ndarray, " U"],
    stop: Int[np.ndarray, " U"],
    item: Int[np.ndarray, " E"],
) -> Examples:
    """Histories from `start` to `stop`, whose only target is the item at `stop`."""
    targets = np.asarray(item[stop], np.int64)
    return Examples(sequence, Windows(start, stop), targets, np.arange(len(sequence)))


def draw(
    candidates: Int[np.ndarray, " C"],
    start: Int[np.ndarray, " C"],
    stop: Int[np.ndarray, " C"],
    item: Int[np.ndarray, " E"],
    wanted: int,
) -> Int[np.ndarray, " U"]:
    """All the candidates for -1, else that many of them at random, in their order: of those that
    have a target, an item that is known and asked for, among their events from `start` to `stop`.
    """
    if wanted < -1:
        raise ValueError(f"data.validation_users={wanted}: name a number, -1 for all, 0 for none.")
    known = np.append(0, np.cumsum(item >= RESERVED))
    candidates = candidates[known[stop] > known[start]]
    if wanted == -1 or wanted >= len(candidates):
        return candidates
    chance = np.random.default_rng(VALIDATION_SEED)
    return np.sort(chance.choice(candidates, wanted, replace=False))


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
    chosen = draw(longer, target, target + 1, item, options.validation_users)
    held = np.where(length >= 2, 1, 0)
    held[chosen] = 2
    return Split(
        Windows(start, stop - held),
        next_one(chosen, start[chosen], stop[chosen] - 2, columns["item"]),
        next_one(tested, start[tested], stop[tested] - 1, columns["item"]),
        {
            "sequences too short for a test": int((length < 2).sum()),
            "sequences too short for a validation item": int((length < 3).sum()),
        },
    )


def by_parts(
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    part: Int[np.ndarray, " S"] | None,
    options: SplitOptions,
) -> Split:
    """The source's own test file: the last event of each of its sequences is the test.

    The last event of the training sequences that are drawn is the validation.
    """
    if part is None:
        raise ValueError(
            "data.split='parts' needs a data set with a test file of its own; "
            "this one has none: try leave_one_out."
        )
    start, stop = offsets[:-1], offsets[1:]
    length = stop - start
    tested = np.flatnonzero((part == 1) & (length >= 2))
    longer = np.flatnonzero((part == 0) & (length >= 2))
    target, item = stop[longer] - 1, columns["item"]
    chosen = draw(longer, target, target + 1, item, options.validation_users)
    held = np.zeros(len(length), np.int64)
    held[chosen] = 1
    trained = part == 0
    return Split(
        Windows(start[trained], (stop - held)[trained]),
        next_one(chosen, start[chosen], stop[chosen] - 1, columns["item"]),
        next_one(tested, start[tested], stop[tested] - 1, columns["item"]),
        {"test sequences of one event": int(((part == 1) & (length < 2)).sum())},
    )


def moment(text: str, knob: str) -> int:
    """Microseconds since 1970 of an ISO time, UTC unless it says otherwise."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{knob}={text!r} is not a time such as 2015-09-01 or 2015-09-01T12:00:00."
        ) from None
    time = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
    return round(time.timestamp() * 1_000_000)


def two_moments(
    columns: Mapping[str, Shaped[np.ndarray, " E"]], options: SplitOptions
) -> tuple[int, int]:
    """When the validation and the test begin, in microseconds since 1970."""
    if "time" not in columns:
        raise ValueError("a split by time needs a data set with times; this one has only an order.")
    first = moment(options.validation_from, "data.validation_from")
    second = moment(options.test_from, "data.test_from")
    if second < first:
        raise ValueError("data.test_from is before data.validation_from.")
    return first, second


def by_sequence_time(
    offsets: Int[np.ndarray, " bounds"],
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    part: Int[np.ndarray, " S"] | None,
    options: SplitOptions,
) -> Split:
    """Whole sequences, such as sessions, by the time at which they begin: the last event of one
    that begins in a period is its target. What has not ended before the next period is left out.
    """
    first, second = two_moments(columns, options)
    start, stop = offsets[:-1], offsets[1:]
    begins, ends = columns["time"][start], columns["time"][stop - 1]
    trained = ends < first
    validated = (begins >= first) & (ends < second)
    tested = begins >= second
    asks = stop - start >= 2
    longer = np.flatnonzero(validated & asks)
    target, item = stop[longer] - 1, columns["item"]
    chosen = draw(longer, target, target + 1, item, options.validation_users)
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
    first, second = two_moments(columns, options)
    start, stop = offsets[:-1], offsets[1:]
    earlier = np.concatenate([[0], np.cumsum(columns["time"] < first)])
    trained = start + earlier[stop] - earlier[start]
    earlier = np.concatenate([[0], np.cumsum(columns["time"] < second)])
    known = start + earlier[stop] - earlier[start]
    candidates = np.flatnonzero((trained > start) & (known > trained))
    begin, end, item = trained[candidates], known[candidates], columns["item"]
    chosen = draw(candidates, begin, end, item, options.validation_users)
    tested = np.flatnonzero((known > start) & (stop > known))
    return Split(
        Windows(start, trained),
        period(chosen, start[chosen], trained[chosen], known[chosen], item),
        period(tested, start[tested], known[tested], stop[tested], item),
        {
            "validation sequences without a history": int(
                ((trained == start) & (known > trained)).sum()
            ),
            "test sequences without a history": int(((known == start) & (stop > known)).sum()),
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
    first, second = two_moments(columns, options)
    time = columns["time"]
    sequence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    later, known = time >= first, np.arange(len(time)) > offsets[sequence]
    tested = np.flatnonzero(known & (time >= second))
    validated = np.flatnonzero(known & later & (time < second))
    start, item = offsets[sequence], columns["item"]
    drawn = draw(validated, validated, validated + 1, item, options.validation_users)
    earlier = np.concatenate([[0], np.cumsum(~later)])
    return Split(
        Windows(offsets[:-1], offsets[:-1] + np.diff(earlier[offsets])),
        next_one(sequence[drawn], start[drawn], drawn, item),
        next_one(sequence[tested], start[tested], tested, item),
        {"events without a history": int((later & ~known).sum())},
    )


def period(
    sequence: Int[np.ndarray, " U"],
    start: Int[np.ndarray, " U"],
    stop: Int[np.ndarray, " U"],
    end: Int[np.ndarray, " U"],
    item: Int[np.ndarray, " E"],
) -> Examples:
    """Histories from `start` to `stop`, whose targets are the different items until `end`."""
    count = end - stop
    owner = np.repeat(np.arange(len(sequence)), count)
    targets = np.asarray(item[np.repeat(stop, count) + ramp(count)], np.int64)
    pairs = np.unique(np.stack([owner, targets], 1), axis=0)
    return Examples(sequence, Windows(start, stop), pairs[:, 1], pairs[:, 0])


def inside(ranges: Windows, events: int) -> Bool[np.ndarray, " E"]:
    """Which events lie in one of the ranges, which do not overlap."""
    some = ranges.stop > ranges.start
    edges = np.zeros(events + 1, np.int8)
    edges[ranges.start[some]] += 1
    edges[ranges.stop[some]] -= 1
    return np.cumsum(edges[:-1], dtype=np.int8).astype(bool)


def cold_targets(
    train: Windows, examples: Examples, item: Int[np.ndarray, " E"]
) -> Bool[np.ndarray, " T"]:
    """Which targets are items that no training event has."""
    return ~np.isin(examples.targets, np.unique(item[inside(train, len(item))]))


SPLITS: dict[str, Callable[..., Split]] = {
    "leave_one_out": leave_one_out,
    "time": by_time,
    "time_each": by_each_event,
    "sequence_time": by_sequence_time,
    "parts": by_parts,
}


def split(
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


def check_part(name: str, part: Int[np.ndarray, " S"] | None) -> None:
    """Refuses to train on the source's own test file."""
    if name != "parts" and part is not None and (part == 1).any():
        raise ValueError(
            f"data.split={name!r} would train on the test file that this data set has: "
            "take data.split='parts'."
        )
