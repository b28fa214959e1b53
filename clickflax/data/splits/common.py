"""What is trained on, and which histories are asked about, in words that all splits share."""

import datetime
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.packing import ramp

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
    validation_share: float = 0.0
    test_share: float = 0.0
    test_until: str = ""


def next_one(
    sequence: Int[np.ndarray, " U"],
    start: Int[np.ndarray, " U"],
    stop: Int[np.ndarray, " U"],
    item: Int[np.ndarray, " E"],
) -> Examples:
    """Histories from `start` to `stop`, whose only target is the item at `stop`."""
    targets = np.asarray(item[stop], np.int64)
    return Examples(sequence, Windows(start, stop), targets, np.arange(len(sequence)))


def draw_validation_users(
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


def events_inside(ranges: Windows, events: int) -> Bool[np.ndarray, " E"]:
    """Which events lie in one of the ranges, which do not overlap."""
    some = ranges.stop > ranges.start
    edges = np.zeros(events + 1, np.int8)
    edges[ranges.start[some]] += 1
    edges[ranges.stop[some]] -= 1
    return np.cumsum(edges[:-1], dtype=np.int8).astype(bool)


def is_cold_target(
    train: Windows, examples: Examples, item: Int[np.ndarray, " E"]
) -> Bool[np.ndarray, " T"]:
    """Which targets are items that no training event has."""
    return ~np.isin(examples.targets, np.unique(item[events_inside(train, len(item))]))


def check_part(name: str, part: Int[np.ndarray, " S"] | None) -> None:
    """Refuses to train on the source's own test file."""
    if not name.startswith("parts") and part is not None and (part == 1).any():
        raise ValueError(
            f"data.split={name!r} would train on the test file that this data set has: "
            "take data.split='parts'."
        )


def parse_moment(text: str, knob: str, time: Int[np.ndarray, " E"]) -> int:
    """Microseconds since 1970 of an ISO time, UTC unless it says otherwise; or of a share of the
    log, such as 5/6: that of the first event after so many of all, in the order of their times.
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


def split_moments(
    columns: Mapping[str, Shaped[np.ndarray, " E"]], options: SplitOptions
) -> tuple[int, int, int]:
    """When the validation and the test begin, and the test ends, in microseconds since 1970."""
    if "time" not in columns:
        raise ValueError("a split by time needs a data set with times; this one has only an order.")
    time = np.asarray(columns["time"])
    first = parse_moment(options.validation_from, "data.validation_from", time)
    second = parse_moment(options.test_from, "data.test_from", time)
    if second < first:
        raise ValueError("data.test_from is before data.validation_from.")
    if not options.test_until:
        return first, second, np.iinfo(np.int64).max
    end = parse_moment(options.test_until, "data.test_until", time)
    if end <= second:
        raise ValueError("data.test_until is not after data.test_from: the test would be empty.")
    return first, second, end
