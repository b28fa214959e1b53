"""Writes rectools.json: what RecTools says of random lists, and what its EASE and implicit's
item-kNN learn from random histories. `pip install rectools==0.19`, then

python tests/write_rectools.py
"""

import json
import pathlib

import numpy as np
import pandas as pd
from implicit.nearest_neighbours import CosineRecommender
from rectools import Columns, metrics
from rectools.dataset import Dataset
from rectools.metrics.distances import PairwiseHammingDistanceCalculator
from rectools.models import EASEModel, ImplicitItemKNNWrapperModel

USERS, ITEMS, K, CUTOFFS = 20, 30, 8, (1, 3, 8)


def long_table(lists: np.ndarray) -> pd.DataFrame:
    """Lists as RecTools has them, a line for each place."""
    lines = [(u, i, p + 1) for u, row in enumerate(lists) for p, i in enumerate(row) if i >= 0]
    return pd.DataFrame(lines, columns=[Columns.User, Columns.Item, Columns.Rank])


def pairs(lines: list[tuple[int, int]]) -> pd.DataFrame:
    """Events as RecTools has them."""
    return pd.DataFrame(lines, columns=[Columns.User, Columns.Item])


def learned() -> dict:
    """Models of 40 users who had 2 to 8 of 15 items each, and the best three items for each user
    among those that he did not have.
    """
    chance = np.random.default_rng(1)
    items = [chance.choice(15, chance.integers(2, 9), replace=False) for _ in range(40)]
    events = pairs([(u, int(i)) for u, mine in enumerate(items) for i in mine])
    events = events.assign(**{Columns.Weight: 1.0, Columns.Datetime: pd.Timestamp("2020-01-01")})
    dataset = Dataset.construct(events)
    ids = dataset.item_id_map.convert_to_internal(np.arange(15))
    models = {
        "ease": EASEModel(regularization=2.0),
        "knn": ImplicitItemKNNWrapperModel(CosineRecommender(K=5)),
    }
    found = {"histories": [sorted(mine.tolist()) for mine in items]}
    for name, model in models.items():
        model.fit(dataset)
        matrix = model.weight if name == "ease" else model.model.similarity.toarray()
        found[name] = np.round(matrix[ids][:, ids].astype(float), 7).tolist()
        lists = model.recommend(np.arange(40), dataset, k=3, filter_viewed=True)
        found[f"{name}_lists"] = lists[Columns.Item].to_numpy().reshape(40, 3).tolist()
    return found


def main() -> None:
    chance = np.random.default_rng(0)
    # The last items have no training event, and the last lists end early.
    trained = [(int(u), int(i)) for u in range(USERS) for i in chance.choice(25, 6, replace=False)]
    lists = np.stack([chance.choice(ITEMS, K, replace=False) for _ in range(USERS)])
    lists[-3:, 5:] = -1
    other = np.stack([chance.choice(ITEMS, K, replace=False) for _ in range(USERS)])
    targets = [(u, int(i)) for u in range(USERS) for i in chance.choice(ITEMS, 3, replace=False)]
    features = chance.integers(0, 3, (ITEMS, 4))
    catalog = np.arange(ITEMS)
    table = pd.DataFrame(features, index=pd.Index(catalog, name=Columns.Item))
    distances = PairwiseHammingDistanceCalculator(table)
    lists_table, before, after = long_table(lists), pairs(trained), pairs(targets)
    found = {}
    for k in CUTOFFS:
        of_lists = {
            "coverage": metrics.CatalogCoverage(k, normalize=True).calc(lists_table, catalog),
            "popularity": metrics.AvgRecPopularity(k, normalize=True).calc(lists_table, before),
            "novelty": metrics.MeanInvUserFreq(k).calc(lists_table, before),
            "diversity": metrics.IntraListDiversity(k, distances).calc(lists_table),
            "intersection": metrics.Intersection(k).calc(lists_table, long_table(other)),
            "serendipity": metrics.Serendipity(k).calc(lists_table, after, before, catalog),
        }
        hits = {
            "recall": metrics.Recall(k),
            "precision": metrics.Precision(k),
            "hit_rate": metrics.HitRate(k),
            "ndcg": metrics.NDCG(k, divide_by_achievable=True),
            "mrr": metrics.MRR(k),
            "map": metrics.MAP(k, divide_by_k=False),
        }
        of_lists |= {name: metric.calc(lists_table, after) for name, metric in hits.items()}
        found |= {f"{name}@{k}": float(value) for name, value in of_lists.items()}
    told = {
        "items": ITEMS,
        "trained": trained,
        "lists": lists.tolist(),
        "reference": other.tolist(),
        "targets": targets,
        "features": features.tolist(),
        "metrics": found,
        "models": learned(),
    }
    path = pathlib.Path(__file__).with_name("rectools.json")
    path.write_text(json.dumps(told) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
