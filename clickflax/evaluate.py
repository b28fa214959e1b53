"""`clickflax evaluate`: ranks every item of the catalog for every user, and counts."""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import rich.console
import rich.table
from jaxtyping import Float, Int, Shaped
from ml_collections import ConfigDict

from clickflax.asker import Asker, make_asker
from clickflax.data.asking import count_repeats, pad_lists
from clickflax.data.split import Examples, Split, SplitOptions, count_cold, split
from clickflax.data.store import Dataset
from clickflax.events import RESERVED
from clickflax.run import Run, load_run, open_data, read_config, read_json, write_json
from clickflax.runtime import sharding
from clickflax.tasks.metrics import mean, ranking
from clickflax.tasks.scores import ranks


class Ranker:
    """Ranks the targets of examples; compiled once, for any parameters."""

    def __init__(self, asker: Asker, filter_seen: bool):
        self.asker = asker
        self.filter_seen = filter_seen
        self.compiled = asker.compile(ranks)

    def __call__(
        self, params: Any, columns: Mapping[str, Shaped[np.ndarray, " E"]], examples: Examples
    ) -> Float[np.ndarray, " T"]:
        """The place of every target of `examples`, in their order."""
        bounds = np.searchsorted(examples.owner, np.arange(len(examples) + 1))
        targets = examples.targets - RESERVED
        most = max(1, int(np.diff(bounds).max()))

        def padded(values: Int[np.ndarray, " T"]) -> Callable[..., np.ndarray]:
            return lambda example: pad_lists(values, bounds, example, most)

        found = np.full(len(targets), np.nan, np.float32)
        history, seen = examples.history, self.filter_seen
        asked = self.asker.ask(params, self.compiled, columns, history, seen, padded(targets))
        for example, places in asked:
            which = padded(np.arange(len(targets)))(example)
            found[which[which >= 0]] = places[which >= 0]
        return found


def split_of(config: ConfigDict, dataset: Dataset) -> Split:
    """The split that a config describes."""
    data = config.data
    options = SplitOptions(data.validation_users, data.validation_from, data.test_from)
    return split(data.split, dataset.offsets, dataset.columns, dataset.part, options)


def evaluate(
    ranker: Ranker,
    params: Any,
    columns: Mapping[str, Shaped[np.ndarray, " E"]],
    examples: Examples,
    cutoffs: tuple[int, ...],
) -> dict[str, float]:
    """The mean of every metric over the examples."""
    places = ranker(params, columns, examples)
    return mean(ranking(places, examples.owner, len(examples), cutoffs))


def protocol(run: Run, which: str, filter_seen: bool) -> dict[str, Any]:
    """What the numbers depend on, to stand beside them."""
    data = run.config.data
    until = {"time": "before the moment of the split"}.get(data.split, "before the target")
    looks = run.config.model.max_len - (not run.task.causal)  # a place is the MASK's
    moments = {"validation_from": data.validation_from, "test_from": data.test_from}
    return {
        "split": data.split,
        "part": which,
        "validation_users": data.validation_users,
        **(moments if data.split == "time" else {}),
        "history": f"every event {until}; the model looks at the last {looks}",
        "candidates": f"all {run.items.size - RESERVED} items",
        "filter_seen": filter_seen,
        "ties": "mean place",
    }


def table(metrics: Mapping[str, float], cutoffs: tuple[int, ...], title: str) -> rich.table.Table:
    """Metrics down, cut-offs across."""
    lines = rich.table.Table(title=title, title_justify="left")
    lines.add_column("metric")
    for k in cutoffs:
        lines.add_column(f"@{k}", justify="right")
    for name in dict.fromkeys(key.split("@")[0] for key in metrics):
        lines.add_row(name, *(f"{metrics[f'{name}@{k}']:.4f}" for k in cutoffs))
    return lines


def evaluate_run(
    folder: str | pathlib.Path,
    which: str,
    *,
    data: str | None = None,
    filter_seen: bool | None = None,
    cutoffs: tuple[int, ...] | None = None,
    checkpoint: str = "best",
) -> dict[str, Any]:
    """Evaluates a run, keeps the record in its folder, and returns it."""
    run = load_run(folder, checkpoint)
    dataset = open_data(run, data)
    config = run.config
    parts = split_of(config, dataset)
    examples: Examples = getattr(parts, which)
    if not len(examples):
        raise ValueError(f"The {which} part of {dataset.path} has no examples: {parts.dropped}.")
    filter_seen = bool(config.eval.filter_seen if filter_seen is None else filter_seen)
    cutoffs = tuple(config.eval.cutoffs) if cutoffs is None else cutoffs
    mesh = sharding.make_mesh()
    ranker = Ranker(make_asker(config, run.model, run.task, mesh), filter_seen)
    params = sharding.replicate(run.params, mesh)
    start = time.perf_counter()
    metrics = evaluate(ranker, params, dataset.columns, examples, cutoffs)
    record = {
        **metrics,
        "users": len(examples),
        "protocol": protocol(run, which, filter_seen),
        "dropped": parts.dropped,
        "targets_in_the_history": count_repeats(
            dataset.columns["item"], examples.history, examples.targets, examples.owner
        ),
        "targets_never_trained_on": count_cold(parts, examples, dataset.columns["item"]),
        "data": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "run": str(folder),
        "checkpoint": run.checkpoint,
        "step": run.progress["step"],
        "train_seconds": round(run.progress["seconds"], 1),
        "seconds_to_checkpoint": round(run.progress["seconds_to_here"], 1),
        "evaluate_seconds": round(time.perf_counter() - start, 2),
    }
    environment = read_json(run.folder / "environment.json")
    full = {**record, "environment": environment, "config": config.to_dict()}
    write_json(run.folder / f"{which}.json", full)
    return record


def main(argv: list[str]) -> None:
    """`clickflax evaluate --run DIR --split test`."""
    parser = argparse.ArgumentParser(prog="clickflax evaluate", description=__doc__)
    parser.add_argument("--run", required=True, help="the folder of a run")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--data", help="another prepared data set with the same catalog")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--cutoffs", help="such as 5,10,20; default: config.eval.cutoffs")
    parser.add_argument(
        "--filter-seen", action=argparse.BooleanOptionalAction, help="default: config.eval"
    )
    flags = parser.parse_args(argv)
    cutoffs = None
    if flags.cutoffs is not None:
        if not all(k.isdigit() and int(k) for k in flags.cutoffs.split(",")):
            raise ValueError(f"--cutoffs={flags.cutoffs!r} is not a list such as 5,10,20.")
        cutoffs = tuple(int(k) for k in flags.cutoffs.split(","))
    sharding.use_devices(read_config(flags.run).train.cpu_devices)
    record = evaluate_run(
        flags.run,
        flags.split,
        data=flags.data,
        filter_seen=flags.filter_seen,
        cutoffs=cutoffs,
        checkpoint=flags.checkpoint,
    )
    repeats = record["targets_in_the_history"]
    if record["protocol"]["filter_seen"] and repeats:
        print(
            f"clickflax evaluate: warning: {repeats:,} targets had been in their history before. "
            "With the rest of it filtered they are easy to find: where people come back to what "
            "they had, --no-filter-seen is the honest number.",
            file=sys.stderr,
        )
    metrics = {name: value for name, value in record.items() if "@" in name}
    title = f"{flags.split} of {flags.run}: {record['users']:,} users"
    shown = tuple(dict.fromkeys(int(name.split("@")[1]) for name in metrics))
    rich.console.Console().print(table(metrics, shown, title))
    print(json.dumps(record))
