"""Histories in packed rows, and where their answers stand."""

import numpy as np
import pytest

from clickflax.data.asking import (
    asking_batches,
    count_repeats,
    distinct_items,
    pad_lists,
    seen_items,
)
from clickflax.data.batches import Windows
from clickflax.events import MASK, RESERVED

LENGTHS = np.array([3, 12, 1, 9, 2, 4, 7])
BOUNDS = np.concatenate([[0], np.cumsum(LENGTHS)])
ITEM = (np.arange(BOUNDS[-1]) + RESERVED).astype(np.int32)
HISTORY = Windows(BOUNDS[:-1], BOUNDS[1:])


def batches(**changed):
    options = {"max_len": 8, "packing": True, "position_from": "end", "ask": False}
    sizes = {"groups": 2, "group_rows": 2}
    return list(asking_batches({"item": ITEM}, HISTORY, **(options | sizes | changed)))


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_every_history_is_asked_once_at_its_last_event(packing, groups):
    found = {}
    for asked in batches(packing=packing, groups=groups):
        for group, answer in np.argwhere(asked.example >= 0):
            row, column = asked.row[group, answer], asked.column[group, answer]
            example = int(asked.example[group, answer])
            assert example not in found
            found[example] = asked.batch.variables["item"][group, row, column]
            assert asked.batch.position[group, row, column] == 0
    assert found == {i: ITEM[BOUNDS[i + 1] - 1] for i in range(len(LENGTHS))}


def test_a_place_is_reserved_for_the_mask_so_that_the_newest_events_stay():
    for asked in batches(ask=True, packing=False):
        for group, answer in np.argwhere(asked.example >= 0):
            row, column = asked.row[group, answer], asked.column[group, answer]
            example = asked.example[group, answer]
            sequence = asked.batch.variables["item"][group, row, : column + 1]
            assert sequence[-1] == MASK
            events = ITEM[BOUNDS[example] : BOUNDS[example + 1]][-7:]
            assert np.array_equal(sequence[:-1], events)


def test_all_batches_have_the_same_shapes():
    shapes = {
        (asked.batch.segment.shape, asked.row.shape, asked.example.shape)
        for asked in batches(groups=1, group_rows=1)
    }
    assert len(shapes) == 1


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


def test_what_was_seen_is_the_whole_history_and_not_only_the_window():
    seen = seen_items(ITEM, HISTORY, np.array([[1, -1], [2, 1]]))
    assert seen.shape == (2, 2, 16)
    assert sorted(seen[0, 0]) == [-1] * 4 + list(ITEM[3:15])
    assert (seen[0, 1] == -1).all()
    assert np.array_equal(seen[1, 1], seen[0, 0])


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_targets_that_come_back_are_counted(at_once):
    item = np.array([7, 6, 7, 9, 8, 8])
    history = Windows(np.array([0, 3, 4]), np.array([3, 4, 6]))
    targets, owner = np.array([7, 9, 8, 6, 8]), np.array([0, 0, 1, 2, 2])
    assert count_repeats(item, history, targets, owner, at_once) == 2
