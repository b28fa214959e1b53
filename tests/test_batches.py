"""Windows, packing, and the stream of training rows."""

import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from toy import layout

from clickflax.batch import MASK, RESERVED
from clickflax.data.batches import WINDOWS, Query, Windows, fill_rows, shift_left, training_batches
from clickflax.data.packing import pack

LENGTHS = np.array([3, 5, 1, 9, 2, 4, 7])
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
COLUMNS = {"item": (np.arange(OFFSETS[-1]) + RESERVED).astype(np.int32)}
RANGES = Windows(OFFSETS[:-1], OFFSETS[1:])


def stream(max_len=6, packing=True, **changed):
    options = {"window": "last", "stride": 2, "batch_size": 3, "shifted": False} | changed
    labels = {"next_item": shift_left(COLUMNS["item"])} if options["shifted"] else {}
    return training_batches(COLUMNS, labels, RANGES, layout(max_len, packing=packing), **options)


def epoch_of(batches, seed=0, epoch=0):
    """The items of every sequence of one epoch, by walking through the rows."""
    rows = [batches.batch(seed, step) for step in range(epoch * 50, epoch * 50 + 50)]
    item = np.concatenate([batch.variables["item"] for batch in rows])
    segment = np.concatenate([batch.segment for batch in rows])
    first = epoch * 50 * batches.rows % batches.packing.rows
    chosen = range(
        (-first) % batches.packing.rows, (-first) % batches.packing.rows + batches.packing.rows
    )
    return sorted(
        tuple(item[r][segment[r] == s]) for r in chosen for s in range(1, segment[r].max() + 1)
    )


@hypothesis.given(
    st.lists(st.integers(1, 20), min_size=1, max_size=60),
)
def test_packing_gives_every_window_a_slot_and_no_row_more_than_it_holds(lengths):
    packing = pack(np.array(lengths), 20)
    assert sorted(packing.length) == sorted(lengths)
    filled = np.add.reduceat(packing.length, packing.offsets[:-1])
    assert filled.max() <= 20
    # Two rows that are half empty or more would have been one (best fit).
    assert (filled <= 10).sum() <= 1


def test_a_row_is_filled_before_another_is_begun():
    packing = pack(np.array([5, 5, 10, 3, 7, 2, 8]), 10)
    assert packing.rows == 4
    assert sorted(np.add.reduceat(packing.length, packing.offsets[:-1])) == [10, 10, 10, 10]


def test_a_window_longer_than_a_row_is_an_error():
    with pytest.raises(ValueError, match="1 to 11 tokens in rows of 10"):
        pack(np.array([1, 11]), 10)


def test_last_windows_keep_the_last_events():
    windows = WINDOWS["last"](RANGES, 6, 2)
    assert list(windows.stop - windows.start) == [3, 5, 1, 6, 2, 4, 6]
    assert list(windows.stop) == list(OFFSETS[1:])


def test_sliding_windows_cover_a_sequence_from_its_end_backwards():
    windows = WINDOWS["sliding"](Windows(np.array([0]), np.array([9])), 4, 3)
    assert list(zip(*windows, strict=True)) == [(5, 9), (2, 6), (0, 3)]


@pytest.mark.parametrize("packing", [True, False])
def test_every_window_comes_once_an_epoch(packing):
    batches = stream(packing=packing)
    windows = WINDOWS["last"](RANGES, 6, 2)
    expected = sorted(tuple(COLUMNS["item"][a:b]) for a, b in zip(*windows, strict=True))
    assert epoch_of(batches) == expected
    assert epoch_of(batches, epoch=1) == expected


def test_random_windows_are_other_crops_in_another_epoch():
    batches = stream(window="random", max_len=4)
    crops = {epoch: epoch_of(batches, epoch=epoch) for epoch in range(6)}
    assert all(len(c) == len(LENGTHS) for c in crops.values())
    starts = {crop[0] - RESERVED for c in crops.values() for crop in c if len(crop) == 4}
    # The longest sequence, events 9 to 17, has six crops of 4.
    assert len({s for s in starts if 9 <= s < 18}) > 2


def test_the_same_seed_and_step_give_the_same_batch_whatever_was_asked_before():
    first, second = stream(), stream()
    for step in (7, 0, 3):
        first.batch(0, step)
    one, two = first.batch(0, 5), second.batch(0, 5)
    assert np.array_equal(one.variables["item"], two.variables["item"])
    assert not np.array_equal(one.variables["item"], first.batch(1, 5).variables["item"])


