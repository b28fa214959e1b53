"""`clickflax simulate`: a data set of a shop whose truth is known, for the quick start and tests.

shop.py invents the shop and lets its users in; truth.py says what the best possible answers are.
The truth lies beside the events:

    DIR/truth/truth.json           the actions, and the NDCG@10 that is possible
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
from clickflax.simulation.shop import Catalog, Shop, Visits, invent, visit
from clickflax.simulation.truth import Truth, gain, save_truth

CUTOFF = 10
RANKED = 5000  # sequences, at most, whose last item is ranked for the report


def simulate(path: str | os.PathLike, shop: Shop, overwrite: bool = False) -> dict:
    """Writes the data set of a shop with its truth, and returns what it holds and what is possible.

    That is dataset.json, and in `ndcg@10` the mean over the last items of the first `sequences`
    sequences, seen items left out, of the `best_possible` ranking and of `popularity`.
    """
    with new_dataset_folder(path, overwrite) as folder:
        catalog, truth = invent(shop)
        catalog, truth, visits = _by_frequency(catalog, truth, visit(shop, truth))
        item = (visits.item + RESERVED).astype(np.int32)
        action = (visits.action + RESERVED).astype(np.int32)
        info = _write_events(folder, shop, catalog, truth, visits)
        some = visits.offsets[: RANKED + 1]
        popular = popularity_ndcg(visits.offsets, visits.item, shop.items, CUTOFF)
        possible = {
            "sequences": len(some) - 1,
            "best_possible": float(truth.ndcg(some, item[: some[-1]], CUTOFF).mean()),
            "popularity": float(popular[:RANKED].mean()),
        }
        save_truth(folder, truth, {f"ndcg@{CUTOFF}": possible})
        for name, values in truth.events(visits.offsets, item, action).items():
            write_array(folder / "truth" / "events" / f"{name}.npy", values)
        write_array(folder / "truth" / "sequences" / "taste.npy", visits.taste)
    return {**info, f"ndcg@{CUTOFF}": possible}


def _write_events(
    folder: pathlib.Path, shop: Shop, catalog: Catalog, truth: Truth, visits: Visits
) -> dict:
    """Writes what any prepared data set has, and returns its dataset.json."""
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


def _by_frequency(catalog: Catalog, truth: Truth, visits: Visits) -> tuple[Catalog, Truth, Visits]:
    """The same, items and actions in the order of vocabularies: frequent first, then by token."""
    items, new_item = _order(catalog.token, visits.item)
    actions, new_action = _order(truth.actions, visits.action)
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


def _order(
    tokens: list[str] | tuple[str, ...], values: Int[np.ndarray, " E"]
) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, " V"]]:
    """Old places in their new order, and the new place of each old one."""
    count = np.bincount(values, minlength=len(tokens))
    order = np.lexsort((np.array(tokens), -count))
    new = np.empty_like(order)
    new[order] = np.arange(len(order))
    return order, new


def popularity_ndcg(
    offsets: Int[np.ndarray, " bounds"], items: Int[np.ndarray, " E"], catalog: int, k: int
) -> Float[np.ndarray, " S"]:
    """NDCG@k of the last item of each sequence, the most frequent unseen items first."""
    last = offsets[1:] - 1
    before = np.ones(len(items), bool)
    before[last] = False
    count = np.bincount(items[before], minlength=catalog)
    ordered = np.sort(count)
    own = count[items[last]]
    owner = np.repeat(np.arange(len(last)), np.diff(offsets) - 1)
    seen = count[items[before]]
    below = np.searchsorted(ordered, own, side="left")
    to = np.searchsorted(ordered, own, side="right")
    greater = catalog - to - np.bincount(owner[seen > own[owner]], minlength=len(last))
    others = to - below - 1 - np.bincount(owner[seen == own[owner]], minlength=len(last))
    return gain(greater + others / 2, k)


def report(path: str | os.PathLike, found: dict) -> str:
    """What was simulated, and what is attainable on it, in a few lines."""
    possible = found[f"ndcg@{CUTOFF}"]
    return "\n".join(
        [
            f"{path}: {found['sequences']:,} sequences, {found['events']:,} events, "
            f"{found['items']:,} items",
            f"NDCG@{CUTOFF} of the last item of {possible['sequences']:,} sequences, "
            "seen items left out:",
            f"  best possible  {possible['best_possible']:.4f}  by the truth in {path}/truth",
            f"  popularity     {possible['popularity']:.4f}",
        ]
    )


def main(argv: list[str]) -> None:
    """The verb `simulate`."""
    parser = argparse.ArgumentParser(
        prog="clickflax simulate",
        description="Make a data set of a shop whose truth is known.",
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
        help="cut longer ones, or at half the items",
    )
    add("--tastes", type=int, default=Shop.tastes, help="hidden kinds of user")
    add(
        "--thrift",
        type=float,
        default=Shop.thrift,
        help="how much rather cheap items are put in the cart; 2: the dearest never",
    )
    add("--overwrite", action="store_true", help="replace the data set that is in --out")
    options = vars(parser.parse_args(argv))
    path, overwrite = options.pop("out"), options.pop("overwrite")
    print(report(path, simulate(path, Shop(**options), overwrite)))
