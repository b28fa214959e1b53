"""What lists are like beside their hits, beside RecTools and by hand."""

import json
import pathlib

import numpy as np
import pytest

from clickflax.tasks.list_metrics import (
    LIST_METRICS,
    ItemCounts,
    count_items,
    encode_features,
    gini,
    list_metrics,
)
from clickflax.tasks.ranking_metrics import mean_metrics, ranking_metrics

TOLD = json.loads(pathlib.Path(__file__).with_name("rectools.json").read_text(encoding="utf-8"))
LISTS, REFERENCE = np.array(TOLD["lists"]), np.array(TOLD["reference"])
TARGETS = np.array(TOLD["targets"])
CUTOFFS = (1, 3, 8)


def expected(*names):
    return {k: v for k, v in TOLD["metrics"].items() if k.split("@")[0] in names}


def test_lists_are_what_rectools_says_of_them():
    users, items = np.array(TOLD["trained"]).T
    trained = count_items(items, users, TOLD["items"])
    relevant = np.array(
        [np.isin(row, TARGETS[TARGETS[:, 0] == u, 1]) for u, row in enumerate(LISTS)]
    )
    features = np.array(TOLD["features"])
    found = list_metrics(LISTS, relevant, trained, CUTOFFS, features, REFERENCE)
    names = ("coverage", "popularity", "novelty", "serendipity", "diversity", "intersection")
    theirs = expected(*names)
    assert len(theirs) == 18
    assert {name: found[name] for name in theirs} == pytest.approx(theirs, abs=1e-9)
    assert {name.split("@")[0] for name in found} == set(LIST_METRICS)


def test_hits_are_what_rectools_says_of_them():
    places = np.full(len(TARGETS), np.inf)
    for i, (user, item) in enumerate(TARGETS):
        at = np.flatnonzero(LISTS[user] == item)
        places[i] = at[0] if len(at) else np.inf
    found = mean_metrics(ranking_metrics(places, TARGETS[:, 0], len(LISTS), CUTOFFS))
    theirs = expected("recall", "precision", "hit_rate", "ndcg", "mrr", "map")
    assert len(theirs) == 18
    found["map@1"] /= 3  # of 3 relevant items: theirs divides by their number, ours by min(n, k)
    assert {name: found[name] for name in theirs} == pytest.approx(theirs, abs=1e-9)


def test_the_coefficient_of_gini_is_half_the_mean_difference_by_the_mean():
    shown = np.array([0, 3, 1, 8])
    apart = np.abs(shown[:, None] - shown[None]).mean()
    assert gini(shown) == pytest.approx(apart / 2 / shown.mean())
    assert gini(np.array([2, 2, 2])) == 0.0
    assert gini(np.array([0] * 99 + [5])) == pytest.approx(0.99)


def test_an_item_that_nobody_had_is_as_new_as_one_of_a_single_user():
    trained = ItemCounts(np.array([4, 0, 1]), np.array([4, 0, 1]), 4)
    lists = np.array([[1, 2], [0, -1]])
    found = list_metrics(lists, np.ones((2, 2), bool), trained, (2,))
    assert found["novelty@2"] == pytest.approx((2.0 + 0.0) / 2)
    # Item 1 leads by the whole catalog; item 2, the second of the counts, stands where it should.
    assert found["serendipity@2"] == pytest.approx(((3 - 0) / 3 + 0) / 2 / 2)
    assert found["coverage@2"] == 1.0 and "diversity@2" not in found


def test_lists_that_end_before_the_cut_off_are_refused():
    trained = ItemCounts(np.array([1]), np.array([1]), 1)
    with pytest.raises(ValueError, match="the lists have 1 items"):
        list_metrics(np.array([[0]]), np.array([[True]]), trained, (2,))
    with pytest.raises(ValueError, match="All lists are empty"):
        list_metrics(np.array([[-1]]), np.array([[True]]), trained, (1,))


def test_features_of_a_catalog_are_columns_of_codes():
    table = encode_features({"year": ["1995", None, "1995"], "genres": [["a", "b"], ["b"], None]})
    assert table.tolist() == [[0, 1, 1], [1, 0, 1], [0, 0, 0]]
