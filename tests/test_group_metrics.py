"""Who is served well: metrics by the length of the history and the popularity of the target."""

import numpy as np
import pytest

from clickflax.tasks.group_metrics import group, group_metrics, metrics_by_group
from clickflax.tasks.ranking_metrics import metrics_by_sequence


def test_groups_are_about_equally_large_and_say_what_is_in_them():
    groups = group(np.array([3, 1, 2, 5, 4, 10, 8, 7, 6, 9]))
    assert groups.names == ["1 to 2", "3 to 4", "5 to 6", "7 to 8", "9 to 10"]
    assert groups.of.tolist() == [1, 0, 0, 2, 1, 4, 3, 3, 2, 4]


def test_groups_may_begin_at_nothing():
    assert group(np.arange(10)).names[0::4] == ["0 to 1", "8 to 9"]


def test_what_is_alike_is_in_one_group():
    groups = group(np.array([0, 0, 0, 0, 7, 2000]))
    assert groups.names == ["0", "1 to 7", "8 to 2,000"]
    assert groups.of.tolist() == [0, 0, 0, 0, 1, 2]
    assert group(np.full(4, 9)).names == ["9"]


def test_the_metrics_of_a_group_are_the_means_of_its_targets():
    groups = group(np.array([1, 1, 5, 5]))
    found = metrics_by_group(groups, np.array([0.0, 9.0, 1.0, np.inf]), (2,))
    assert found["recall@2"].tolist() == [0.5, 0.5]
    assert found["ndcg@2"] == pytest.approx([0.5, 0.5 / np.log2(3)])


def test_a_record_tells_of_both_ways_to_group():
    rows = {
        "rank": np.array([0.0, 3.0]),
        "history": np.array([2, 8]),
        "trained": np.array([5, 5]),
    }
    found = group_metrics(rows, (1, 4))
    assert found["history"]["bins"] == ["2", "3 to 8"] and found["history"]["targets"] == [1, 1]
    assert found["history"]["recall@1"] == [1, 0] and found["history"]["recall@4"] == [1, 1]
    assert found["trained"]["bins"] == ["5"] and found["trained"]["recall@1"] == [0.5]


def test_a_user_has_the_mean_over_the_questions_of_his():
    rows = {
        "example": np.array([0, 1, 1, 2]),
        "sequence": np.array([4, 4, 4, 7]),
        "rank": np.array([0.0, 1.0, 20.0, 3.0]),
    }
    found = metrics_by_sequence(rows, (2, 5))
    assert found["sequence"].tolist() == [4, 7] and found["examples"].tolist() == [2, 1]
    assert found["recall@2"].tolist() == [0.75, 0] and found["recall@5"].tolist() == [0.75, 1]
