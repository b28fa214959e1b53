"""Shared types and functions of the splits: logs, examples, validation users, moments."""

import datetime
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.packing import ramp

# The draw of validation users belongs to the protocol: runs of other seeds get the same users.
VALIDATION_SEED = 0


class EventLog(NamedTuple):
    """The E events of S sequences, as a split sees them.

    `item` has the values to predict, which may be another variable than the item; a reserved id is
    no target. `source_split` is 1 for the sequences of the source's test file and 0 for the others.
    The sessions are the events between two of `session_bounds`.
    """

    offsets: Int[np.ndarray, " bounds"]
    item: Int[np.ndarray, " E"]
    time: Int[np.ndarray, " E"] | None = None  # microseconds since 1970
    source_split: Int[np.ndarray, " S"] | None = None
    session_bounds: Int[np.ndarray, " session_bounds"] | None = None

    @property
    def start(self) -> Int[np.ndarray, " S"]:
        """First event of each sequence."""
        return self.offsets[:-1]

    @property
    def stop(self) -> Int[np.ndarray, " S"]:
        """End of each sequence: the event after its last one."""
        return self.offsets[1:]

    @property
    def length(self) -> Int[np.ndarray, " S"]:
        """Number of events of each sequence."""
        return np.diff(self.offsets)


class Examples(NamedTuple):
    """Histories, and the items to predict after each.

    Target t is an item of example `owner[t]`; `owner` ascends.
    """

    sequence: Int[np.ndarray, " U"]
    history: Windows
    targets: Int[np.ndarray, " T"]
    owner: Int[np.ndarray, " T"]

    def __len__(self) -> int:
        return len(self.sequence)


class Split(NamedTuple):
    """Ranges of events to train on, examples, and the number of what was dropped by reason."""

    train: Windows
    validation: Examples
    test: Examples
    dropped: dict[str, int]


class SplitOptions(NamedTuple):
    """The knobs of `config.data` that splits read."""

    validation_users: int
    validation_from: str
    test_from: str
    validation_share: float = 0.0
    test_share: float = 0.0
    test_until: str = ""


SplitStrategy = Callable[[EventLog, SplitOptions], Split]


def next_item(
    log: EventLog, sequence: Int[np.ndarray, " U"], event: Int[np.ndarray, " U"]
) -> Examples:
    """Returns examples whose target is the item of one event, after all earlier events."""
    targets = np.asarray(log.item[event], np.int64)
    return Examples(
        sequence, Windows(log.start[sequence], event), targets, np.arange(len(sequence))
    )


def each_next_item(
    log: EventLog,
    sequence: Int[np.ndarray, " N"],
    begin: Int[np.ndarray, " N"],
    end: Int[np.ndarray, " N"],
) -> Examples:
    """Returns an example as of `next_item` for each event from `begin` to `end` of a sequence."""
    count = end - begin
    event = np.repeat(begin, count) + ramp(count)
    return next_item(log, np.repeat(sequence, count), event)


def next_items(
    log: EventLog,
    sequence: Int[np.ndarray, " U"],
    begin: Int[np.ndarray, " U"],
    end: Int[np.ndarray, " U"],
) -> Examples:
    """Returns examples whose targets are the distinct items of the events from `begin` to `end`."""
    count = end - begin
    owner = np.repeat(np.arange(len(sequence)), count)
    targets = np.asarray(log.item[np.repeat(begin, count) + ramp(count)], np.int64)
    pairs = np.unique(np.stack([owner, targets], 1), axis=0)
    return Examples(sequence, Windows(log.start[sequence], begin), pairs[:, 1], pairs[:, 0])


