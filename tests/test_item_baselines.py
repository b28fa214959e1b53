"""Item baselines that learn from the histories of users: item-kNN, EASE, BPR."""

import itertools
import json
import pathlib

import numpy as np
import pytest
import scipy.sparse

from clickflax.baselines import bpr, ease, item_knn, rankers
from clickflax.baselines.count_baselines import fit_recent_popularity
from clickflax.baselines.registry import BASELINES
from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.candidates import draw_candidates
from clickflax.data.splits.common import Examples

R = RESERVED


def close(found, expected):
    return np.allclose(found, expected, rtol=1e-9, atol=1e-12)


# Users who had: a b, a b c, c.
USERS = rankers.history_matrix(
    np.array([0, 1, 1, 0, 1, 2, 2, RESERVED - 1 - R], np.int32) + R,
    Windows(np.array([0, 3, 6]), np.array([3, 6, 8])),
    R + 4,
)


def test_a_history_matrix_has_every_item_once_and_no_reserved_id():
    assert USERS[:, R:].toarray().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]]
    assert USERS[:, :R].nnz == 0


def test_neighbours_are_the_highest_cosines_between_users_of_items():
    near = item_knn.cosine_neighbours(USERS).toarray()[R:, R:]
    half = 1 / 2  # c shares one user with a: 1 / (sqrt(2) sqrt(2))
    assert close(near, [[0, 1, half, 0], [1, 0, half, 0], [half, half, 0, 0], [0, 0, 0, 0]])
    nearest = item_knn.cosine_neighbours(USERS, most=1).toarray()[R:, R:]
    assert close(nearest[:2], [[0, 1, 0, 0], [1, 0, 0, 0]])
    assert (nearest[2] > 0).sum() == 1


def test_ease_is_the_ridge_regression_of_every_item_from_the_others():
    chance = np.random.default_rng(0)
    users = scipy.sparse.csr_matrix((chance.random((50, 8)) < 0.3).astype(float))
    found = ease.ease_weights(users, 7.0)
    x = users.toarray()
    for j in range(8):
        others = np.delete(np.arange(8), j)
        left = x[:, others]
        expected = np.linalg.solve(left.T @ left + 7.0 * np.eye(7), left.T @ x[:, j])
        np.testing.assert_allclose(found[others, j], expected, rtol=1e-4, atol=1e-6)
        assert found[j, j] == 0


@pytest.mark.parametrize("name", ["ease", "knn"])
def test_ease_and_neighbours_are_those_of_rectools_and_implicit(name):
    # EASEModel(regularization=2) of RecTools 0.19, CosineRecommender(K=5) of implicit.
    rectools = json.loads(pathlib.Path(__file__).with_name("rectools.json").read_text())["models"]
    bounds = np.cumsum([0] + [len(mine) for mine in rectools["histories"]])
    item = np.concatenate(rectools["histories"]).astype(np.int32) + R
    users = rankers.history_matrix(item, Windows(bounds[:-1], bounds[1:]), R + 15)
    expected = np.array(rectools[name])
    if name == "ease":
        found = ease.ease_weights(users, 2.0)[R:, R:]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    else:
        np.fill_diagonal(expected, 0)  # implicit counts an item among its own five neighbours
        found = item_knn.cosine_neighbours(users, most=4).toarray()[R:, R:]
        # Of those that are equally near, it may keep another one.
        np.testing.assert_allclose(np.sort(found), np.sort(expected), atol=1e-6)
        fifth = np.sort(item_knn.cosine_neighbours(users).toarray()[R:, R:])[:, -5]
        sure = np.sort(expected)[:, -4] > fifth + 1e-6
        assert sure.sum() >= 10
        np.testing.assert_allclose(found[sure], expected[sure], atol=1e-6)
    # RecTools ranks by the transpose of the matrix that EASE (Steck, 2019) multiplies a history
    # with, which is ours; that of neighbours is ours.
    scores = users.toarray()[:, R:] @ (expected.T if name == "ease" else expected)
    scores[users.toarray()[:, R:] > 0] = -np.inf
    theirs = np.take_along_axis(scores, np.array(rectools[f"{name}_lists"]), axis=1)
    there = theirs > 0  # where fewer items have a score, the rest of a list is any item
    assert there.sum() > 110
    np.testing.assert_allclose(theirs[there], -np.sort(-scores, axis=1)[:, :3][there], atol=1e-6)


