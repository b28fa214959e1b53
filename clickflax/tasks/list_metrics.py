"""Beyond-accuracy metrics of recommendation lists: coverage, popularity, novelty, diversity.

For the first k items of Q lists, with the counts n_i of item i in N training events and u_i of the
U training users who have it:

    coverage@k      share of the V items that are in at least one list
    gini@k          Gini coefficient of how often items are shown: 0 for all equally often, near 1
                    if few items fill the lists
    popularity@k    mean of n_i / N over a list
    novelty@k       mean of -log2(u_i / U) over a list; an item without users counts as with one
    serendipity@k   mean over a list of max(0, (r_i - rank_i) / V) for relevant items and 0 for
                    others; r_i is the rank of n_i among the distinct counts, 0 for the highest
    diversity@k     mean number of features in which the pairs of a list differ; 0 for one item
    intersection@k  share of a list that is in the first k items of another model's list

Ranks count from 0. All but coverage and Gini are means over the lists with an item; -1 is an empty
entry and counts nowhere. An item without training events has r_i = V. RecTools has the same
metrics: `popularity` is its version with `normalize`, `diversity` that with Hamming distances.
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


class ItemCounts(NamedTuple):
    """Training events and training users of each item."""

    events: Int[np.ndarray, " V"]
    users: Int[np.ndarray, " V"]
    all_users: int


def count_items(
    item: Int[np.ndarray, " E"], sequence: Int[np.ndarray, " E"], items: int
) -> ItemCounts:
    """The counts of training events with items 0 ... V-1; the users are their sequences."""
    pairs = np.unique(np.stack([sequence, item]), axis=1)
    users = np.bincount(pairs[1], minlength=items)
    return ItemCounts(np.bincount(item, minlength=items), users, len(np.unique(sequence)))


def list_metrics(
    lists: Int[np.ndarray, "Q K"],
    relevant: Bool[np.ndarray, "Q K"],
    trained: ItemCounts,
    cutoffs: Sequence[int],
    features: Shaped[np.ndarray, "V F"] | None = None,
    reference: Int[np.ndarray, "Q K"] | None = None,
) -> dict[str, float]:
    """Every metric at each cut-off, such as "coverage@10", as defined at the top of this file.

    `relevant` is a mask of the targets in the lists. `diversity` needs `features` of the items, and
    `intersection` a `reference`. Raises ValueError if the lists are shorter than a cut-off, or all
    empty.
    """
    longest = lists.shape[1]
    if max(cutoffs) > longest:
        raise ValueError(f"cutoffs={list(cutoffs)}: the lists have {longest} items only.")
    items, events = len(trained.events), trained.events
    filled, safe = lists >= 0, np.maximum(lists, 0)
    counts = np.unique(events[events > 0])[::-1]
    popularity_rank = np.searchsorted(-counts, -events)
    popularity_rank = np.where(events > 0, popularity_rank, items)
    of_item = {
        "popularity": events / max(1, events.sum()),
        "novelty": -np.log2(np.maximum(trained.users, 1) / max(1, trained.all_users)),
    }
    ahead = np.maximum(0, popularity_rank[safe] - np.arange(longest)) / items
    values = {name: of[safe] for name, of in of_item.items()} | {"serendipity": ahead * relevant}
    metrics = {}
    for k in cutoffs:
        mask = filled[:, :k]
        has = mask.any(1)
        if not has.any():
            raise ValueError("All lists are empty.")
        shown = np.bincount(lists[:, :k][mask], minlength=items)
        metrics[f"coverage@{k}"] = float((shown > 0).mean())
        metrics[f"gini@{k}"] = gini(shown)
        for name, value in values.items():
            metrics[f"{name}@{k}"] = float(masked_mean(value[:, :k], mask)[has].mean())
        if features is not None:
            metrics[f"diversity@{k}"] = float(diversity(lists[has, :k], features).mean())
        if reference is not None:
            both = np.zeros(mask.shape, bool)
            for other in reference[:, :k].T:  # one at a time: nothing has the shape [Q, K, K]
                both |= lists[:, :k] == other[:, None]
            metrics[f"intersection@{k}"] = float(masked_mean(both, mask)[has].mean())
    return metrics


def masked_mean(
    values: Shaped[np.ndarray, "Q K"], mask: Bool[np.ndarray, "Q K"]
) -> Float[np.ndarray, " Q"]:
    """The mean of each row over the entries of a mask; 0 for a row without any."""
    return (values * mask).sum(1) / np.maximum(1, mask.sum(1))


def gini(shown: Int[np.ndarray, " V"]) -> float:
    """The Gini coefficient: half of the mean absolute difference of all pairs, over the mean."""
    ordered, count = np.sort(shown).astype(np.float64), len(shown)
    return float(((2 * np.arange(count) + 1 - count) * ordered).sum() / (count * ordered.sum()))


def diversity(
    lists: Int[np.ndarray, "Q K"], features: Shaped[np.ndarray, "V F"]
) -> Float[np.ndarray, " Q"]:
    """The mean number of features in which the pairs of each list differ."""
    total, pairs = np.zeros(len(lists)), np.zeros(len(lists))
    for i in range(1, lists.shape[1]):  # pairs at distance i in the list
        left, right = lists[:, :-i], lists[:, i:]
        both = (left >= 0) & (right >= 0)
        differing = (features[np.maximum(left, 0)] != features[np.maximum(right, 0)]).sum(2)
        total += (differing * both).sum(1)
        pairs += both.sum(1)
    return total / np.maximum(1, pairs)


def encode_features(features: Mapping[str, Sequence]) -> Int[np.ndarray, "V F"]:
    """Columns of the catalog as codes.

    A column with one value per item becomes one column of codes; a multi-valued one becomes an
    indicator column for each of its values.
    """
    columns = []
    for values in features.values():
        if any(isinstance(value, list | tuple) for value in values):
            known = sorted({one for value in values for one in value or ()})
            columns += [[int(one in (value or ())) for value in values] for one in known]
        else:
            columns.append(np.unique([str(value) for value in values], return_inverse=True)[1])
    return np.stack([np.asarray(column, np.int32) for column in columns], 1)
