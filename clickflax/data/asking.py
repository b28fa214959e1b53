"""Packed rows of histories for which an answer is wanted: evaluation and recommendation."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from clickflax.data.batches import Windows, deal, fill, one_each, pack, ramp, slots_of
from clickflax.events import Batch


class Asked(NamedTuple):
    """Groups of rows, and where in them the answers stand.

    Answer a of group g belongs to `example[g, a]` (-1: to none) and stands in row `row[g, a]` of
    the group, at `column[g, a]`. Every batch has the same shapes.
    """

    batch: Batch  # each array [G, M, L]
    row: Int[np.ndarray, "G A"]
    column: Int[np.ndarray, "G A"]
    example: Int[np.ndarray, "G A"]


def group_answers(
    row: Int[np.ndarray, " N"],
    column: Int[np.ndarray, " N"],
    example: Int[np.ndarray, " N"],
    groups: int,
    group_rows: int,
    answers: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The answers of each group of rows side by side, filled up with -1 as example."""
    group = row // group_rows
    place = np.arange(len(row)) - np.searchsorted(group, group)
    shape = (groups, answers)
    rows, columns, examples = np.zeros(shape, int), np.zeros(shape, int), np.full(shape, -1)
    rows[group, place] = row % group_rows
    columns[group, place] = column
    examples[group, place] = example
    return rows, columns, examples


def asking_batches(
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    history: Windows,
    *,
    max_len: int,
    packing: bool,
    position_from: str,
    ask: bool,
    groups: int,
    group_rows: int,
) -> Iterator[Asked]:
    """The last events of every history, once, in batches of `groups` x `group_rows` rows.

    With `ask` a MASK follows the history, for which a place is reserved: `max_len - 1` events of
    it are seen. The answer stands at the last place of a sequence.
    """
    start = np.maximum(history.start, history.stop - max_len + ask)
    lengths = history.stop - start + ask
    plan = pack(lengths, max_len) if packing else one_each(lengths)
    dealt = deal(plan, lengths)
    # Long rows come first out of the packing: spread them, so that groups have alike many answers.
    order = np.random.default_rng(0).permutation(plan.rows)
    rows = groups * group_rows
    per_row = np.diff(plan.offsets)[order]
    per_group = np.add.reduceat(per_row, np.arange(0, plan.rows, group_rows))
    answers = int(per_group.max())
    if plan.rows <= rows:  # a question or two, whose shapes should be those of the next ones
        answers = 1 << (answers - 1).bit_length()
    for first in range(0, plan.rows, rows):
        slots, row = slots_of(plan, order[first : first + rows])
        example = dealt[slots]
        windows = Windows(start[example], history.stop[example])
        batch = fill(columns, windows, row, (rows, max_len), position_from=position_from, ask=ask)
        ends = np.cumsum(lengths[example])
        before = np.concatenate([[0], ends])[np.searchsorted(row, row)]
        places = group_answers(row, ends - before - 1, example, groups, group_rows, answers)
        shape = (groups, group_rows, max_len)
        yield Asked(
            Batch(
                {name: ids.reshape(shape) for name, ids in batch.variables.items()},
                batch.segment.reshape(shape),
                batch.position.reshape(shape),
                {},
            ),
            *places,
        )


def distinct_items(
    item: Int[np.ndarray, " E"], history: Windows
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " bounds"]]:
    """The different items of each whole history, and where those of a history begin and end."""
    count = history.stop - history.start
    owner = np.repeat(np.arange(len(count)), count)
    items = item[np.repeat(history.start, count) + ramp(count)].astype(np.int64)
    size = int(items.max(initial=0)) + 1
    pairs = np.unique(owner * size + items)
    bounds = np.searchsorted(pairs, np.arange(len(count) + 1) * size)
    return pairs % size, bounds


def seen_items(
    item: Int[np.ndarray, " E"], history: Windows, example: Int[np.ndarray, "G A"]
) -> Int[np.ndarray, "G A H"]:
    """The different items of the whole history of each example, filled up with -1.

    The width is a power of four, so that few of them have to be compiled.
    """
    present, place = np.unique(example, return_inverse=True)
    some = Windows(history.start[present], history.stop[present])
    if present[0] < 0:
        some.stop[0] = some.start[0]  # nobody has seen nothing
    values, bounds = distinct_items(item, some)
    width = 16
    while width < np.diff(bounds).max():
        width *= 4
    return pad_lists(values, bounds, place.reshape(example.shape), width)


def count_repeats(
    item: Int[np.ndarray, " E"],
    history: Windows,
    targets: Int[np.ndarray, " T"],
    owner: Int[np.ndarray, " T"],
    at_once: int = 10_000,
) -> int:
    """How many targets their own history has already, counted for `at_once` histories at a time."""
    repeats = 0
    for first in range(0, len(history.start), at_once):
        some = slice(first, first + at_once)
        values, bounds = distinct_items(item, Windows(history.start[some], history.stop[some]))
        mine = (owner >= first) & (owner < first + at_once)
        size = int(max(values.max(initial=0), targets.max(initial=0))) + 1
        seen = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)) * size + values
        repeats += int(np.isin((owner[mine] - first) * size + targets[mine], seen).sum())
    return repeats


def pad_lists(
    values: Int[np.ndarray, " N"],
    offsets: Int[np.ndarray, " bounds"],
    example: Int[np.ndarray, "G A"],
    width: int,
) -> Int[np.ndarray, "G A W"]:
    """The list of each example, filled up with -1; an empty one for example -1."""
    flat = example.ravel()
    begin = np.where(flat >= 0, offsets[flat], 0)
    count = np.where(flat >= 0, offsets[flat + 1] - begin, 0)
    column = np.arange(width)[None]
    inside = column < count[:, None]
    picked = values[np.where(inside, begin[:, None] + column, 0)] if len(values) else -1
    return np.where(inside, picked, -1).reshape(*example.shape, width)
