"""Which events stay: sessions, repeats, k-core and lengths, over events in their order.

The events of sequence s are offsets[s]:offsets[s+1]; `keep` has a bool for each event. Everything
goes block by block of whole sequences, so that memory is the columns and little more.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Int32, Int64

BLOCK = 1 << 22  # events
Ids = Mapping[str, Int32[np.ndarray, "E ..."]]


def cut_sessions(
    offsets: Int64[np.ndarray, " bounds"], time: Int64[np.ndarray, " E"], gap: int
) -> Int64[np.ndarray, " more_bounds"]:
    """Offsets with a bound more at each pause longer than `gap` microseconds."""
    bounds = [offsets]
    for first in range(1, len(time), BLOCK):
        pauses = np.diff(time[first - 1 : first + BLOCK])
        bounds.append(np.flatnonzero(pauses > gap) + first)
    return np.unique(np.concatenate(bounds))


def survivors(
    offsets: Int64[np.ndarray, " bounds"],
    ids: Ids,
    *,
    merge: bool = False,
    rarest: int = 1,
    shortest: int = 1,
    longest: int | None = None,
) -> tuple[Bool[np.ndarray, " E"], dict[str, int]]:
    """Drops events until every rule holds for what is left; the bools, and the drops by reason.

    In a round, in this order: events that repeat all ids of the event before them, items of fewer
    than `rarest` events, sequences of fewer than `shortest`, all but the `longest` last events.
    Without the first and the last rule this is the k-core, which no order of dropping changes.
    """
    keep = np.ones(offsets[-1], dtype=bool)
    rules: dict[str, Callable[[], None]] = {}
    if merge:
        rules["repeats the event before it"] = functools.partial(drop_repeats, offsets, keep, ids)
    if rarest > 1:
        rules[f"item of fewer than {rarest} events"] = functools.partial(
            drop_rare, offsets, keep, ids["item"], rarest
        )
    if shortest > 1:
        rules[f"sequence of fewer than {shortest} events"] = functools.partial(
            drop_short, offsets, keep, shortest
        )
    if longest is not None:
        rules[f"before the last {longest} events"] = functools.partial(
            drop_old, offsets, keep, longest
        )
    dropped = dict.fromkeys(rules, 0)
    kept, before = len(keep), -1
    while kept != before and rules:
        before = kept
        for reason, rule in rules.items():
            rule()
            left = int(np.count_nonzero(keep))
            dropped[reason] += kept - left
            kept = left
    return keep, dropped


@dataclasses.dataclass(frozen=True)
class Block:
    """Some whole sequences: their numbers, where their events are, and lengths."""

    sequences: slice
    events: slice
    lengths: Int64[np.ndarray, " N"]

    def each(self) -> Int64[np.ndarray, " n"]:
        """The number, within the block, of each event's sequence."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def blocks(offsets: Int64[np.ndarray, " bounds"]) -> Iterator[Block]:
    """All sequences in blocks of about BLOCK events."""
    first, sequences = 0, len(offsets) - 1
    while first < sequences:
        last = int(np.searchsorted(offsets, offsets[first] + BLOCK, side="right")) - 1
        last = min(max(last, first + 1), sequences)
        yield Block(
            slice(first, last),
            slice(int(offsets[first]), int(offsets[last])),
            np.diff(offsets[first : last + 1]),
        )
        first = last


def drop_repeats(offsets: np.ndarray, keep: np.ndarray, ids: Ids) -> None:
    """Drops a kept event that has all ids of the kept event before it in its sequence."""
    for block in blocks(offsets):
        kept = np.flatnonzero(keep[block.events])
        of = block.each()[kept]
        same = of[1:] == of[:-1]
        for column in ids.values():
            values = column[block.events][kept]
            equal = values[1:] == values[:-1]
            same &= equal if equal.ndim == 1 else equal.all(axis=1)
        keep[block.events][kept[1:][same]] = False


def drop_rare(offsets: np.ndarray, keep: np.ndarray, item: np.ndarray, least: int) -> None:
    """Drops events of items that have fewer than `least` kept events."""
    rare = count_ids(offsets, keep, item) < least
    for block in blocks(offsets):
        keep[block.events] &= ~rare[item[block.events]]


def drop_short(offsets: np.ndarray, keep: np.ndarray, least: int) -> None:
    """Drops sequences that have fewer than `least` kept events."""
    short = count_kept(offsets, keep) < least
    for block in blocks(offsets):
        keep[block.events] &= ~np.repeat(short[block.sequences], block.lengths)


def drop_old(offsets: np.ndarray, keep: np.ndarray, most: int) -> None:
    """Drops all but the last `most` kept events of each sequence."""
    for block in blocks(offsets):
        count = np.cumsum(keep[block.events])
        total = count[np.cumsum(block.lengths) - 1]
        keep[block.events] &= np.repeat(total, block.lengths) - count < most


def count_kept(
    offsets: Int64[np.ndarray, " bounds"], keep: Bool[np.ndarray, " E"]
) -> Int64[np.ndarray, " S"]:
    """Kept events of each sequence."""
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    for block in blocks(offsets):
        starts = offsets[block.sequences] - block.events.start
        counts[block.sequences] = np.add.reduceat(keep[block.events], starts, dtype=np.int64)
    return counts


def count_ids(
    offsets: Int64[np.ndarray, " bounds"],
    keep: Bool[np.ndarray, " E"],
    column: Int32[np.ndarray, "E ..."],
) -> Int64[np.ndarray, " V"]:
    """Kept events of each id, from 0 to the largest id of all events, kept or not."""
    counts = np.zeros(0, dtype=np.int64)
    for block in blocks(offsets):
        kept = np.repeat(keep[block.events], math.prod(column.shape[1:]))
        more = np.bincount(column[block.events].ravel(), weights=kept).astype(np.int64)
        counts, more = sorted((counts, more), key=len)
        more[: len(counts)] += counts
        counts = more
    return counts


def count_shared_times(offsets: Int64[np.ndarray, " bounds"], time: Int64[np.ndarray, " E"]) -> int:
    """Events that share their time with another one of their sequence."""
    shared = 0
    for block in blocks(offsets):
        of, values = block.each(), time[block.events]
        same = np.concatenate([[False], (np.diff(values) == 0) & (np.diff(of) == 0), [False]])
        shared += int(np.count_nonzero(same[1:] | same[:-1]))
    return shared
