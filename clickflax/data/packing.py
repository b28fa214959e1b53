"""Packing: windows of different lengths share rows of one length."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Packing(NamedTuple):
    """Slots for windows, in the order of the rows."""

    offsets: Int[np.ndarray, " bounds"]  # slots of row r: offsets[r] to offsets[r + 1]
    length: Int[np.ndarray, " W"]  # tokens of each slot

    @property
    def rows(self) -> int:
        """Number of rows that hold every window once."""
        return len(self.offsets) - 1


def pack(lengths: Int[np.ndarray, " W"], capacity: int) -> Packing:
    """Packs windows by best-fit decreasing (Johnson, 1974).

    It works on the histogram of the lengths, and fills all rows that are equally full at once: ten
    million windows take a second or two. Raises ValueError for a window that is longer than a row.
    """
    if len(lengths) and (lengths.min() < 1 or lengths.max() > capacity):
        raise ValueError(
            f"Windows of {lengths.min()} to {lengths.max()} tokens in rows of {capacity}."
        )
    # Rows by the number of free tokens.
    rows_with: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]
    slot_rows, slot_lengths, rows = [], [], 0
    counts = np.bincount(lengths, minlength=capacity + 1)
    for length in range(capacity, 0, -1):
        left = int(counts[length])
        free = length
        while left:
            if free > capacity:  # no open row has space
                new_rows = -(-left // (capacity // length))
                rows_with[capacity].append(np.arange(rows, rows + new_rows))
                rows += new_rows
                free = capacity
            if not rows_with[free]:
                free += 1
                continue
            open_rows = np.concatenate(rows_with[free])
            taken, rest = open_rows[:left], open_rows[left:]
            rows_with[free] = [rest] if len(rest) else []
            rows_with[free - length].append(taken)
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
    """Returns one row for each window."""
    return Packing(np.arange(len(lengths) + 1), lengths.astype(np.int64))


def deal(
    packing: Packing, lengths: Int[np.ndarray, " W"], chance: np.random.Generator | None = None
) -> Int[np.ndarray, " W"]:
    """Returns the window in each slot, one of the slot's length; at random with `chance`."""
    keys = (lengths,) if chance is None else (chance.random(len(lengths)), lengths)
    dealt = np.empty(len(lengths), np.int64)
    dealt[np.argsort(packing.length, kind="stable")] = np.lexsort(keys)
    return dealt


def slots_of(packing: Packing, rows: Int[np.ndarray, " N"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the slots of these rows, and the index in `rows` of each slot's row."""
    count = packing.offsets[rows + 1] - packing.offsets[rows]
    slots = np.repeat(packing.offsets[rows], count) + ramp(count)
    return slots, np.repeat(np.arange(len(rows)), count)


def lay_out(packing: Packing, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the slot at each column of each row [R, L], -1 for none, and the position in it."""
    row = np.repeat(np.arange(packing.rows), np.diff(packing.offsets))
    cell = token_cells(row, packing.length, row_length)
    slot = np.full(packing.rows * row_length, -1, np.int32)
    position = np.zeros(packing.rows * row_length, np.int32)
    slot[cell] = np.repeat(np.arange(len(row)), packing.length)
    position[cell] = ramp(packing.length)
    return slot.reshape(-1, row_length), position.reshape(-1, row_length)


def token_cells(
    row: Int[np.ndarray, " N"], tokens: Int[np.ndarray, " N"], row_length: int
) -> Int[np.ndarray, " T"]:
    """Returns the index of each token in the flattened rows [R * L].

    Sequence n has `tokens[n]` tokens and is in row `row[n]`, after those before it; `row` ascends.
    """
    before = np.cumsum(tokens) - tokens
    column = before - before[np.searchsorted(row, row)]
    return np.repeat(row * row_length + column, tokens) + ramp(tokens)


def ramp(lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " T"]:
    """Returns 0, 1, ..., length - 1 for each length, concatenated."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
