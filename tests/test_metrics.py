"""Ranking metrics: ranks by counting, against numbers by hand, scikit-learn and a naive sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score, top_k_accuracy_score

from clickflax.tasks import metrics


def places(scores, targets, seen=((),)):
    """Ranks of one row or several, from lists."""
    scores = np.asarray(scores, np.float32)
    targets = np.asarray(targets, np.int32)
    seen = np.asarray(seen, np.int32).reshape(len(scores), -1)
    return np.asarray(jax.jit(metrics.ranks)(scores, targets, seen))


def one_user(ranks, k):
    """Metrics of a single user whose relevant items stand at `ranks`."""
    ranks = np.asarray(ranks, np.float32)
    result = metrics.ranking(ranks, np.zeros(len(ranks), np.int32), 1, [k])
    return {name.split("@")[0]: float(values[0]) for name, values in result.items()}


def test_the_rank_is_the_number_of_items_with_a_greater_score():
    assert places([[0.1, 0.4, 0.3, 0.2]], [[1, 0, 3]]).tolist() == [[0, 3, 2]]


def test_constant_scores_put_the_target_in_the_middle_and_not_first():
    assert places(np.zeros((1, 101)), [[7]]).tolist() == [[50]]


def test_a_tie_is_at_the_mean_of_the_places_it_shares():
    assert places([[5.0, 1.0, 1.0, 1.0, 0.0]], [[2]]).tolist() == [[2.0]]
    assert places([[5.0, 1.0, 1.0, 0.0]], [[2]]).tolist() == [[1.5]]


def test_seen_items_are_not_counted():
    assert places([[0.9, 0.8, 0.7, 0.6]], [[3]], [[0, 2]]).tolist() == [[1]]
    assert places([[0.5, 0.5, 0.5, 0.6]], [[0]], [[1, 3]]).tolist() == [[0.5]]


def test_a_target_is_never_filtered_even_when_it_was_seen():
    assert places([[0.9, 0.8, 0.7]], [[1]], [[0, 1]]).tolist() == [[0]]
    assert places([[0.9, 0.8, 0.7]], [[1, 0]], [[0, 1]]).tolist() == [[1, 0]]


def test_a_target_whose_score_is_nan_is_a_miss():
    assert places([[np.nan, 0.1, 0.2]], [[0]]).tolist() == [[np.inf]]
    assert places(np.full((1, 3), np.nan), [[0, 1]], [[2]]).tolist() == [[np.inf, np.inf]]


def test_another_item_whose_score_is_nan_does_not_outrank_the_target():
    assert places([[np.nan, 0.1, 0.2]], [[2, 1]], [[0, -1]]).tolist() == [[0, 1]]


@pytest.mark.parametrize("padding", [-1, -3, 4, 1000])
def test_padding_filters_nothing_and_a_padded_target_is_a_miss(padding):
    scores = [[0.9, 0.8, 0.7, 0.6]]
    assert places(scores, [[3, padding]], [[padding, 0, padding]]).tolist() == [[2, np.inf]]


def test_scores_of_minus_infinity_and_infinity_are_ranked():
    assert places([[-np.inf, 0.0, np.inf]], [[0, 1, 2]]).tolist() == [[2, 1, 0]]


def test_an_item_equals_itself_in_half_precision_inside_the_program_that_scores_it():
    @jax.jit
    def program(x, table, targets, seen):
        return metrics.ranks(x @ table.T, targets, seen)

    x = jax.random.normal(jax.random.key(0), (4, 8), jnp.bfloat16)
    table = jax.random.normal(jax.random.key(1), (50, 8), jnp.bfloat16)
    targets = jnp.tile(jnp.arange(50), (4, 1))
    found = np.asarray(program(x, table, targets, jnp.full((4, 1), -1)))
    # Mean places of a complete list add up to 0 + 1 + ... + 49 whatever the ties.
    np.testing.assert_array_equal(found.sum(axis=1), 49 * 50 / 2)
    assert found.min() >= 0


def naive_places(scores, targets, seen):
    """Sort the list that is left after filtering, and average the places of equal scores."""
    listed = [i for i in range(len(scores)) if i in targets or i not in seen]
    listed = [i for i in listed if not np.isnan(scores[i])]
    ordered = sorted((scores[i] for i in listed), reverse=True)
    return [
        float(np.mean([p for p, score in enumerate(ordered) if score == scores[t]]))
        if t in listed
        else np.inf
        for t in targets
    ]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_counting_equals_sorting(data):
    score = st.integers(0, 4).map(float) | st.just(np.nan)
    scores = data.draw(st.lists(score, min_size=9, max_size=9))
    targets = data.draw(st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True))
    seen = data.draw(st.sets(st.integers(0, 8), max_size=5))
    padded = (sorted(seen) + [-1] * 5)[:5]
    assert places([scores], [targets], [padded]).tolist() == [naive_places(scores, targets, seen)]


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
    got = metrics.ranking(ranks, owner, 4, [1, 5])
    assert got["recall@5"].tolist() == [1, 0.5, 0, 0.5]
    assert got["hit_rate@1"].tolist() == [0, 1, 0, 1]
    assert got["mrr@5"].tolist() == [0.25, 1, 0, 1]
    assert metrics.mean(got)["recall@5"] == 0.5


def test_a_cutoff_larger_than_any_catalog_needs_no_memory_and_changes_nothing_but_precision():
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
    every = np.tile(np.arange(items, dtype=np.int32), (users, 1))
    return scores, relevant, owner, places(scores, every, np.full((users, 1), -1))[owner, column]


@pytest.mark.parametrize("k", [1, 3, 10, 30])
def test_ndcg_equals_that_of_scikit_learn(k):
    scores, relevant, owner, found = complete_lists(seed=k)
    got = metrics.ranking(found, owner, len(scores), [k])[f"ndcg@{k}"]
    assert got.mean() == pytest.approx(ndcg_score(relevant, scores, k=k))


def test_map_over_the_whole_catalog_equals_average_precision_of_scikit_learn():
    scores, relevant, owner, found = complete_lists(seed=5)
    got = metrics.ranking(found, owner, len(scores), [30])["map@30"]
    wanted = [average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(got, wanted)


@pytest.mark.parametrize("k", [1, 5])
def test_recall_of_a_single_item_equals_top_k_accuracy_of_scikit_learn(k):
    scores, _, _, _ = complete_lists(seed=k)
    target = np.arange(len(scores), dtype=np.int32) % scores.shape[1]
    found = places(scores, target[:, None], np.full((len(scores), 1), -1))[:, 0]
    got = metrics.mean(metrics.ranking(found, np.arange(len(scores)), len(scores), [k]))
    wanted = top_k_accuracy_score(target, scores, k=k, labels=np.arange(scores.shape[1]))
    assert got[f"recall@{k}"] == pytest.approx(wanted)


def test_bad_arguments_are_named():
    place, owner = np.zeros(1, np.float32), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match=r"cutoffs=\[10, 0\]: \[0\] must be 1 or more"):
        metrics.ranking(place, owner, 1, [10, 0])
    with pytest.raises(ValueError, match="owner goes from 0 to 0, outside 0 ... -1"):
        metrics.ranking(place, owner, 0, [1])
    with pytest.raises(ValueError, match="distinct"):
        metrics.ranking(place - 0.5, owner, 1, [1])
    with pytest.raises(ValueError, match="no users"):
        metrics.mean({"recall@1": np.zeros(0)})
