"""Ranking metrics, against numbers by hand and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score, top_k_accuracy_score

from clickflax.tasks import ranking_metrics as metrics


def one_user(ranks, k):
    """Metrics of a single user whose relevant items stand at `ranks`."""
    ranks = np.asarray(ranks, np.float32)
    result = metrics.ranking_metrics(ranks, np.zeros(len(ranks), np.int32), 1, [k])
    return {name.split("@")[0]: float(values[0]) for name, values in result.items()}


def test_an_item_in_second_place_gains_one_over_log2_of_three():
    assert one_user([1], 10)["ndcg"] == pytest.approx(1 / np.log2(3))


def test_metrics_of_two_relevant_items_of_which_one_is_found():
    # Places 1 and 4; the best possible at 3 would be the places 0 and 1.
    got = one_user([4, 1], 3)
    assert got["recall"] == 1 / 2
    assert got["hit_rate"] == 1
    assert got["precision"] == pytest.approx(1 / 3)
    assert got["mrr"] == 1 / 2
    assert got["ndcg"] == pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3)))
    assert got["map"] == pytest.approx((1 / 2) / 2)


def test_the_ideal_is_min_n_k_hits():
    # Five relevant items, three places, all three hit: nothing better is possible.
    got = one_user([0, 1, 2, 3, 4], 3)
    assert (got["ndcg"], got["map"], got["precision"]) == (1, 1, 1)
    assert got["recall"] == 3 / 5


def test_the_place_at_the_cutoff_is_a_miss():
    assert set(one_user([10], 10).values()) == {0}
    assert one_user([9], 10)["recall"] == 1


def test_a_mean_place_past_the_last_of_the_list_is_a_miss():
    assert one_user([9.5], 10)["recall"] == 0
    assert one_user([0.5], 1)["recall"] == 0
    assert one_user([8.5], 10)["ndcg"] == pytest.approx(1 / np.log2(10.5))


def test_relevant_items_that_tie_with_each_other_do_not_exceed_one():
    got = one_user([1, 1, 1], 2)
    assert max(got.values()) <= 1
    assert got["precision"] == 1  # one behind the other they stand at 1, 1 and 2
    assert got["ndcg"] == pytest.approx((2 / np.log2(3)) / (1 + 1 / np.log2(3)))


def test_users_are_kept_apart_and_one_without_a_relevant_item_counts_zero():
    ranks = np.array([3, 0, 0, np.inf, np.nan], np.float32)
    owner = np.array([0, 3, 1, 3, 1], np.int64)
    got = metrics.ranking_metrics(ranks, owner, 4, [1, 5])
    assert got["recall@5"].tolist() == [1, 0.5, 0, 0.5]
    assert got["hit_rate@1"].tolist() == [0, 1, 0, 1]
    assert got["mrr@5"].tolist() == [0.25, 1, 0, 1]
    assert metrics.mean_metrics(got)["recall@5"] == 0.5


def test_a_cutoff_beyond_the_catalog_needs_no_memory_and_changes_precision_only():
    big = 10**12
    got = one_user([2, 5], big)
    assert got["recall"] == 1
    assert got["precision"] == 2 / big
    assert got["map"] == pytest.approx((1 / 3 + 2 / 6) / 2)


def complete_lists(seed, users=40, items=30):
    """Random scores without ties, random relevant items (at least one a user), and their ranks."""
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(items, dtype=np.float32), (users, 1)), axis=1)
    relevant = rng.random((users, items)) < 0.2
    relevant[np.arange(users), rng.integers(0, items, users)] = True
    owner, column = np.nonzero(relevant)
    return scores, relevant, owner, items - 1 - scores[owner, column]


@pytest.mark.parametrize("k", [1, 3, 10, 30])
def test_ndcg_equals_that_of_scikit_learn(k):
    scores, relevant, owner, found = complete_lists(seed=k)
    got = metrics.ranking_metrics(found, owner, len(scores), [k])[f"ndcg@{k}"]
    assert got.mean() == pytest.approx(ndcg_score(relevant, scores, k=k))


def test_map_over_the_whole_catalog_equals_average_precision_of_scikit_learn():
    scores, relevant, owner, found = complete_lists(seed=5)
    got = metrics.ranking_metrics(found, owner, len(scores), [30])["map@30"]
    wanted = [average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(got, wanted)


@pytest.mark.parametrize("k", [1, 5])
def test_recall_of_a_single_item_equals_top_k_accuracy_of_scikit_learn(k):
    scores, _, _, _ = complete_lists(seed=k)
    target = np.arange(len(scores), dtype=np.int32) % scores.shape[1]
    found = scores.shape[1] - 1 - scores[np.arange(len(scores)), target]
    got = metrics.mean_metrics(
        metrics.ranking_metrics(found, np.arange(len(scores)), len(scores), [k])
    )
    wanted = top_k_accuracy_score(target, scores, k=k, labels=np.arange(scores.shape[1]))
    assert got[f"recall@{k}"] == pytest.approx(wanted)


def test_bad_arguments_are_named():
    place, owner = np.zeros(1, np.float32), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match=r"cutoffs=\[10, 0\]: \[0\] must be 1 or more"):
        metrics.ranking_metrics(place, owner, 1, [10, 0])
    with pytest.raises(ValueError, match="owner goes from 0 to 0, outside 0 ... -1"):
        metrics.ranking_metrics(place, owner, 0, [1])
    with pytest.raises(ValueError, match="distinct"):
        metrics.ranking_metrics(place - 0.5, owner, 1, [1])
    with pytest.raises(ValueError, match="no users"):
        metrics.mean_metrics({"recall@1": np.zeros(0)})