def test_the_label_of_an_event_is_the_next_item_and_the_last_is_a_label_only():
    batches = stream(shifted=True)
    for step in range(4):
        batch = batches.batch(0, step)
        item, label = batch.variables["item"], batch.labels["next_item"]
        there = batch.segment > 0
        assert np.array_equal(label[there], item[there] + 1)
        assert (label[~there] == 0).all()
    lasts = OFFSETS[1:] - 1 + RESERVED
    seen = np.concatenate(
        [stream(shifted=True).batch(0, s).variables["item"].ravel() for s in range(9)]
    )
    assert not set(seen) & set(lasts)


def test_a_window_of_max_len_inputs_has_one_more_event_to_predict():
    batches = stream(shifted=True, packing=False)
    batch = batches.batch(0, 0)
    assert max((batches.batch(0, s).segment > 0).sum(1).max() for s in range(4)) == 6
    assert batch.segment.shape[1] == 6


@pytest.mark.parametrize(("position_from", "expected"), [("start", [0, 1, 2]), ("end", [2, 1, 0])])
def test_positions_count_from_the_named_side(position_from, expected):
    windows = Windows(np.array([0]), np.array([3]))
    batch = fill_rows(COLUMNS, windows, np.array([0]), 1, layout(5, position_from=position_from))
    assert list(batch.position[0]) == [*expected, 0, 0]
    assert list(batch.segment[0]) == [1, 1, 1, 0, 0]


def test_positions_restart_with_every_sequence_of_a_row():
    windows = Windows(np.array([0, 3]), np.array([3, 5]))
    batch = fill_rows(COLUMNS, windows, np.array([0, 0]), 1, layout(6, position_from="start"))
    assert list(batch.position[0]) == [0, 1, 2, 0, 1, 0]
    assert list(batch.segment[0]) == [1, 1, 1, 2, 2, 0]


def test_a_mask_is_asked_after_the_last_event():
    windows = Windows(np.array([0, 3]), np.array([3, 5]))
    batch = fill_rows(COLUMNS, windows, np.array([0, 1]), 2, layout(5), query=Query(MASK))
    assert list(batch.variables["item"][0]) == [6, 7, 8, MASK, 0]
    assert list(batch.variables["item"][1]) == [9, 10, MASK, 0, 0]
    assert list(batch.position[1]) == [2, 1, 0, 0, 0]


def test_a_batch_has_as_many_sequences_as_asked_on_average():
    batches = stream(batch_size=4)
    assert batches.packing.rows == 5  # 3+3, 5+1, 6, 2+4, 6 tokens
    assert batches.rows == round(4 * 5 / 7)
    assert batches.windows_per_batch == batches.rows * 7 / 5
    assert stream(packing=False, batch_size=4).rows == 4


def test_rows_that_are_added_to_share_out_a_batch_are_empty():
    batches = stream(batch_size=4)
    alone, shared = batches.batch(0, 2), batches.batch(0, 2, rows_divide_by=8)
    assert shared.segment.shape == (8, 6)
    assert np.array_equal(shared.variables["item"][: batches.rows], alone.variables["item"])
    assert not shared.segment[batches.rows :].any()


@pytest.mark.parametrize("stride", [0, 7])
def test_a_stride_that_would_skip_events_is_an_error(stride):
    with pytest.raises(ValueError, match=f"data.stride={stride} must lie between 1 and .*6"):
        stream(window="sliding", stride=stride)


def test_sequences_too_short_to_train_on_are_counted():
    assert stream(shifted=True).dropped == 1
    assert stream().dropped == 0


def test_an_unknown_window_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"\['last', 'random', 'sliding'\]"):
        stream(window="lost")


def test_sequences_without_a_target_are_refused_when_there_are_no_others():
    one = Windows(np.array([0]), np.array([1]))
    with pytest.raises(ValueError, match="long enough"):
        training_batches(
            COLUMNS,
            {},
            one,
            layout(6),
            window="last",
            stride=1,
            batch_size=1,
            shifted=True,
        )


@pytest.mark.parametrize(("name", "max_len"), [("ml-1m", 200), ("beauty", 50)])
@pytest.mark.parametrize("shifted", [False, True])
def test_less_than_a_twentieth_of_real_rows_is_padding(shared_data, name, max_len, shifted):
    user = np.loadtxt(shared_data(name) / "sequences.txt", dtype=np.int64, usecols=0)
    events = np.unique(user, return_counts=True)[1] - 2  # the last two are not trained on
    packing = pack(np.minimum(events - shifted, max_len), max_len)
    assert packing.length.sum() / (packing.rows * max_len) > 0.95


@pytest.mark.slow
def test_ten_million_sequences_are_planned_in_seconds():
    lengths = np.random.default_rng(0).geometric(0.1, 10_000_000).clip(1, 50)
    begin = time.process_time()  # whatever else the machine does
    packing = pack(lengths, 50)
    assert time.process_time() - begin < 10
    assert packing.length.sum() == lengths.sum()
