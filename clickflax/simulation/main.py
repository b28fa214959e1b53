"""`clickflax simulate`: a data set of a simulated shop, for the quick start and tests.

shop.py draws the shop and the visits of its users; truth.py computes the true probabilities, which
no model can beat on average. They are stored with the events:

    DIR/truth/truth.json           the actions, and the best possible NDCG@10
    DIR/truth/NAME.npy             every probability of the shop; `truth.load_truth(DIR)` reads them
    DIR/truth/events/NAME.npy      [E] next_item, purchase, return: see `Truth.events`
    DIR/truth/sequences/taste.npy  [S] the hidden taste
"""

import argparse
import dataclasses
import os
import pathlib

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from clickflax.batch import RESERVED
from clickflax.data.store import new_dataset_folder, write_array, write_dataset
from clickflax.simulation.shop import Catalog, Shop, Visits, make_shop, simulate_visits
from clickflax.simulation.truth import Truth, ndcg_of_rank, save_truth

CUTOFF = 10
MAX_RANKED = 5000  # sequences in the NDCG of the report


def simulate(path: str | os.PathLike, shop: Shop, overwrite: bool = False) -> dict:
    """Writes the data set of a shop with its true probabilities, and returns its dataset.json.

    The entry `ndcg@10` is added to it: the mean NDCG@10 of the last items of the first `sequences`
    sequences, without seen items, for the `best_possible` ranking and for `popularity`.
    """
    with new_dataset_folder(path, overwrite) as folder:
        catalog, truth = make_shop(shop)
        visits = simulate_visits(shop, truth)
        catalog, truth, visits = _sort_by_frequency(catalog, truth, visits)
        item = (visits.item + RESERVED).astype(np.int32)
        action = (visits.action + RESERVED).astype(np.int32)
        info = _write_events(folder, shop, catalog, truth, visits)
        offsets = visits.offsets[: MAX_RANKED + 1]
        popularity = popularity_ndcg(visits.offsets, visits.item, shop.items, CUTOFF)
        possible = {
            "sequences": len(offsets) - 1,
            "best_possible": float(truth.ndcg(offsets, item[: offsets[-1]], CUTOFF).mean()),
            "popularity": float(popularity[:MAX_RANKED].mean()),
        }
        save_truth(folder, truth, {f"ndcg@{CUTOFF}": possible})
        for name, values in truth.events(visits.offsets, item, action).items():
            write_array(folder / "truth" / "events" / f"{name}.npy", values)
        write_array(folder / "truth" / "sequences" / "taste.npy", visits.taste)
    return {**info, f"ndcg@{CUTOFF}": possible}


def _write_events(
    folder: pathlib.Path, shop: Shop, catalog: Catalog, truth: Truth, visits: Visits
) -> dict:
    """Writes the events as a prepared data set, and returns its dataset.json."""
    items = {
        "token": catalog.token,
        "count": np.bincount(visits.item, minlength=shop.items),
        "title": catalog.title,
        "category": catalog.category,
        "price": catalog.price,
    }
    actions = {
        "token": list(truth.actions),
        "count": np.bincount(visits.action, minlength=len(truth.actions)),
    }
    return write_dataset(
        folder,
        source="simulate",
        options=dataclasses.asdict(shop),
        offsets=visits.offsets,
        events={
            "item": (visits.item + RESERVED).astype(np.int32),
            "action": (visits.action + RESERVED).astype(np.int32),
            "price": catalog.price[visits.item],
            "time": visits.time,
        },
        vocabularies={"item": pa.table(items), "action": pa.table(actions)},
        sequences=pa.table({"token": [f"session-{s}" for s in range(1, shop.sequences + 1)]}),
        counts={"read": len(visits.item), "dropped": {}, "kept": len(visits.item)},
    )


