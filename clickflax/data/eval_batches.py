"""Packed rows of histories for which an answer is wanted: evaluation and recommendation."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from clickflax.batch import Batch
from clickflax.data.batches import BatchLayout, Query, Windows, fill_rows
from clickflax.data.packing import deal, ramp, slots_of


class EvalBatch(NamedTuple):
    """A batch of rows, shared out to S devices in G groups each, and where the answers stand.

    Sequence n of row m of group g ends at `last[g, m, n]`. Answer a belongs to `example[g, a]` (-1:
    to none), which is sequence `nth[g, a]` of row `row[g, a]` of the group. `seen` has pairs: an
    answer, counted through all the groups of the device, and the id of an item of its history;
    (-1, -1) fills up. Batches have the same shapes.
    """

    batch: Batch  # each array [S, G, M, L], or with several values an event behind L
    last: Int[np.ndarray, "S G M N"]
    row: Int[np.ndarray, "S G A"]
    nth: Int[np.ndarray, "S G A"]
    example: Int[np.ndarray, "S G A"]
    seen: Int[np.ndarray, "S N 2"]


class DeviceLayout(NamedTuple):
    """How the rows of a batch lie: M in each of the G groups of each of the S devices."""

    shards: int
    groups: int
    group_rows: int


def eval_batches(
    columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
    history: Windows,
    layout: BatchLayout,
    query: Query,
    devices: DeviceLayout,
    *,
    seen: bool,
) -> Iterator[EvalBatch]:
    """Yields the last events of every history, once, in batches of rows.

    CLS and the token of the query take the place of older events. The answer is read at the last
    position of a sequence. With `seen`, a batch has the items of the whole histories, else none.
    """
    added = int(layout.cls) + query.tokens
    start = np.maximum(history.start, history.stop - layout.max_len + added)
    lengths = history.stop - start + added
    packing = layout.pack(lengths)
    dealt = deal(packing, lengths)
    batches = -(-packing.rows // math.prod(devices))
    answers = np.diff(packing.offsets)
    rows = spread_rows(answers, batches, devices)
    most = largest_sum(answers, rows)
    deepest = int(answers.max())
    width = 0
    if seen:
        events = np.append(0, np.cumsum((history.stop - history.start)[dealt]))
        of_row = np.diff(events[packing.offsets])
        width = largest_sum(of_row, rows.reshape(batches, devices.shards, -1))
    if batches == 1:  # a few histories, whose shapes should be those of the next few
        most = next_power_of_four(most)
        deepest = next_power_of_four(deepest)
        width = next_power_of_four(max(width, 64)) if seen else 0
    for batch_rows in rows.reshape(batches, -1):
        there = np.flatnonzero(batch_rows >= 0)
        slots, nth = slots_of(packing, batch_rows[there])
        example = dealt[slots]
        row = there[nth]
        windows = Windows(start[example], history.stop[example])
        batch = fill_rows(columns, windows, row, len(batch_rows), layout, query=query)
        last, row, nth, example = group_queries(
            row, lengths[example], example, devices, most, deepest
        )
        of_device = example.reshape(devices.shards, -1)
        pairs = seen_items(columns["item"], history, of_device, width)
        yield EvalBatch(in_groups(batch, devices), last, row, nth, example, pairs)


def in_groups(batch: Batch, layout: DeviceLayout) -> Batch:
    """The rows of a batch as the devices have them, [S, G, M, ...], without labels."""
    variables = {
        name: values.reshape(*layout, *values.shape[1:]) for name, values in batch.variables.items()
    }
    segment, position = (one.reshape(*layout, -1) for one in (batch.segment, batch.position))
    return Batch(variables, segment, position, {})


def spread_rows(
    answers: Int[np.ndarray, " R"], batches: int, layout: DeviceLayout
) -> Int[np.ndarray, "B S G M"]:
    """The rows of each group, -1 for none, such that groups have alike many answers."""
    groups = batches * layout.shards * layout.groups
    order = np.full(groups * layout.group_rows, -1)
    order[: len(answers)] = np.argsort(-answers, kind="stable")
    order = order.reshape(-1, groups)
    order[1::2] = order[1::2, ::-1]  # there and back, as one chooses teams
    return order.T.reshape(batches, *layout)


def largest_sum(of_row: Int[np.ndarray, " R"], rows: Int[np.ndarray, "... M"]) -> int:
    """The largest sum over some rows of what each row has; row -1 has nothing."""
    return int(np.append(of_row, 0)[rows].sum(-1).max())


def next_power_of_four(size: int) -> int:
    """The next power of four."""
    bits = (size - 1).bit_length()
    return 1 << bits + bits % 2


def group_queries(
    row: Int[np.ndarray, " N"],
    tokens: Int[np.ndarray, " N"],
    example: Int[np.ndarray, " N"],
    layout: DeviceLayout,
    most: int,
    deepest: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where the `deepest` sequences of each row end, and row, number in the row and example of each
    sequence, `most` of them for each group of rows, filled up with -1 as example.
    """
    ends = np.cumsum(tokens)
    first = np.searchsorted(row, row)
    nth = np.arange(len(row)) - first
    last = np.zeros((math.prod(layout), deepest), int)
    last[row, nth] = ends - 1 - (ends - tokens)[first]
    group = row // layout.group_rows
    place = np.arange(len(row)) - np.searchsorted(group, group)
    shape = (layout.shards * layout.groups, most)
    rows, numbers, examples = np.zeros(shape, int), np.zeros(shape, int), np.full(shape, -1)
    rows[group, place] = row % layout.group_rows
    numbers[group, place] = nth
    examples[group, place] = example
    each = (layout.shards, layout.groups, most)
    found = (rows.reshape(each), numbers.reshape(each), examples.reshape(each))
    return last.reshape(*layout, deepest), *found


def seen_items(
    item: Int[np.ndarray, " E"],
    history: Windows,
    example: Int[np.ndarray, "S A"],
    width: int,
) -> Int[np.ndarray, "S N 2"]:
    """The first `width` pairs of an answer and an item of the whole history of its example, one
    for each event, filled up with (-1, -1).
    """
    seen = np.full((len(example), width, 2), -1, np.int32)
    if width:
        for pairs, examples in zip(seen, example, strict=True):
            answer = np.flatnonzero(examples >= 0)
            start, stop = (ends[examples[answer]] for ends in history)
            events = stop - start
            pairs[: events.sum(), 0] = np.repeat(answer, events)
            pairs[: events.sum(), 1] = item[np.repeat(start, events) + ramp(events)]
    return seen


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
    example: Int[np.ndarray, "..."],
    width: int,
) -> Int[np.ndarray, "... W"]:
    """The list of each example, filled up with -1; an empty one for example -1."""
    flat = example.ravel()
    begin = np.where(flat >= 0, offsets[flat], 0)
    count = np.where(flat >= 0, offsets[flat + 1] - begin, 0)
    column = np.arange(width)[None]
    inside = column < count[:, None]
    picked = values[np.where(inside, begin[:, None] + column, 0)] if len(values) else -1
    return np.where(inside, picked, -1).reshape(*example.shape, width)
