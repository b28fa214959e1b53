"""The filters of `clickflax prepare`, against a few lines of slow Python."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickflax.preparation import filters

LOGS = st.lists(st.lists(st.integers(6, 9), min_size=1, max_size=6), min_size=1, max_size=6)


@pytest.fixture(autouse=True, scope="module", params=[1, 4, 1 << 22])
def block(request):
    """Blocks so small that every bound between them is tried, and one that holds everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "EVENTS_PER_BLOCK", request.param)
        yield


def columns(log):
    offsets = np.cumsum([0, *map(len, log)])
    return offsets, np.array([item for sequence in log for item in sequence], dtype=np.int32)


def filtered(log, **rules):
    offsets, item = columns(log)
    keep, dropped = filters.filter_events(offsets, {"item": item}, **rules)
    assert sum(dropped.values()) + keep.sum() == len(item)
    pieces = zip(np.split(item, offsets[1:-1]), np.split(keep, offsets[1:-1]), strict=True)
    return [values[kept].tolist() for values, kept in pieces], dropped


def slow_core(log, least):
    """Drops one rare item or one short sequence at a time, until there is none."""
    while True:
        counts = Counter(item for sequence in log for item in sequence)
        rare = next((item for item, count in counts.items() if count < least), None)
        short = next((s for s, sequence in enumerate(log) if 0 < len(sequence) < least), None)
        if rare is not None:
            log = [[item for item in sequence if item != rare] for sequence in log]
        elif short is not None:
            log = [[] if s == short else sequence for s, sequence in enumerate(log)]
        else:
            return log


@settings(max_examples=60, deadline=None)
@given(log=LOGS, least=st.integers(1, 4))
def test_the_k_core_equals_that_of_dropping_one_by_one(log, least):
    left, _ = filtered(log, min_item_events=least, min_sequence_events=least)
    assert left == slow_core(log, least)


@settings(max_examples=60, deadline=None)
@given(log=LOGS, least=st.integers(1, 3), longest=st.integers(3, 4), merge=st.booleans())
def test_in_the_end_every_rule_holds_at_once(log, least, longest, merge):
    rules = {
        "min_item_events": least,
        "min_sequence_events": least,
        "max_sequence_events": longest,
        "merge_repeats": merge,
    }
    left = [sequence for sequence in filtered(log, **rules)[0] if sequence]
    counts = Counter(item for sequence in left for item in sequence)
    assert all(count >= least for count in counts.values())
    assert all(least <= len(sequence) <= longest for sequence in left)
    repeats = [a == b for sequence in left for a, b in zip(sequence, sequence[1:], strict=False)]
    assert not (merge and any(repeats))


def test_without_rules_everything_stays():
    assert filtered([[6, 6], [7]]) == ([[6, 6], [7]], {})


def test_dropping_a_rare_item_can_make_a_sequence_short_and_another_item_rare():
    # 8 is rare; without it the first sequence has one event; without that one, 7 is rare too
    left, dropped = filtered([[7, 8], [6, 6, 7]], min_item_events=2, min_sequence_events=2)
    assert left == [[], [6, 6]]
    assert dropped == {"item of fewer than 2 events": 2, "sequence of fewer than 2 events": 1}


def test_the_last_events_are_kept_and_not_the_first():
    left, dropped = filtered([[6, 7, 8, 9], [6]], max_sequence_events=2)
    assert left == [[8, 9], [6]]
    assert dropped == {"before the last 2 events": 2}


def test_an_item_is_merged_with_what_became_its_neighbour():
    # 8 is rare, and without it 7 stands beside 7
    left, dropped = filtered([[7, 8, 7], [7]], min_item_events=2, merge_repeats=True)
    assert left == [[7], [7]]
    assert dropped == {"repeats the event before it": 1, "item of fewer than 2 events": 1}


def test_the_first_event_of_a_sequence_never_repeats_another():
    assert filtered([[6, 7], [7, 7, 6]], merge_repeats=True)[0] == [[6, 7], [7, 6]]


def test_a_repeat_has_all_ids_of_the_event_before():
    ids = {
        name: np.array(v, dtype=np.int32) for name, v in {"a": [6, 6, 6], "b": [6, 7, 7]}.items()
    }
    keep, _ = filters.filter_events(np.array([0, 3]), ids, merge_repeats=True)
    assert keep.tolist() == [True, True, False]


def test_a_pause_as_long_as_the_gap_does_not_cut_and_a_longer_one_does():
    offsets, time = np.array([0, 4, 6]), np.array([0, 10, 21, 22, 5, 15])
    assert filters.cut_sessions(offsets, time, 10).tolist() == [0, 2, 4, 6]
    assert filters.cut_sessions(offsets, time, 11).tolist() == [0, 4, 6]


@settings(max_examples=60, deadline=None)
@given(log=LOGS, gap=st.integers(1, 2))
def test_sessions_are_cut_as_a_loop_would(log, gap):
    offsets, time = columns([sorted(sequence) for sequence in log])
    bounds = {*offsets.tolist()}
    bounds |= {e for e in range(1, len(time)) if time[e] - time[e - 1] > gap}
    assert filters.cut_sessions(offsets, time.astype(np.int64), gap).tolist() == sorted(bounds)


def test_events_that_share_a_time_are_counted_within_their_sequence_only():
    offsets, time = np.array([0, 3, 5, 6]), np.array([1, 2, 2, 2, 3, 3])
    assert filters.count_shared_times(offsets, time) == 2
    assert filters.count_shared_times(np.array([0, 6]), time) == 5
