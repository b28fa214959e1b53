"""Histories in packed rows, and where their answers stand."""

import numpy as np
import pytest
from toy import layout

from clickflax.batch import MASK, RESERVED
from clickflax.data.batches import Query, Windows
from clickflax.data.eval_batches import (
    DeviceLayout,
    count_repeats,
    distinct_items,
    eval_batches,
    pad_lists,
    spread_rows,
)

LENGTHS = np.array([3, 12, 1, 9, 2, 4, 7])
BOUNDS = np.concatenate([[0], np.cumsum(LENGTHS)])
ITEM = (np.arange(BOUNDS[-1]) + RESERVED).astype(np.int32)
HISTORY = Windows(BOUNDS[:-1], BOUNDS[1:])


def batches(devices=(1, 2, 2), token=None, seen=False, **changed):
    columns = {"item": ITEM}
    found = eval_batches(
        columns, HISTORY, layout(**changed), Query(token), DeviceLayout(*devices), seen=seen
    )
    return list(found)


def answers(asked):
    """For each answer its example, its place [s, g, a], and the row of items it stands in, as far
    as it."""
    for place in map(tuple, np.argwhere(asked.example >= 0)):
        row = (*place[:2], asked.row[place])
        column = asked.last[*row, asked.nth[place]]
        assert asked.batch.position[*row, column] == 0
        yield (
            int(asked.example[place]),
            place,
            asked.batch.variables["item"][row][: column + 1],
        )


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("devices", [(1, 1, 1), (1, 2, 2), (2, 1, 3), (4, 2, 1)])
def test_every_history_is_asked_once_at_its_last_event(packing, devices):
    found = [
        (example, int(items[-1]))
        for asked in batches(packing=packing, devices=devices)
        for example, _, items in answers(asked)
    ]
    assert sorted(found) == [(i, ITEM[BOUNDS[i + 1] - 1]) for i in range(len(LENGTHS))]


def test_a_place_is_reserved_for_the_mask_so_that_the_newest_events_stay():
    for asked in batches(token=MASK, packing=False):
        for example, _, items in answers(asked):
            assert items[-1] == MASK
            assert np.array_equal(items[:-1], ITEM[BOUNDS[example] : BOUNDS[example + 1]][-7:])


@pytest.mark.parametrize("devices", [(1, 1, 1), (2, 1, 2)])
def test_all_batches_have_the_same_shapes(devices):
    shapes = {
        (asked.batch.segment.shape, asked.row.shape, asked.example.shape, asked.seen.shape)
        for asked in batches(devices=devices, seen=True)
    }
    assert len(shapes) == 1


@pytest.mark.parametrize("devices", [(1, 1, 1), (2, 1, 2), (2, 2, 2)])
def test_what_was_seen_is_the_whole_history_of_each_answer_and_not_only_the_window(devices):
    for asked in batches(devices=devices, seen=True):
        found = {tuple(x) for x in np.argwhere(asked.seen[..., 0] >= 0)}
        assert len(found) == sum(LENGTHS[asked.example[asked.example >= 0]])
        for example, (shard, group, answer), _ in answers(asked):
            mine = asked.seen[shard, :, 0] == group * asked.example.shape[2] + answer
            events = ITEM[BOUNDS[example] : BOUNDS[example + 1]]
            assert np.array_equal(asked.seen[shard, mine, 1], events)


def test_without_what_was_seen_there_are_no_pairs():
    assert all(asked.seen.shape == (1, 0, 2) for asked in batches())


def test_groups_have_alike_many_answers():
    of_row = np.array([9, 1, 1, 8, 7, 2, 3, 4])
    rows = spread_rows(of_row, 2, DeviceLayout(1, 2, 2))
    assert sorted(rows.ravel()) == list(range(8))
    assert of_row[rows].sum(-1).tolist() == [[[10, 9]], [[9, 7]]]
    few = spread_rows(of_row[:3], 1, DeviceLayout(1, 2, 2))
    assert sorted(few.ravel()) == [-1, 0, 1, 2]


def test_a_question_or_two_have_the_same_shapes_as_the_next_ones():
    def shapes(lengths):
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        history = Windows(bounds[:-1], bounds[1:])
        (asked,) = eval_batches(
            {"item": ITEM}, history, layout(), Query(MASK), DeviceLayout(1, 1, 4), seen=True
        )
        return asked.row.shape, asked.seen.shape

    assert shapes([3, 4, 2]) == shapes([7, 12, 1, 9])


def test_the_different_items_of_each_whole_history():
    item = np.array([7, 6, 7, 9, 8, 8])
    history = Windows(np.array([0, 3, 4]), np.array([3, 3, 6]))
    values, bounds = distinct_items(item, history)
    assert [list(values[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)] == [
        [6, 7],
        [],
        [8],
    ]


def test_lists_are_filled_up_with_minus_one():
    lists = pad_lists(np.array([5, 6, 7]), np.array([0, 2, 2, 3]), np.array([[2, 0], [1, -1]]), 2)
    assert lists.tolist() == [[[7, -1], [5, 6]], [[-1, -1], [-1, -1]]]
    nothing = pad_lists(np.zeros(0, int), np.array([0, 0]), np.array([[0]]), 1)
    assert nothing.tolist() == [[[-1]]]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_targets_that_come_back_are_counted(at_once):
    item = np.array([7, 6, 7, 9, 8, 8])
    history = Windows(np.array([0, 3, 4]), np.array([3, 4, 6]))
    targets, owner = np.array([7, 9, 8, 6, 8]), np.array([0, 0, 1, 2, 2])
    assert count_repeats(item, history, targets, owner, at_once) == 2