def _sort_by_frequency(
    catalog: Catalog, truth: Truth, visits: Visits
) -> tuple[Catalog, Truth, Visits]:
    """Returns the same with items and actions in vocabulary order: by frequency, then by token."""
    items, new_item = _vocabulary_order(catalog.token, visits.item)
    actions, new_action = _vocabulary_order(truth.actions, visits.action)
    catalog = Catalog(
        token=[catalog.token[i] for i in items],
        title=[catalog.title[i] for i in items],
        category=[catalog.category[i] for i in items],
        price=catalog.price[items],
    )
    truth = dataclasses.replace(
        truth,
        taste=truth.taste[:, items],
        related=new_item[truth.related[items]],
        cart=truth.cart[:, items],
        returns=truth.returns[:, items],
        actions=tuple(truth.actions[a] for a in actions),
    )
    visits = dataclasses.replace(
        visits, item=new_item[visits.item], action=new_action[visits.action]
    )
    return catalog, truth, visits


def _vocabulary_order(
    tokens: list[str] | tuple[str, ...], values: Int[np.ndarray, " E"]
) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, " V"]]:
    """Returns the old positions in vocabulary order, and the new position of each old one."""
    count = np.bincount(values, minlength=len(tokens))
    order = np.lexsort((np.array(tokens), -count))
    new = np.empty_like(order)
    new[order] = np.arange(len(order))
    return order, new


def popularity_ndcg(
    offsets: Int[np.ndarray, " bounds"], items: Int[np.ndarray, " E"], catalog: int, k: int
) -> Float[np.ndarray, " S"]:
    """NDCG@k of the last item of each sequence, with unseen items ranked by frequency.

    An item gets the mean rank of the items of its frequency.
    """
    last = offsets[1:] - 1
    before = np.ones(len(items), bool)
    before[last] = False
    count = np.bincount(items[before], minlength=catalog)
    ordered = np.sort(count)
    target_count = count[items[last]]
    sequence = np.repeat(np.arange(len(last)), np.diff(offsets) - 1)
    seen_count = count[items[before]]
    first_equal = np.searchsorted(ordered, target_count, side="left")
    first_greater = np.searchsorted(ordered, target_count, side="right")
    seen_greater = np.bincount(sequence[seen_count > target_count[sequence]], minlength=len(last))
    seen_equal = np.bincount(sequence[seen_count == target_count[sequence]], minlength=len(last))
    greater = catalog - first_greater - seen_greater
    ties = first_greater - first_equal - 1 - seen_equal
    return ndcg_of_rank(greater + ties / 2, k)


def format_report(path: str | os.PathLike, info: dict) -> str:
    """Returns the size of a simulated data set and its best possible NDCG, as text."""
    possible = info[f"ndcg@{CUTOFF}"]
    return "\n".join(
        [
            f"{path}: {info['sequences']:,} sequences, {info['events']:,} events, "
            f"{info['items']:,} items",
            f"NDCG@{CUTOFF} of the last item of {possible['sequences']:,} sequences, "
            "without seen items:",
            f"  best possible  {possible['best_possible']:.4f}  (probabilities in {path}/truth)",
            f"  popularity     {possible['popularity']:.4f}",
        ]
    )


def main(argv: list[str]) -> None:
    """Runs `clickflax simulate` with these arguments."""
    parser = argparse.ArgumentParser(
        prog="clickflax simulate",
        description="Make a data set of a simulated shop with known probabilities.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", required=True, default=argparse.SUPPRESS, help="folder of the data set")
    add("--sequences", type=int, default=Shop.sequences, help="users, each with one sequence")
    add("--items", type=int, default=Shop.items, help="size of the catalog")
    add("--seed", type=int, default=Shop.seed, help="the same seed gives the same bytes")
    add("--mean-length", type=float, default=Shop.mean_length, help="events of a sequence")
    add(
        "--max-length",
        type=int,
        default=Shop.max_length,
        help="cut longer sequences, and those of more than half of the items",
    )
    add("--tastes", type=int, default=Shop.tastes, help="number of hidden user types")
    add(
        "--thrift",
        type=float,
        default=Shop.thrift,
        help="preference for cheap items in the cart, 0 to 2; 2: the most expensive never",
    )
    add("--overwrite", action="store_true", help="replace the data set in --out")
    options = vars(parser.parse_args(argv))
    path = options.pop("out")
    overwrite = options.pop("overwrite")
    print(format_report(path, simulate(path, Shop(**options), overwrite)))
