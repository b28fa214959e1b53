"""What is trained on, and what is asked."""

import numpy as np
import pytest

from clickflax.config import default
from clickflax.config.check import check_config
from clickflax.data.splits.common import EventLog, SplitOptions, is_cold_target
from clickflax.data.splits.strategies import split_sequences

OFFSETS = np.array([0, 1, 3, 6, 10])  # sequences of 1, 2, 3 and 4 events
ITEM = np.array([6, 7, 8, 9, 10, 11, 12, 13, 14, 12], np.int32)
DAY = 86_400_000_000
TIME = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2]) * DAY
LOG = EventLog(OFFSETS, ITEM, TIME)


def options(users=-1, validation="1970-01-02", test="1970-01-03"):
    return SplitOptions(users, validation, test)


def leave_one_out(users=-1):
    return split_sequences("leave_one_out", LOG, options(users))


def test_the_last_event_is_the_test_and_the_one_before_the_validation():
    parts = leave_one_out()
    assert list(parts.test.sequence) == [1, 2, 3]
    assert list(parts.test.targets) == [8, 11, 12]
    assert list(parts.validation.sequence) == [2, 3]
    assert list(parts.validation.targets) == [10, 14]
    assert list(parts.train.stop - parts.train.start) == [1, 1, 1, 2]
    assert parts.dropped == {
        "sequences too short for a test": 1,
        "sequences too short for a validation item": 2,
    }


def test_the_test_history_holds_the_validation_item():
    parts = leave_one_out()
    assert list(ITEM[parts.test.history.start[2] : parts.test.history.stop[2]]) == [12, 13, 14]


def test_users_without_a_validation_item_train_on_all_but_the_last():
    parts = leave_one_out(users=0)
    assert len(parts.validation) == 0
    assert list(parts.train.stop - parts.train.start) == [1, 1, 2, 3]


def test_a_number_of_validation_users_is_drawn_the_same_every_time():
    one, two = leave_one_out(users=1), leave_one_out(users=1)
    assert len(one.validation) == 1
    assert list(one.validation.sequence) == list(two.validation.sequence)


def test_nothing_after_the_moment_is_trained_on():
    parts = split_sequences("time", LOG, options())
    trained = np.concatenate([np.arange(a, b) for a, b in zip(*parts.train[:2], strict=True)])
    assert set(TIME[trained]) == {0}
    assert list(parts.validation.sequence) == [2, 3]
    assert list(parts.validation.targets) == [10, 13]
    assert list(parts.test.sequence) == [1, 2, 3]


def test_all_different_items_of_the_test_period_are_targets():
    parts = split_sequences("time", LOG, options())
    assert list(parts.test.targets) == [8, 11, 12, 14]
    assert list(parts.test.owner) == [0, 1, 2, 2]


def test_sequences_without_a_history_are_counted():
    parts = split_sequences("time", LOG, options(validation="1970-01-01", test="1970-01-02"))
    assert parts.dropped["validation sequences without a history"] == 3
    assert parts.dropped["test sequences without a history"] == 1


def test_whole_sequences_go_by_the_time_at_which_they_begin():
    offsets = np.array([0, 2, 4, 5, 7, 9])  # on days 0-1, 1-3, 2, 2-3 and 4-5
    log = EventLog(offsets, ITEM[:9], np.array([0, 1, 1, 3, 2, 2, 3, 4, 5]) * DAY)
    moments = options(validation="1970-01-03", test="1970-01-05")
    parts = split_sequences("sequence_time", log, moments)
    assert list(zip(*parts.train, strict=True)) == [(0, 2)]
    assert (list(parts.validation.sequence), list(parts.validation.targets)) == ([3], [12])
    assert (list(parts.test.sequence), list(parts.test.targets)) == ([4], [14])
    assert list(parts.dropped.values()) == [1, 1]


def test_a_period_may_begin_after_a_share_of_all_events():
    # In the order of their times: three on day 0, three on day 1, four on day 2.
    shares = split_sequences("time_each", LOG, options(validation="3/10", test="6/10"))
    days = split_sequences("time_each", LOG, options())
    for found, expected in zip(shares[0], days[0], strict=True):
        assert list(found) == list(expected)
    assert list(shares.test.targets) == list(days.test.targets) == [8, 11, 14, 12]
    # Events of the same moment stay together: nine of ten have come in the midst of day 2.
    late = split_sequences("time_each", LOG, options(validation="4/10", test="9/10"))
    assert list(late.test.targets) == [8, 11, 14, 12]
    assert list(late.train.stop) == list(shares.train.stop)


