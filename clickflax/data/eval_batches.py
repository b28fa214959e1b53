"""Batches of histories to predict from: evaluation and recommendation."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from clickflax.batch import Batch
from clickflax.data.batches import BatchLayout, Query, Windows, fill_rows
from clickflax.data.packing import deal, ramp, slots_of


class EvalBatch(NamedTuple):
    """A batch of rows for S devices with G groups of M rows each, and the positions of predictions.

    Sequence n of row m of group g ends at `last[g, m, n]`. Prediction a is for `example[g, a]`, or
    for none if that is -1; its history is sequence `nth[g, a]` of row `row[g, a]` of the group.
    `seen` has pairs of a prediction, numbered over all groups of the device, and an item of its
    history, padded with (-1, -1). All batches have the same shapes.
    """

    batch: Batch  # arrays [S, G, M, L], or [S, G, M, L, values]
    last: Int[np.ndarray, "S G M N"]
    row: Int[np.ndarray, "S G A"]
    nth: Int[np.ndarray, "S G A"]
    example: Int[np.ndarray, "S G A"]
    seen: Int[np.ndarray, "S N 2"]


class DeviceLayout(NamedTuple):
    """Layout of the rows of a batch: `shards` devices, each with `groups` of `group_rows` rows."""

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
    """Yields batches with the last events of each history, each once.

    CLS and the token of the query replace older events. A prediction is made at the last position
    of a sequence. With `seen`, a batch has the items of the whole histories, else none.
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
    if batches == 1:  # the next few histories should not compile a program of other shapes
        most = next_power_of_four(most)
        deepest = next_power_of_four(deepest)
        width = next_power_of_four(max(width, 64)) if seen else 0
    for batch_rows in rows.reshape(batches, -1):
        filled = np.flatnonzero(batch_rows >= 0)
        slots, nth = slots_of(packing, batch_rows[filled])
        example = dealt[slots]
        row = filled[nth]
        windows = Windows(start[example], history.stop[example])
        batch = fill_rows(columns, windows, row, len(batch_rows), layout, query=query)
        last, row, nth, example = group_queries(
            row, lengths[example], example, devices, most, deepest
        )
        of_device = example.reshape(devices.shards, -1)
        pairs = seen_items(columns["item"], history, of_device, width)
        yield EvalBatch(in_groups(batch, devices), last, row, nth, example, pairs)


def in_groups(batch: Batch, layout: DeviceLayout) -> Batch:
    """Returns the rows of a batch by device and group, [S, G, M, ...], without labels."""
    variables = {
        name: values.reshape(*layout, *values.shape[1:]) for name, values in batch.variables.items()
    }
    segment, position = (one.reshape(*layout, -1) for one in (batch.segment, batch.position))
    return Batch(variables, segment, position, {})


def spread_rows(
    answers: Int[np.ndarray, " R"], batches: int, layout: DeviceLayout
) -> Int[np.ndarray, "B S G M"]:
    """Returns the rows of each group, -1 for none; groups have about equal numbers of answers."""
    groups = batches * layout.shards * layout.groups
    order = np.full(groups * layout.group_rows, -1)
    order[: len(answers)] = np.argsort(-answers, kind="stable")
    order = order.reshape(-1, groups)
    order[1::2] = order[1::2, ::-1]  # every other round backwards, for balance
    return order.T.reshape(batches, *layout)


def largest_sum(of_row: Int[np.ndarray, " R"], rows: Int[np.ndarray, "... M"]) -> int:
    """Returns the largest sum of `of_row` over M rows; row -1 counts nothing."""
    return int(np.append(of_row, 0)[rows].sum(-1).max())


def next_power_of_four(size: int) -> int:
    """Returns the smallest power of four that is not below `size`."""
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
    """Returns `last`, `row`, `nth` and `example` of an EvalBatch.

    A row has up to `deepest` sequences and a group up to `most`; `example` is padded with -1.
    """
    ends = np.cumsum(tokens)
    first = np.searchsorted(row, row)
    nth = np.arange(len(row)) - first
    last = np.zeros((math.prod(layout), deepest), int)
    last[row, nth] = ends - 1 - (ends - tokens)[first]
    group = row // layout.group_rows
    column = np.arange(len(row)) - np.searchsorted(group, group)
    shape = (layout.shards * layout.groups, most)
    rows, numbers, examples = np.zeros(shape, int), np.zeros(shape, int), np.full(shape, -1)
    rows[group, column] = row % layout.group_rows
    numbers[group, column] = nth
    examples[group, column] = example
    each = (layout.shards, layout.groups, most)
    arrays = (rows.reshape(each), numbers.reshape(each), examples.reshape(each))
    return last.reshape(*layout, deepest), *arrays


def seen_items(
    item: Int[np.ndarray, " E"],
    history: Windows,
    example: Int[np.ndarray, "S A"],
    width: int,
) -> Int[np.ndarray, "S N 2"]:
    """Returns pairs of an answer and an item, one for each event of the history of its example.

    They are padded to `width` pairs with (-1, -1).
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
    """Returns the distinct items of all histories; history h has `bounds[h]:bounds[h + 1]`."""
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
    """Returns the number of targets that occur in their history.

    Counts `at_once` histories at a time, to bound memory.
    """
    repeats = 0
    for first in range(0, len(history.start), at_once):
        some = slice(first, first + at_once)
        values, bounds = distinct_items(item, Windows(history.start[some], history.stop[some]))
        block = (owner >= first) & (owner < first + at_once)
        size = int(max(values.max(initial=0), targets.max(initial=0))) + 1
        seen = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)) * size + values
        repeats += int(np.isin((owner[block] - first) * size + targets[block], seen).sum())
    return repeats


def pad_lists(
    values: Int[np.ndarray, " N"],
    offsets: Int[np.ndarray, " bounds"],
    example: Int[np.ndarray, "..."],
    width: int,
) -> Int[np.ndarray, "... W"]:
    """Returns the list of each example, padded to `width` with -1; an empty one for example -1."""
    flat = example.ravel()
    begin = np.where(flat >= 0, offsets[flat], 0)
    count = np.where(flat >= 0, offsets[flat + 1] - begin, 0)
    column = np.arange(width)[None]
    inside = column < count[:, None]
    picked = values[np.where(inside, begin[:, None] + column, 0)] if len(values) else -1
    return np.where(inside, picked, -1).reshape(*example.shape, width)
