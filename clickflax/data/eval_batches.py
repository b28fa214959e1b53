"""Packed rows of histories for which an answer is wanted: evaluation and recommendation."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from clickflax.batch import Batch
from clickflax.data.batches import Windows, fill_rows
from clickflax.data.packing import deal, one_each, pack, ramp, slots_of


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
    *,
    max_len: int,
    packing: bool,
    position_from: str,
    opens: bool,
    ask: int | None,
    told: Mapping[str, Any],
    seen: bool,
    layout: DeviceLayout,
) -> Iterator[EvalBatch]:
    """The last events of every history, once, in batches of rows.

    A history `opens` with CLS, and the reserved id `ask` follows it, such as MASK: places are
    reserved for these, and fewer events are read. The answer stands at the last place of a
    sequence, where variables have what is `told` of them. With `seen` the items of the whole
    history come along, else none.
    """
    beside = opens + (ask is not None)
    start = np.maximum(history.start, history.stop - max_len + beside)
    lengths = history.stop - start + beside
    plan = pack(lengths, max_len) if packing else one_each(lengths)
    dealt = deal(plan, lengths)
    batches = -(-plan.rows // math.prod(layout))
    answers = np.diff(plan.offsets)
    rows = spread_rows(answers, batches, layout)
    most, deepest = largest_sum(answers, rows), int(answers.max())
    width = 0
    if seen:
        events = np.append(0, np.cumsum((history.stop - history.start)[dealt]))
        width = largest_sum(np.diff(events[plan.offsets]), rows.reshape(batches, layout.shards, -1))
    if batches == 1:  # a question or two, whose shapes should be those of the next ones
        most, width = next_power_of_four(most), next_power_of_four(max(width, 64)) if seen else 0
        deepest = next_power_of_four(deepest)
    for some in rows.reshape(batches, -1):
        there = np.flatnonzero(some >= 0)
        slots, which = slots_of(plan, some[there])
        example, row = dealt[slots], there[which]
        windows = Windows(start[example], history.stop[example])
        batch = fill_rows(
            columns,
            windows,
            row,
            (len(some), max_len),
            position_from=position_from,
            opens=opens,
            ask=ask,
            told=told,
        )
        places = group_queries(row, lengths[example], example, layout, most, deepest)
        yield EvalBatch(
            in_groups(batch, layout),
            *places,
            seen_items(columns["item"], history, places[3].reshape(layout.shards, -1), width),
        )


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
