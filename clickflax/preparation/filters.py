"""Filters of sorted events: sessions, repeats, k-core and lengths.

The events of sequence s are offsets[s]:offsets[s+1]; `keep` has a bool for each event. Filters work
on blocks of whole sequences, so that memory is that of the columns and little more.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Int32, Int64

EVENTS_PER_BLOCK = 1 << 22
Ids = Mapping[str, Int32[np.ndarray, "E ..."]]


def cut_sessions(
    offsets: Int64[np.ndarray, " bounds"], time: Int64[np.ndarray, " E"], gap: int
) -> Int64[np.ndarray, " more_bounds"]:
    """Returns offsets with a new bound at each pause longer than `gap` microseconds."""
    bounds = [offsets]
    for first in range(1, len(time), EVENTS_PER_BLOCK):
        pauses = np.diff(time[first - 1 : first + EVENTS_PER_BLOCK])
        bounds.append(np.flatnonzero(pauses > gap) + first)
    return np.unique(np.concatenate(bounds))


def filter_events(
    offsets: Int64[np.ndarray, " bounds"],
    ids: Ids,
    *,
    merge_repeats: bool = False,
    min_item_events: int = 1,
    min_sequence_events: int = 1,
    max_sequence_events: int | None = None,
) -> tuple[Bool[np.ndarray, " E"], dict[str, int]]:
    """Drops events until every rule holds; returns which are kept, and the drops by reason.

    Each round applies the rules in this order: merge events that repeat all ids of the event before
    them, drop rare items, drop short sequences, keep the last events of long sequences. Without the
    first and the last rule the result is the k-core, which does not depend on the order.
    """
    keep = np.ones(offsets[-1], dtype=bool)
    rules: dict[str, Callable[[], None]] = {}
    if merge_repeats:
        rules["repeats the event before it"] = functools.partial(drop_repeats, offsets, keep, ids)
    if min_item_events > 1:
        rules[f"item of fewer than {min_item_events} events"] = functools.partial(
            drop_rare_items, offsets, keep, ids["item"], min_item_events
        )
    if min_sequence_events > 1:
        rules[f"sequence of fewer than {min_sequence_events} events"] = functools.partial(
            drop_short_sequences, offsets, keep, min_sequence_events
        )
    if max_sequence_events is not None:
        rules[f"before the last {max_sequence_events} events"] = functools.partial(
            drop_early_events, offsets, keep, max_sequence_events
        )
    dropped = dict.fromkeys(rules, 0)
    kept = len(keep)
    changed = bool(rules)
    while changed:
        kept_before_round = kept
        for reason, rule in rules.items():
            rule()
            left = int(np.count_nonzero(keep))
            dropped[reason] += kept - left
            kept = left
        changed = kept != kept_before_round
    return keep, dropped


@dataclasses.dataclass(frozen=True)
class SequenceBlock:
    """Consecutive whole sequences: their numbers, their events, and their lengths."""

    sequences: slice
    events: slice
    lengths: Int64[np.ndarray, " N"]

    def sequence_of_event(self) -> Int64[np.ndarray, " n"]:
        """Returns the number of each event's sequence within the block."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def sequence_blocks(offsets: Int64[np.ndarray, " bounds"]) -> Iterator[SequenceBlock]:
    """Yields all sequences in blocks of about EVENTS_PER_BLOCK events."""
    first = 0
    sequences = len(offsets) - 1
    while first < sequences:
        end = offsets[first] + EVENTS_PER_BLOCK
        last = int(np.searchsorted(offsets, end, side="right")) - 1
        last = min(max(last, first + 1), sequences)
        yield SequenceBlock(
            slice(first, last),
            slice(int(offsets[first]), int(offsets[last])),
            np.diff(offsets[first : last + 1]),
        )
        first = last


def drop_repeats(offsets: np.ndarray, keep: np.ndarray, ids: Ids) -> None:
    """Drops each kept event with the ids of the kept event before it in its sequence."""
    for block in sequence_blocks(offsets):
        kept = np.flatnonzero(keep[block.events])
        sequence = block.sequence_of_event()[kept]
        same = sequence[1:] == sequence[:-1]
        for column in ids.values():
            values = column[block.events][kept]
            equal = values[1:] == values[:-1]
            same &= equal if equal.ndim == 1 else equal.all(axis=1)
        keep[block.events][kept[1:][same]] = False


def drop_rare_items(offsets: np.ndarray, keep: np.ndarray, item: np.ndarray, minimum: int) -> None:
    """Drops the events of items with fewer than `minimum` kept events."""
    rare = count_ids(offsets, keep, item) < minimum
    for block in sequence_blocks(offsets):
        keep[block.events] &= ~rare[item[block.events]]


def drop_short_sequences(offsets: np.ndarray, keep: np.ndarray, minimum: int) -> None:
    """Drops the sequences with fewer than `minimum` kept events."""
    short = count_kept(offsets, keep) < minimum
    for block in sequence_blocks(offsets):
        keep[block.events] &= ~np.repeat(short[block.sequences], block.lengths)


def drop_early_events(offsets: np.ndarray, keep: np.ndarray, maximum: int) -> None:
    """Drops all but the last `maximum` kept events of each sequence."""
    for block in sequence_blocks(offsets):
        count = np.cumsum(keep[block.events])
        total = count[np.cumsum(block.lengths) - 1]
        keep[block.events] &= np.repeat(total, block.lengths) - count < maximum


def count_kept(
    offsets: Int64[np.ndarray, " bounds"], keep: Bool[np.ndarray, " E"]
) -> Int64[np.ndarray, " S"]:
    """Returns the number of kept events of each sequence."""
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    for block in sequence_blocks(offsets):
        starts = offsets[block.sequences] - block.events.start
        counts[block.sequences] = np.add.reduceat(keep[block.events], starts, dtype=np.int64)
    return counts


def count_ids(
    offsets: Int64[np.ndarray, " bounds"],
    keep: Bool[np.ndarray, " E"],
    column: Int32[np.ndarray, "E ..."],
) -> Int64[np.ndarray, " V"]:
    """Returns the number of kept events of each id, from 0 to the largest id of any event."""
    counts = np.zeros(0, dtype=np.int64)
    for block in sequence_blocks(offsets):
        kept = np.repeat(keep[block.events], math.prod(column.shape[1:]))
        more = np.bincount(column[block.events].ravel(), weights=kept).astype(np.int64)
        shorter, longer = sorted((counts, more), key=len)
        longer[: len(shorter)] += shorter
        counts = longer
    return counts


def count_shared_times(offsets: Int64[np.ndarray, " bounds"], time: Int64[np.ndarray, " E"]) -> int:
    """Returns the number of events whose time another event of their sequence has."""
    shared = 0
    for block in sequence_blocks(offsets):
        sequence = block.sequence_of_event()
        same_time = np.diff(time[block.events]) == 0
        same = np.concatenate([[False], same_time & (np.diff(sequence) == 0), [False]])
        shared += int(np.count_nonzero(same[1:] | same[:-1]))
    return shared