def test_parts_keep_the_source_s_own_test_file_out_of_training():
    part = np.array([0, 1, 0, 1], np.int8)
    parts = split_sequences("parts", LOG._replace(source_split=part), options())
    assert list(parts.train.start) == [0, 3]
    assert list(parts.test.sequence) == [1, 3]
    assert list(parts.validation.sequence) == [2]


@pytest.mark.parametrize(
    ("name", "log", "chosen", "message"),
    [
        ("leave_two", LOG, options(), "leave_one_out"),
        ("parts", LOG, options(), "test file of its own"),
        ("time", EventLog(OFFSETS, ITEM), options(), "only an order"),
        ("sequence_time", EventLog(OFFSETS, ITEM), options(), "only an order"),
        ("time", LOG, options(validation="soon"), "data.validation_from='soon'"),
        ("time", LOG, options(test="3/2"), "data.test_from='3/2' is neither a time"),
        ("time", LOG, options(test="1969-01-01"), "before"),
        ("leave_one_out", LOG, options(users=-2), "validation_users=-2"),
    ],
)
def test_what_cannot_be_split_says_why(name, log, chosen, message):
    with pytest.raises(ValueError, match=message):
        split_sequences(name, log, chosen)


@pytest.mark.parametrize("name", ["leave_one_out", "time"])
def test_a_test_file_of_its_own_is_never_trained_on(name):
    part = np.array([0, 1, 0, 1], np.int8)
    with pytest.raises(ValueError, match="data.split='parts'"):
        split_sequences(name, LOG._replace(source_split=part), options())


def test_targets_that_were_never_trained_on_are_counted():
    parts = leave_one_out()
    # Trained on are 6, 7, 9, 12 and 13; the targets are 8, 11 and 12.
    assert is_cold_target(parts.train, parts.test, ITEM).sum() == 2


def test_users_are_drawn_among_those_with_a_target():
    offsets = np.array([0, 3, 6, 9])
    item = np.array([7, 7, 7, 7, 1, 7, 7, 7, 7])  # nothing is asked of the second user
    found = split_sequences("leave_one_out", EventLog(offsets, item), SplitOptions(2, "", ""))
    assert found.validation.sequence.tolist() == [0, 2]
    assert found.train.stop.tolist() == [1, 5, 7]


# By shares: sequences of 1, 2, 3 and 8 events, numbered from 6 on.
SHARED = np.array([0, 1, 3, 6, 14])
NUMBERS = EventLog(SHARED, np.arange(6, 20, dtype=np.int32))


def by_shares(name, users=-1, validation=0.25, test=0.25):
    return split_sequences(name, NUMBERS, SplitOptions(users, "", "", validation, test))


def lists(examples):
    """For each example: its sequence, its history and its targets."""
    found = []
    for i, sequence in enumerate(examples.sequence):
        history = NUMBERS.item[examples.history.start[i] : examples.history.stop[i]]
        found.append((sequence, history.tolist(), examples.targets[examples.owner == i].tolist()))
    return found


def test_a_share_of_the_last_events_is_the_test_and_at_least_one():
    parts = by_shares("ratio")
    assert list(parts.train.stop - parts.train.start) == [1, 1, 1, 4]
    assert lists(parts.validation) == [(2, [9], [10]), (3, [12, 13, 14, 15], [16, 17])]
    assert lists(parts.test) == [
        (1, [7], [8]),
        (2, [9, 10], [11]),
        (3, [12, 13, 14, 15, 16, 17], [18, 19]),
    ]
    assert parts.dropped["sequences too short for a test"] == 1


def test_every_event_of_a_share_may_be_a_question_of_its_own():
    parts = by_shares("ratio_each")
    assert lists(parts.test)[2:] == [
        (3, [12, 13, 14, 15, 16, 17], [18]),
        (3, [12, 13, 14, 15, 16, 17, 18], [19]),
    ]
    assert list(parts.train.stop) == list(by_shares("ratio").train.stop)


def test_without_a_share_of_the_validation_all_but_the_test_is_trained_on():
    parts = by_shares("ratio", validation=0.0)
    assert len(parts.validation) == 0
    assert list(parts.train.stop - parts.train.start) == [1, 1, 2, 6]


