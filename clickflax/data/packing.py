"""Windows of different lengths side by side in rows of one: which row each is packed into."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Packing(NamedTuple):
    """Slots for windows, in the order of the rows they lie in."""

    offsets: Int[np.ndarray, " bounds"]  # slots of row r: offsets[r] to offsets[r + 1]
    length: Int[np.ndarray, " W"]  # tokens of each slot

    @property
    def rows(self) -> int:
        """Rows that it takes to hold every window once."""
        return len(self.offsets) - 1


def pack(lengths: Int[np.ndarray, " W"], capacity: int) -> Packing:
    """Best-fit decreasing (Johnson, 1974), on the histogram of the lengths: all rows that are
    equally full are filled at once, so ten million windows take a second or two.
    """
    if len(lengths) and (lengths.min() < 1 or lengths.max() > capacity):
        raise ValueError(
            f"Windows of {lengths.min()} to {lengths.max()} tokens in rows of {capacity}."
        )
    room: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]  # rows by tokens that are free
    slot_rows, slot_lengths, rows = [], [], 0
    counts = np.bincount(lengths, minlength=capacity + 1)
    for length in range(capacity, 0, -1):
        left = int(counts[length])
        free = length
        while left:
            if free > capacity:  # no open row has room
                room[capacity].append(np.arange(rows, rows + -(-left // (capacity // length))))
                rows += len(room[capacity][-1])
                free = capacity
            if not room[free]:
                free += 1
                continue
            open_rows = np.concatenate(room[free])
            taken, rest = open_rows[:left], open_rows[left:]
            room[free] = [rest] if len(rest) else []
            room[free - length].append(taken)
            slot_rows.append(taken)
            slot_lengths.append(np.full(len(taken), length))
            left -= len(taken)
            free = max(length, free - length)
    if not rows:
        return Packing(np.zeros(1, np.int64), np.zeros(0, np.int64))
    row, length = np.concatenate(slot_rows), np.concatenate(slot_lengths)
    order = np.argsort(row, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])
    return Packing(offsets, length[order])


def one_each(lengths: Int[np.ndarray, " W"]) -> Packing:
    """A row for every window."""
    return Packing(np.arange(len(lengths) + 1), lengths.astype(np.int64))


def deal(
    packing: Packing, lengths: Int[np.ndarray, " W"], chance: np.random.Generator | None = None
) -> Int[np.ndarray, " W"]:
    """The window of each slot: windows of a length go to the slots of that length, by `chance`."""
    keys = (lengths,) if chance is None else (chance.random(len(lengths)), lengths)
    dealt = np.empty(len(lengths), np.int64)
    dealt[np.argsort(packing.length, kind="stable")] = np.lexsort(keys)
    return dealt


def slots_of(packing: Packing, rows: Int[np.ndarray, " N"]) -> tuple[np.ndarray, np.ndarray]:
    """The slots of these rows, and for each slot which of the rows it is in."""
    count = packing.offsets[rows + 1] - packing.offsets[rows]
    slots = np.repeat(packing.offsets[rows], count) + ramp(count)
    return slots, np.repeat(np.arange(len(rows)), count)


def lay_out(packing: Packing, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """The slot (-1: none) at every place of every row [R, L], and the place in that slot [R, L]."""
    row = np.repeat(np.arange(packing.rows), np.diff(packing.offsets))
    cell = token_cells(row, packing.length, row_length)
    slot = np.full(packing.rows * row_length, -1, np.int32)
    place = np.zeros(packing.rows * row_length, np.int32)
    slot[cell] = np.repeat(np.arange(len(row)), packing.length)
    place[cell] = ramp(packing.length)
    return slot.reshape(-1, row_length), place.reshape(-1, row_length)


def token_cells(
    row: Int[np.ndarray, " N"], tokens: Int[np.ndarray, " N"], row_length: int
) -> Int[np.ndarray, " T"]:
    """The place, counted through all rows, of every token of sequences that stand side by side in
    the rows `row`, which ascend.
    """
    before = np.cumsum(tokens) - tokens
    column = before - before[np.searchsorted(row, row)]
    return np.repeat(row * row_length + column, tokens) + ramp(tokens)


def ramp(lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " T"]:
    """0, 1, ..., length - 1 for each length, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