def test_item_knn_scores_the_neighbours_of_the_items_of_the_history(monkeypatch):
    # The nearest neighbour of item 9 is item 0; a history of item 9 scores it first.
    sides = [[0, 9], [8, 9], [8, 1, 2], [8, 1, 2], [8, 1, 2], [9]]
    item = np.concatenate(sides).astype(np.int32) + R
    bounds = np.cumsum([0] + [len(side) for side in sides])
    windows = Windows(bounds[:-1], bounds[1:])
    where, none = np.ones(len(item), bool), np.zeros(0, np.int64)
    nobody = Examples(none, Windows(none, none), none, none)
    log = rankers.RankingLog(item, None, bounds, windows, R + 10, where, nobody, True)
    monkeypatch.setattr(item_knn.cosine_neighbours, "__defaults__", (1,))
    rank, _ = BASELINES["item_knn"].fit(log)
    example = Examples(
        np.array([5]), Windows(bounds[5:6], bounds[6:7]), np.array([R]), np.array([0])
    )
    users = rankers.history_matrix(item, windows, R + 10)
    near = item_knn.cosine_neighbours(users, 1).toarray()[R:, R:]
    assert near[9].nonzero()[0].tolist() == [0]  # 1/sqrt(3) is more than 1/sqrt(12)
    assert near[:, 9].nonzero()[0].tolist() == [0]
    assert rank(example, None) == [0]


# Users of even numbers have items 0 to 4, the others 5 to 9, but for one item each.
SIDES = [[user % 2 * 5 + i for i in range(5) if i != user % 5] for user in range(40)]
SIDE_ITEM = np.concatenate(SIDES).astype(np.int32) + R
SIDE_OFFSETS = np.arange(0, 161, 4)
MISSING = np.array([user % 2 * 5 + user % 5 for user in range(40)]) + R
EXAMPLES = Examples(
    np.arange(40), Windows(SIDE_OFFSETS[:-1], SIDE_OFFSETS[1:]), MISSING, np.arange(40)
)


def log_of(validation, time=None, filter_seen=True):
    where = np.ones(len(SIDE_ITEM), bool)
    windows = Windows(SIDE_OFFSETS[:-1], SIDE_OFFSETS[1:])
    return rankers.RankingLog(
        SIDE_ITEM, time, SIDE_OFFSETS, windows, R + 10, where, validation, filter_seen
    )


@pytest.mark.parametrize("way", ["item_knn", "ease", "bpr"])
def test_a_baseline_ranks_the_missing_item_of_a_cluster_first(way):
    rank, _ = BASELINES[way].fit(log_of(EXAMPLES))
    assert (rank(EXAMPLES, None) == 0).all()


def test_hyperparameters_are_chosen_on_the_validation_if_there_is_one(monkeypatch):
    monkeypatch.setattr(ease, "RIDGE", (1e9, 10.0))
    monkeypatch.setattr(ease, "ease_weights", lambda users, ridge: np.full((R + 10, R + 10), ridge))
    none = np.zeros(0, np.int64)
    nobody = Examples(none, Windows(none, none), none, none)
    assert ease.fit_ease(log_of(nobody)).chosen == {"ridge": 1e9}
    # Rankers by hyperparameter, of which number 2 is always right.
    rankers_of = {
        n: lambda some, candidates, n=n: np.full(len(some.targets), abs(n - 2.0)) for n in (1, 2, 3)
    }
    assert rankers.choose_on_validation(log_of(EXAMPLES), rankers_of.items())[0] == 2


@pytest.mark.parametrize("filter_seen", [False, True])
def test_ranks_by_scores_are_those_of_a_count(filter_seen, monkeypatch):
    monkeypatch.setattr(rankers, "SCORES_CHUNK", 7)
    scores = np.random.default_rng(1).integers(0, 4, (40, R + 10)).astype(float)
    log = log_of(EXAMPLES, filter_seen=filter_seen)
    rank = rankers.rank_by_scores(log, lambda some: scores[some.sequence])
    for user, found in enumerate(rank(EXAMPLES, None)):
        seen = set(SIDES[user]) if filter_seen else set()
        others = [i for i in range(10) if i not in seen and i != MISSING[user] - R]
        own = scores[user, MISSING[user]]
        more = sum(scores[user, R + i] > own for i in others)
        assert found == more + sum(scores[user, R + i] == own for i in others) / 2


def test_ranks_among_candidates_are_those_of_a_count(monkeypatch):
    monkeypatch.setattr(rankers, "SCORES_CHUNK", 7)
    log = log_of(EXAMPLES)
    candidates = draw_candidates(EXAMPLES, SIDE_ITEM, np.ones(R + 10), 3, True)
    bounds = candidates.offsets
    scores = np.random.default_rng(1).integers(0, 4, (40, R + 10)).astype(float)
    by_scores = rankers.rank_by_scores(log, lambda some: scores[some.sequence])(
        EXAMPLES, candidates
    )
    popularity = np.bincount(SIDE_ITEM, minlength=R + 10)
    after = np.zeros((R + 10, R + 10))
    for side in SIDES:
        for here, there in itertools.pairwise(side):
            after[R + here, R + there] += 1
    after /= np.maximum(after.sum(1, keepdims=True), 1)
    by_markov = BASELINES["markov"].fit(log)[0](EXAMPLES, candidates)
    for user, (found, markov) in enumerate(zip(by_scores, by_markov, strict=True)):
        drawn = candidates.items[bounds[user] : bounds[user + 1]]
        own = scores[user, MISSING[user]]
        ties = (scores[user, drawn] == own).sum()
        assert found == (scores[user, drawn] > own).sum() + ties / 2
        last = after[R + SIDES[user][-1]]
        keys = [(last[i], popularity[i]) for i in drawn]
        mine = (last[MISSING[user]], popularity[MISSING[user]])
        assert markov == sum(k > mine for k in keys) + keys.count(mine) / 2


