"""Metrics of a run on a simulated shop, and of the shop's true probabilities.

    clickflax simulate --out data/shop --sequences 100000
    python experiments/truth.py runs/shop/test.json ...     # records that clickflax evaluate wrote

The shop knows the probability that a sequence with given events ends in a purchase, that a purchase
is returned, and that an item is the next one (or the next in the cart). For the same test examples,
no model has better metrics in expectation.
"""

import argparse
import json
import pathlib
from collections.abc import Iterator

import numpy as np
import rich.console
import rich.table

from clickflax.batch import PAD, RESERVED
from clickflax.config.default import from_dict
from clickflax.data.batches import Windows
from clickflax.data.packing import ramp
from clickflax.data.splits.common import Examples
from clickflax.data.splits.labels import LabelExamples
from clickflax.data.store import Dataset
from clickflax.run.folder import load_run, open_data
from clickflax.run.targets import make_task_data
from clickflax.runtime.files import read_json
from clickflax.simulation.truth import Truth, load_truth, ndcg_of_rank
from clickflax.tasks.label_metrics import binary_metrics

BATCH = 1000


def padded(values: np.ndarray, windows: Windows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of windows of similar length: their numbers, and their values as padded rows."""
    count = windows.stop - windows.start
    order = np.argsort(count, kind="stable")
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        rows = np.full((len(batch), count[batch].max()), PAD, np.int32)
        flat = np.repeat(windows.start[batch], count[batch]) + ramp(count[batch])
        rows[np.repeat(np.arange(len(batch)), count[batch]), ramp(count[batch])] = values[flat]
        yield batch, rows


def labels(truth: Truth, dataset: Dataset, name: str, part: LabelExamples) -> dict[str, float]:
    """Metrics of the true probabilities of the test labels."""
    event = np.flatnonzero(np.isfinite(part.label))
    if name == "returns":
        chance = np.load(dataset.path / "truth" / "events" / "return.npy")[event]
    else:
        start = dataset.offsets[np.searchsorted(dataset.offsets, event, side="right") - 1]
        windows, chance = Windows(start, event + 1), np.empty(len(event))
        both = (padded(dataset.columns[name], windows) for name in ("item", "action"))
        for (batch, items), (_, actions) in zip(*both, strict=True):
            chance[batch] = truth.purchase(items, actions)
    return binary_metrics(chance, part.label[event], 0.5)


def items(
    truth: Truth, dataset: Dataset, examples: Examples, given: str, cutoffs: tuple[int, ...]
) -> dict[str, float]:
    """NDCG of the ranking by the true probabilities of the next item."""
    rank = np.empty(len(examples))
    both = (padded(dataset.columns[name], examples.history) for name in ("item", "action"))
    for (batch, rows), (_, actions) in zip(*both, strict=True):
        scores = truth.next_items(rows, actions, given)
        own = scores[np.arange(len(batch)), examples.targets[batch] - RESERVED][:, None]
        rank[batch] = (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    return {f"ndcg@{k}": float(ndcg_of_rank(rank, k).mean()) for k in cutoffs}


def compare_with_truth(path: pathlib.Path) -> dict[str, dict[str, tuple[float, float]]]:
    """For each task, its metrics in a record, each with that of the true probabilities."""
    run, record = load_run(path.parent), read_json(path)
    dataset, config = open_data(run), from_dict(record["config"])
    truth, found = load_truth(dataset.path), {}
    for name, asked in make_task_data(config, dataset).items():
        prefix = f"{name}/" if len(run.tasks) > 1 else ""
        if isinstance(asked.test, Examples):
            (given,) = record[f"{prefix}protocol"]["given"] or ("=",)
            cutoffs = tuple(config.eval.cutoffs)
            best = items(truth, dataset, asked.test, given.split("=")[1], cutoffs)
        else:
            best = labels(truth, dataset, name, asked.test)
        pairs = {key: (record.get(prefix + key), value) for key, value in best.items()}
        found[name] = {key: pair for key, pair in pairs.items() if isinstance(pair[0], float)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("records", nargs="+", type=pathlib.Path, help="such as RUN/test.json")
    console = rich.console.Console()
    for path in parser.parse_args().records:
        for name, pairs in compare_with_truth(path).items():
            lines = rich.table.Table("metric", title=f"{name} of {path}", title_justify="left")
            for column in ("run", "truth", "run - truth"):
                lines.add_column(column, justify="right")
            for key, (ours, value) in pairs.items():
                lines.add_row(key, f"{ours:.4f}", f"{value:.4f}", f"{ours - value:+.4f}")
            console.print(lines)
            print(json.dumps({"run": path.parent.name, "task": name, "pairs": pairs}))


if __name__ == "__main__":
    main()
