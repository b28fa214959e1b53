"""Places and best lists in chunks of the catalog: by hand, and against sorts of all the scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickflax.model.heads import Answers
from clickflax.tasks import ranks as scores

CHUNKS = (1, 5, 7, 16, 30, 1000)  # of a catalog of 30: some divide it, some do not
RESERVED = 2  # rows of the table before the first item


@jax.jit
def of_one(values, seen, targets):
    """Places for one answer whose items have the scores `values`, in chunks and all at once."""
    answers = Answers(jnp.ones((1, 1)), values[:, None], None, 0)
    seen = jnp.stack([jnp.where(seen < 0, -1, 0), seen], axis=1)
    return [
        scores.rank_targets(answers, seen, chunk, targets[None])[0] for chunk in (2, len(values))
    ]


def places(values, targets, seen=()):
    """Ranks for a single answer, from lists; the same in chunks of two."""
    chunked, at_once = of_one(
        np.asarray(values, np.float32), np.asarray(seen, np.int32), np.asarray(targets, np.int32)
    )
    assert np.array_equal(chunked, at_once)
    return chunked.tolist()


def test_the_rank_is_the_number_of_items_with_a_greater_score():
    assert places([0.1, 0.4, 0.3, 0.2], [1, 0, 3]) == [0, 3, 2]


def test_constant_scores_put_the_target_in_the_middle_and_not_first():
    assert places(np.zeros(101), [7]) == [50]


def test_a_tie_is_at_the_mean_of_the_places_it_shares():
    assert places([5.0, 1.0, 1.0, 1.0, 0.0], [2]) == [2.0]
    assert places([5.0, 1.0, 1.0, 0.0], [2]) == [1.5]


def test_seen_items_are_not_counted_however_often_they_were_seen():
    assert places([0.9, 0.8, 0.7, 0.6], [3], [0, 2, 0]) == [1]
    assert places([0.5, 0.5, 0.5, 0.6], [0], [1, 3, 3]) == [0.5]


def test_a_target_is_never_filtered_even_when_it_was_seen():
    assert places([0.9, 0.8, 0.7], [1], [0, 1]) == [0]
    assert places([0.9, 0.8, 0.7], [1, 0], [0, 1]) == [1, 0]


def test_a_target_whose_score_is_nan_is_a_miss():
    assert places([np.nan, 0.1, 0.2], [0]) == [np.inf]
    assert places([np.nan] * 3, [0, 1], [2]) == [np.inf, np.inf]


def test_another_item_whose_score_is_nan_does_not_outrank_the_target():
    assert places([np.nan, 0.1, 0.2], [2, 1], [0, -1]) == [0, 1]


@pytest.mark.parametrize("padding", [-1, -3, 4, 1000])
def test_padding_filters_nothing_and_a_padded_target_is_a_miss(padding):
    assert places([0.9, 0.8, 0.7, 0.6], [3, padding], [padding, 0, padding]) == [2, np.inf]


def test_scores_of_minus_infinity_and_infinity_are_ranked():
    assert places([-np.inf, 0.0, np.inf], [0, 1, 2]) == [2, 1, 0]


def naive_places(values, targets, seen):
    """Sort the list that is left after filtering, and average the places of equal scores."""
    listed = [i for i in range(len(values)) if i in targets or i not in seen]
    listed = [i for i in listed if not np.isnan(values[i])]
    ordered = sorted((values[i] for i in listed), reverse=True)
    return [
        float(np.mean([p for p, score in enumerate(ordered) if score == values[t]]))
        if t in listed
        else np.inf
        for t in targets
    ]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_counting_equals_sorting(data):
    score = st.integers(0, 4).map(float) | st.just(np.nan)
    values = data.draw(st.lists(score, min_size=9, max_size=9))
    targets = data.draw(st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True))
    seen = data.draw(st.sets(st.integers(0, 8), max_size=5))
    padded = (sorted(seen) + [-1] * 5)[:5]
    assert places(values, targets, padded) == naive_places(values, targets, seen)


@pytest.fixture(scope="module")
def question():
    """Six answers over 30 items with many ties, as the numbers are small whole ones; what was seen,
    some of it twice, some of it padding; two targets each."""
    rng = np.random.default_rng(0)
    answers = Answers(
        jnp.asarray(rng.integers(-2, 3, (6, 4)), jnp.float32),
        jnp.asarray(rng.integers(-2, 3, (30 + RESERVED, 4)), jnp.float32),
        jnp.asarray(rng.integers(-1, 2, 30), jnp.float32),
        RESERVED,
    )
    seen = np.stack([rng.integers(0, 6, 40), rng.integers(0, 30, 40)], axis=1).astype(np.int32)
    seen = np.concatenate([seen, seen[:5], np.full((3, 2), -1, np.int32)])
    targets = np.stack([rng.permutation(30)[:2] for _ in range(6)]).astype(np.int32)
    return answers, jnp.asarray(seen), jnp.asarray(targets)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_places_are_those_of_a_sort_of_all_the_scores_whatever_the_chunk(question, chunk):
    answers, seen, targets = question
    table = np.asarray(answers.scores())
    pairs = seen.tolist()
    expected = [
        naive_places(table[a], targets[a].tolist(), {item for b, item in pairs if a == b})
        for a in range(6)
    ]
    assert scores.rank_targets(answers, seen, chunk, targets).tolist() == expected


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("k", [1, 10])
def test_the_best_are_those_of_a_stable_sort_of_all_the_scores_whatever_the_chunk(
    question, chunk, k
):
    answers, seen, _ = question
    table = np.array(answers.scores())
    answer, item = np.asarray(seen[:-3]).T
    table[answer, item] = -np.inf
    order = np.argsort(-table, axis=1, kind="stable")[:, :k]
    score, item = scores.top_k_items(answers, seen, chunk, k)
    assert item.tolist() == order.tolist()
    assert score.tolist() == np.take_along_axis(table, order, axis=1).tolist()


@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_list_ends_where_all_else_was_seen_and_nan_is_never_in_it(chunk):
    table = jnp.arange(30.0).at[3].set(jnp.nan)[:, None]
    seen = jnp.stack([jnp.zeros(26, int), jnp.arange(4, 30)], axis=1)
    score, item = scores.top_k_items(Answers(jnp.ones((1, 1)), table, None, 0), seen, chunk, 5)
    assert item[0, :3].tolist() == [2, 1, 0]
    assert score[0].tolist() == [2, 1, 0, -np.inf, -np.inf]


@pytest.mark.parametrize("chunk", [7, 50])
def test_an_item_equals_itself_in_half_precision(chunk):
    features = jax.random.normal(jax.random.key(0), (4, 8), jnp.bfloat16)
    table = jax.random.normal(jax.random.key(1), (50, 8))
    targets = jnp.tile(jnp.arange(50), (4, 1))
    program = jax.jit(
        lambda x, table: scores.rank_targets(
            Answers(x, table, jnp.zeros(50), 0), jnp.zeros((0, 2), int), chunk, targets
        )
    )
    found = np.asarray(program(features, table))
    # Mean places of a complete list add up to 0 + 1 + ... + 49 whatever the ties.
    np.testing.assert_array_equal(found.sum(axis=1), 49 * 50 / 2)
    assert found.min() >= 0


def test_memory_beside_the_table_does_not_grow_with_the_catalog():
    def temporary_bytes(items, find):
        def program(features, table, seen):
            return find(Answers(features, table, None, RESERVED), seen)

        shapes = [
            jax.ShapeDtypeStruct(shape, dtype)
            for shape, dtype in [
                ((16, 8), jnp.float32),
                ((items + RESERVED, 8), jnp.float32),
                ((40, 2), jnp.int32),
            ]
        ]
        return jax.jit(program).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    targets = jnp.zeros((16, 2), int)
    for find in (
        lambda answers, seen: scores.rank_targets(answers, seen, 128, targets),
        lambda answers, seen: scores.top_k_items(answers, seen, 128, 10),
    ):
        small, large = temporary_bytes(1_000, find), temporary_bytes(100_000, find)
        assert large < small + 10_000
        assert large < 10 * 16 * 128 * 4 < 16 * 100_000 * 4  # a few chunks, not the whole