def test_every_prefix_of_the_sessions_of_the_test_file_is_asked():
    log = NUMBERS._replace(source_split=np.array([0, 0, 0, 1]))
    parts = split_sequences("parts_each", log, SplitOptions(1, "", ""))
    assert lists(parts.test) == [(3, list(range(12, k)), [k]) for k in range(13, 20)]
    validated = set(parts.validation.sequence)
    assert len(validated) == 1 and validated < {1, 2}
    (one,) = validated
    expected = [
        (one, list(range(SHARED[one] + 6, k)), [k])
        for k in range(SHARED[one] + 7, SHARED[one + 1] + 6)
    ]
    assert lists(parts.validation) == expected
    trained = [s for s in (0, 1, 2) if s != one]
    assert list(parts.train.start) == list(SHARED[trained])
    assert list(parts.train.stop) == [SHARED[s + 1] for s in trained]
    with pytest.raises(ValueError, match="needs a data set with a test file"):
        split_sequences("parts_each", NUMBERS, SplitOptions(1, "", ""))
    for all_of_them in (-1, 2):
        with pytest.raises(ValueError, match="fewer than the 2 sequences there are"):
            split_sequences("parts_each", log, SplitOptions(all_of_them, "", ""))


def told(parts, item, names):
    """What is trained on and asked, in terms that do not depend on where events stand."""

    def events(windows, sequences):
        return [(names[s], item[a:b].tolist()) for s, a, b in zip(sequences, *windows, strict=True)]

    def examples(part):
        targets = [part.targets[part.owner == i].tolist() for i in range(len(part))]
        return list(zip(events(part.history, part.sequence), targets, strict=True))

    trained = [item[a:b].tolist() for a, b in zip(*parts.train, strict=True) if b > a]
    return sorted(trained), examples(parts.validation), examples(parts.test)


@pytest.mark.parametrize("name", ["time", "time_each", "sequence_time"])
def test_a_test_that_ends_is_that_of_a_log_that_ends(name):
    chance = np.random.default_rng(0)
    lengths = chance.integers(1, 5, 300)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    begin = chance.integers(0, 7, 300)
    days = np.concatenate(
        [b + np.sort(chance.integers(0, 3, n)) for b, n in zip(begin, lengths, strict=True)]
    )
    item = chance.integers(6, 30, offsets[-1]).astype(np.int32)
    fold = SplitOptions(-1, "1970-01-03", "1970-01-05", test_until="1970-01-07")
    found = split_sequences(name, EventLog(offsets, item, days * DAY), fold)
    kept = days < 6
    counts = np.add.reduceat(kept, offsets[:-1])
    if name == "sequence_time":  # what does not end in the period is left out as a whole
        kept &= np.repeat(counts == lengths, lengths)
        counts = np.where(counts == lengths, counts, 0)
    there = np.flatnonzero(counts)
    bounds = np.concatenate([[0], np.cumsum(counts[there])])
    short = EventLog(bounds, item[kept], days[kept] * DAY)
    expected = split_sequences(name, short, fold._replace(test_until=""))
    assert len(found.test) > 5
    assert told(found, item, np.arange(300)) == told(expected, short.item, there)
    if name != "sequence_time":
        assert found.dropped.pop("events after the test") == (days >= 6).sum()
        assert expected.dropped.pop("events after the test") == 0


def test_a_test_that_ends_before_it_begins_is_refused():
    fold = options()._replace(test_until="1970-01-03")
    with pytest.raises(ValueError, match="test_until is not after config.data.test_from"):
        split_sequences("time", LOG, fold)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_until": "2026-01-01"}, "test_until='2026-01-01' needs a split by time"),
        ({"split": "ratio", "validation_from": "2026-01-01"}, "needs a split by time"),
        ({"split": "time", "test_share": 0.2}, "test_share=0.2 needs a split by ratio"),
        ({"stride": 10}, "stride=10 needs config.data.window='sliding'"),
    ],
)
def test_knobs_of_another_split_are_refused(changes, message):
    c = default()
    c.data.update(changes)
    with pytest.raises(ValueError, match=message):
        check_config(c)


@pytest.mark.parametrize("knob", [("ratio", 0.3), ("replace", "80/10/10"), ("last", 0.5)])
def test_what_hides_events_is_refused_where_none_are_hidden(knob):
    config = default()
    config.mask[knob[0]] = knob[1]
    check_config(config)
    config.tasks = ("next_item",)
    with pytest.raises(ValueError, match=f"config.mask.{knob[0]}=.* is for tasks that mask events"):
        check_config(config)


def test_a_deviation_is_refused_where_sizes_say_how_wide_a_distribution_is():
    config = default()
    config.model.initializer = "xavier"
    check_config(config)
    config.model.init_stddev = 0.3
    with pytest.raises(ValueError, match="config.model.init_stddev=0.3 is for a normal distrib"):
        check_config(config)