@pytest.mark.parametrize("way", ["popularity", "markov", "item_knn", "ease"])
def test_a_rank_among_all_candidates_is_that_over_the_catalog(way):
    rank, _ = BASELINES[way].fit(log_of(EXAMPLES))
    everything = draw_candidates(EXAMPLES, SIDE_ITEM, np.ones(R + 10), 10, True)
    np.testing.assert_array_equal(rank(EXAMPLES, everything), rank(EXAMPLES, None))


def test_recent_popularity_counts_the_last_tenth_of_the_events():
    time = np.arange(160) * 1000
    rank, _ = fit_recent_popularity(log_of(EXAMPLES, time, filter_seen=False))
    last = np.bincount(SIDE_ITEM[-16:], minlength=R + 10)[R:]
    first = rank(EXAMPLES, None)[0]
    own = last[MISSING[0] - R]
    assert first == (last > own).sum() + ((last == own).sum() - 1) / 2
    with pytest.raises(rankers.NotApplicable, match="no times"):
        fit_recent_popularity(log_of(EXAMPLES))


def test_a_catalog_that_is_too_large_is_not_applicable(monkeypatch):
    monkeypatch.setattr(ease, "MOST_EASE_ITEMS", 5)
    monkeypatch.setattr(bpr, "MOST_BPR_ITEMS", 5)
    for way in ("ease", "bpr"):
        with pytest.raises(rankers.NotApplicable, match="items"):
            BASELINES[way].fit(log_of(EXAMPLES))


def test_a_step_of_bpr_follows_the_slope_of_its_likelihood(monkeypatch):
    """One pair of user 0, who had item 0 of two, and every draw is item 1: AdaGrad, from zero
    squares, moves each number by the rate, in the direction of its slope.
    """
    monkeypatch.setattr(bpr, "DECAY", 0.0)
    monkeypatch.setattr(bpr, "WIDTH", 2)
    first = bpr.init_factors(2, R + 2)
    users, sides = first.users.copy(), first.items.copy()
    users[0], sides[R], sides[R + 1] = [0.5, -1, 1], [1, 2, 0], [-1, 0.5, 0]
    zero = [np.zeros_like(one) for one in (users, sides)]

    class Chance:
        permutation = staticmethod(np.arange)

        def integers(self, low, high, size):
            return np.full(size, R + 1)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Chance())
    start = bpr.Factors(users, sides, *zero, epochs=0)
    with np.errstate(invalid="ignore"):
        moved = bpr.train_epoch(start, np.array([0]), np.array([R]))

    def likelihood(user, had, other):
        return -np.log1p(np.exp(-user @ (had - other)))

    def slope(which, index):
        vectors = [users[0].copy(), sides[R].copy(), sides[R + 1].copy()]
        found = []
        for sign in (1, -1):
            vectors[which][index] += sign * 1e-6
            found.append(likelihood(*vectors))
            vectors[which][index] -= sign * 1e-6
        return (found[0] - found[1]) / 2e-6

    changes = (
        moved.users[0] - users[0],
        moved.items[R] - sides[R],
        moved.items[R + 1] - sides[R + 1],
    )
    for which, change in enumerate(changes):
        for index in range(2 if which == 0 else 3):  # the last number of a user stays one
            expected = slope(which, index)
            assert change[index] == pytest.approx(np.sign(expected) * bpr.RATE)
    squares = moved.item_squares[R], moved.item_squares[R + 1], moved.user_squares[0]
    for which, found in zip((1, 2, 0), squares, strict=True):
        assert found[:2] == pytest.approx([slope(which, 0) ** 2, slope(which, 1) ** 2], rel=1e-4)
    assert moved.users[0, -1] == 1 and np.array_equal(moved.users[1], users[1])


def test_a_row_that_repeats_in_a_step_moves_by_the_sum():
    vectors, squares = np.zeros((3, 2)), np.zeros((3, 2))
    bpr.adagrad_step(vectors, squares, np.array([2, 0, 2]), np.array([[3.0, 1], [1, 1], [1, -3]]))
    assert squares.tolist() == [[1, 1], [0, 0], [16, 4]]
    assert vectors / bpr.RATE == pytest.approx(np.array([[1, 1], [0, 0], [1, -1]]))