def draw_validation_users(
    log: EventLog,
    options: SplitOptions,
    candidates: Int[np.ndarray, " C"],
    begin: Int[np.ndarray, " C"],
    end: Int[np.ndarray, " C"],
) -> Int[np.ndarray, " U"]:
    """Returns `validation_users` of the candidates at random, or all for -1, in their order.

    Candidates are sequences or events; only those with a target among the events from `begin` to
    `end` are drawn. Raises ValueError for a number below -1.
    """
    wanted = options.validation_users
    if wanted < -1:
        raise ValueError(
            f"config.data.validation_users={wanted}: name a number, -1 for all, 0 for none."
        )
    targets_before = np.append(0, np.cumsum(log.item >= RESERVED))
    candidates = candidates[targets_before[end] > targets_before[begin]]
    if wanted == -1 or wanted >= len(candidates):
        return candidates
    chance = np.random.default_rng(VALIDATION_SEED)
    return np.sort(chance.choice(candidates, wanted, replace=False))


def events_inside(ranges: Windows, events: int) -> Bool[np.ndarray, " E"]:
    """Returns a mask of the events that lie in one of the ranges, which do not overlap."""
    some = ranges.stop > ranges.start
    edges = np.zeros(events + 1, np.int8)
    edges[ranges.start[some]] += 1
    edges[ranges.stop[some]] -= 1
    return np.cumsum(edges[:-1], dtype=np.int8).astype(bool)


def is_cold_target(
    train: Windows, examples: Examples, item: Int[np.ndarray, " E"]
) -> Bool[np.ndarray, " T"]:
    """Returns a mask of the targets that are items without training events."""
    return ~np.isin(examples.targets, np.unique(item[events_inside(train, len(item))]))


def check_source_split(name: str, source_split: Int[np.ndarray, " S"] | None) -> None:
    """Raises ValueError if the split `name` would train on the source's test file."""
    if name.startswith("parts") or source_split is None:
        return
    if (source_split == 1).any():
        raise ValueError(
            f"config.data.split={name!r} would train on the test file of this data set: set "
            "config.data.split='parts'."
        )


def parse_moment(text: str, knob: str, time: Int[np.ndarray, " E"]) -> int:
    """Parses an ISO time, UTC by default, or a share of the log such as 5/6.

    Returns microseconds since 1970. The moment of 5/6 is the time of the first event after five
    sixths of all events, in the order of time.
    """
    share = re.fullmatch(r"(\d+)/(\d+)", text)
    if share and 0 < int(share[1]) < int(share[2]):
        nth = len(time) * int(share[1]) // int(share[2])
        return int(np.partition(time, nth)[nth])
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{knob}={text!r} is neither a time such as 2015-09-01 or 2015-09-01T12:00:00 nor a "
            "share of the log such as 5/6."
        ) from None
    when = when if when.tzinfo else when.replace(tzinfo=datetime.UTC)
    return round(when.timestamp() * 1_000_000)


def required_times(time: Int[np.ndarray, " E"] | None) -> Int[np.ndarray, " E"]:
    """Returns the times of the events. Raises ValueError if the data set has none."""
    if time is None:
        raise ValueError("a split by time needs a data set with times; this one has only an order.")
    return np.asarray(time)


def split_moments(time: Int[np.ndarray, " E"], options: SplitOptions) -> tuple[int, int, int]:
    """Returns the start of the validation, and the start and the end of the test.

    They are microseconds since 1970. Raises ValueError if they are not in this order.
    """
    first = parse_moment(options.validation_from, "config.data.validation_from", time)
    second = parse_moment(options.test_from, "config.data.test_from", time)
    if second < first:
        raise ValueError("config.data.test_from is before config.data.validation_from.")
    if not options.test_until:
        return first, second, np.iinfo(np.int64).max
    end = parse_moment(options.test_until, "config.data.test_until", time)
    if end <= second:
        raise ValueError(
            "config.data.test_until is not after config.data.test_from: the test would be empty."
        )
    return first, second, end


def end_before(log: EventLog, time: Int[np.ndarray, " E"], moment: int) -> Int[np.ndarray, " S"]:
    """Returns the end of the events of each sequence that are before a moment."""
    earlier = np.concatenate([[0], np.cumsum(time < moment)])
    return log.start + np.diff(earlier[log.offsets])
