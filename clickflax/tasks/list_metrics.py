"""Metrics of lists beside their hits: how much of the catalog, how well known, how much alike.

With the first k items of each of Q lists, the counts n_i of an item in N training events, and the
users u_i of U that have it there,

    coverage@k      share of the V items that stand in at least one list
    gini@k          how unevenly the items share the places: 0 all alike, near 1 a few have all
    popularity@k    n_i / N, the mean over a list
    novelty@k       -log2(u_i / U), the mean over a list; an item of nobody as that of one user
    serendipity@k   max(0, (r_i - place_i) / V) of the items that are relevant, else 0, the mean
                    over a list; r_i is the place of n_i among the different counts, 0 the highest
    diversity@k     in how many features the pairs of a list differ, the mean; 0 for a single item
    intersection@k  share of a list that the first k of another model's list for it have, too

Places count from 0. But for coverage and Gini, the mean over the lists that have an item; empty
places, -1, count nowhere. An item without events has r_i = V. RecTools defines them as well:
its popularity is the one with `normalize`, its diversity that of Hamming distances.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

LIST_METRICS = (
    "coverage",
    "gini",
    "popularity",
    "novelty",
    "serendipity",
    "diversity",
    "intersection",
)


class TrainingCounts(NamedTuple):
    """What the training part has of each item."""

    events: Int[np.ndarray, " V"]
    users: Int[np.ndarray, " V"]
    of_users: int  # in all


def training_counts(
    item: Int[np.ndarray, " E"], sequence: Int[np.ndarray, " E"], items: int
) -> TrainingCounts:
    """The counts of training events, items 0 ... V-1 and the sequences that they belong to."""
    pairs = np.unique(np.stack([sequence, item]), axis=1)
    users = np.bincount(pairs[1], minlength=items)
    return TrainingCounts(np.bincount(item, minlength=items), users, len(np.unique(sequence)))


def beyond_hits(
    lists: Int[np.ndarray, "Q K"],
    relevant: Bool[np.ndarray, "Q K"],
    trained: TrainingCounts,
    cutoffs: Sequence[int],
    features: Shaped[np.ndarray, "V F"] | None = None,
    reference: Int[np.ndarray, "Q K"] | None = None,
) -> dict[str, float]:
    """Every metric at each cut-off, "coverage@10" and so on, as defined at the top of this file.

    `relevant` says which items of the lists are targets. There is `diversity` where items have
    `features`, and `intersection` where there is a `reference`.
    """
    longest = lists.shape[1]
    if max(cutoffs) > longest:
        raise ValueError(f"cutoffs={list(cutoffs)}: the lists have {longest} places.")
    items, events = len(trained.events), trained.events
    there, safe = lists >= 0, np.maximum(lists, 0)
    counts = np.unique(events[events > 0])[::-1]
    place = np.searchsorted(-counts, -events)
    place = np.where(events > 0, place, items)
    of_item = {
        "popularity": events / max(1, events.sum()),
        "novelty": -np.log2(np.maximum(trained.users, 1) / max(1, trained.of_users)),
    }
    ahead = np.maximum(0, place[safe] - np.arange(longest)) / items
    values = {name: of[safe] for name, of in of_item.items()} | {"serendipity": ahead * relevant}
    found = {}
    for k in cutoffs:
        some = there[:, :k]
        has = some.any(1)
        if not has.any():
            raise ValueError("There is no list with an item.")
        shown = np.bincount(lists[:, :k][some], minlength=items)
        found[f"coverage@{k}"] = float((shown > 0).mean())
        found[f"gini@{k}"] = gini(shown)
        for name, value in values.items():
            found[f"{name}@{k}"] = float(mean_known(value[:, :k], some)[has].mean())
        if features is not None:
            found[f"diversity@{k}"] = float(diversity(lists[has, :k], features).mean())
        if reference is not None:
            both = np.zeros(some.shape, bool)
            for other in reference[:, :k].T:  # one at a time: nothing has the shape [Q, K, K]
                both |= lists[:, :k] == other[:, None]
            found[f"intersection@{k}"] = float(mean_known(both, some)[has].mean())
    return found


def mean_known(
    values: Shaped[np.ndarray, "Q K"], there: Bool[np.ndarray, "Q K"]
) -> Float[np.ndarray, " Q"]:
    """The mean of each list over the places that are there; 0 without one."""
    return (values * there).sum(1) / np.maximum(1, there.sum(1))


def gini(shown: Int[np.ndarray, " V"]) -> float:
    """The coefficient of Gini of how often the items are shown: half the mean of the differences of
    all pairs, by the mean.
    """
    ordered, count = np.sort(shown).astype(np.float64), len(shown)
    return float(((2 * np.arange(count) + 1 - count) * ordered).sum() / (count * ordered.sum()))


def diversity(
    lists: Int[np.ndarray, "Q K"], features: Shaped[np.ndarray, "V F"]
) -> Float[np.ndarray, " Q"]:
    """In how many features the pairs of each list differ, the mean over its pairs."""
    total, pairs = np.zeros(len(lists)), np.zeros(len(lists))
    for i in range(1, lists.shape[1]):  # pairs that are i places apart
        left, right = lists[:, :-i], lists[:, i:]
        both = (left >= 0) & (right >= 0)
        apart = (features[np.maximum(left, 0)] != features[np.maximum(right, 0)]).sum(2)
        total += (apart * both).sum(1)
        pairs += both.sum(1)
    return total / np.maximum(1, pairs)


def feature_table(features: Mapping[str, Sequence]) -> Int[np.ndarray, "V F"]:
    """Columns of the catalog as one of codes: a text has one column, of several values each that
    any item has is a column of its own.
    """
    columns = []
    for values in features.values():
        if any(isinstance(value, list | tuple) for value in values):
            known = sorted({one for value in values for one in value or ()})
            columns += [[int(one in (value or ())) for value in values] for one in known]
        else:
            columns.append(np.unique([str(value) for value in values], return_inverse=True)[1])
    return np.stack([np.asarray(column, np.int32) for column in columns], 1)
