"""`clickflax evaluate`: ranks every item of the catalog for every user, and counts."""

import argparse
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import rich.console
import rich.table
import scipy.special
from jaxtyping import Float, Int, Shaped
from ml_collections import ConfigDict

from clickflax.asker import Asker, make_asker
from clickflax.checks import check_given
from clickflax.config import of_task, override, to_dict
from clickflax.data.asking import count_repeats, pad_lists
from clickflax.data.features import ITEM
from clickflax.data.labels import LABELS, LabelPart
from clickflax.data.split import Examples, cold_targets
from clickflax.data.store import Dataset
from clickflax.data.variables import read
from clickflax.events import MASK, RESERVED, SEP
from clickflax.questions import Asked, ask_about
from clickflax.run import (
    load_run,
    open_data,
    read_config,
    read_json,
    told_of,
    told_pairs,
    write_json,
)
from clickflax.runtime import sharding
from clickflax.tasks.label_metrics import best_threshold, classes, curve, numbers, yes_or_no
from clickflax.tasks.metrics import mean, ranking
from clickflax.tasks.scores import ranks
from clickflax.tasks.tasks import BASKET, MASKED, NEXT, Task

Columns = Mapping[str, Shaped[np.ndarray, "E ..."]]


class Ranker:
    """Ranks the targets of examples; compiled once, for any parameters."""

    def __init__(self, asker: Asker, filter_seen: bool):
        self.asker = asker
        self.filter_seen = filter_seen
        self.compiled = asker.compile(ranks)

    def __call__(
        self, params: Any, columns: Columns, examples: Examples
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


class Teller:
    """Tells the labels of events; compiled once, for any parameters."""

    def __init__(self, asker: Asker):
        self.asker = asker
        self.compiled = asker.compile_labels()

    def __call__(self, params: Any, columns: Columns, part: LabelPart) -> Float[np.ndarray, "N C"]:
        """The logits of the labels of a part, in the order of their events."""
        events = np.flatnonzero(np.isfinite(part.label))
        return self.asker.tell(params, self.compiled, columns, part.ranges, events)


class Judge:
    """Asks a task of the examples of a part, and gives the metrics; compiled once."""

    def __init__(self, asker: Asker, asked: Asked, columns: Columns, config: ConfigDict):
        self.asked, self.columns, self.config = asked, asked.reads(columns), config
        head = asked.task.head
        self.is_label = isinstance(asked.test, LabelPart)
        if self.is_label:
            self.tell = Teller(asker)
        else:
            self.rank = Ranker(asker, config.eval.filter_seen and head == "item")
        self.threshold: float | None = None  # of the validation, once it has been told

    def __call__(self, params: Any, which: str) -> dict[str, float]:
        """The mean of every metric over the examples of a part."""
        return self.examine(params, which)[0]

    def examine(self, params: Any, which: str) -> tuple[dict[str, float], dict[str, Any]]:
        """The metrics, and what the record of an evaluation has beside them: see `curve` and
        `cold_metrics`.
        """
        part = getattr(self.asked, which)
        if isinstance(part, Examples):
            places = self.rank(params, self.columns, part)
            cutoffs = tuple(self.config.eval.cutoffs)
            beside = cold_metrics(self.asked, part, places, self.columns, self.config)
            return mean(ranking(places, part.owner, len(part), cutoffs)), beside
        logits = self.tell(params, self.columns, part)
        label, kind = part.label[np.isfinite(part.label)], self.config.label.kind
        if self.asked.task.head != "label" or kind == "binary":
            p = scipy.special.expit(logits[:, 0])
            if which == "validation":
                self.threshold = best_threshold(p, label)
            threshold = 0.5 if self.threshold is None else self.threshold
            return yes_or_no(p, label, threshold), curve(p, label)
        if kind == "classes":
            return classes(scipy.special.softmax(logits, 1), label), {}
        return numbers(logits[:, 0], label), {}


def cold_metrics(
    asked: Asked,
    part: Examples,
    places: Float[np.ndarray, " T"],
    columns: Columns,
    config: ConfigDict,
) -> dict[str, float]:
    """Where items have features, the metrics over the targets alone that were never trained on, and
    over the users who have any.
    """
    if asked.task.head != "item" or not any(n.startswith(ITEM) for n in config.data.variables):
        return {}
    cold = cold_targets(asked.train, part, columns["item"])
    if not cold.any():
        return {}
    users, owner = np.unique(part.owner[cold], return_inverse=True)
    found = mean(ranking(places[cold], owner, len(users), tuple(config.eval.cutoffs)))
    return {f"cold/{name}": value for name, value in found.items()}


def protocol(
    config: ConfigDict, dataset: Dataset, name: str, task: Task, which: str
) -> dict[str, Any]:
    """What the numbers of a task depend on, to stand beside them."""
    data = config.data
    moments = {"validation_from": data.validation_from, "test_from": data.test_from}
    where = of_task(config.task_where, config.tasks, name)
    common = {"split": data.split, "part": which, **(moments if "time" in data.split else {})}
    common |= {"chain": data.chain, "where": where}
    if name in LABELS:
        read = "the events so far" if task.causal else "the whole range that may be read"
        return {**common, **{key: config.label[key] for key in config.label}, "read": read}
    until = "before the moment of the split" if data.split == "time" else "before the target"
    if name == BASKET:
        until = "before the part that is asked for"
    elif data.chain:
        until += ", and the SEP between them where the target begins a part"
    looks = config.model.max_len - config.data.cls - (task.ask in (MASK, SEP))
    return {
        **common,
        "validation_users": data.validation_users,
        "history": f"every event {until}; the model looks at the last {looks}",
        "candidates": f"all {dataset.size(task.head) - RESERVED} {task.head}s",
        "filter_seen": bool(config.eval.filter_seen and task.head == "item"),
        "given": config.eval.given if name.startswith((NEXT, MASKED)) else (),
        "ties": "mean place",
    }


def table(metrics: Mapping[str, float], title: str) -> rich.table.Table:
    """Metrics down; those that have cut-offs have them across."""
    lines = rich.table.Table(title=title, title_justify="left")
    lines.add_column("metric")
    cutoffs = dict.fromkeys(key.split("@")[1] for key in metrics if "@" in key)
    for k in cutoffs or [""]:
        lines.add_column(f"@{k}" if k.isdigit() else k, justify="right")
    for name in dict.fromkeys(key.split("@")[0] for key in metrics):
        if name in metrics:
            lines.add_row(name, f"{metrics[name]:.4f}")
        else:
            values = (metrics.get(f"{name}@{k}") for k in cutoffs)
            lines.add_row(name, *("" if v is None else f"{v:.4f}" for v in values))
    return lines


def count_of(asked: Asked, which: str, columns: Columns) -> dict[str, Any]:
    """How many examples a part has, and what about them should be known."""
    part = getattr(asked, which)
    if isinstance(part, LabelPart):
        return {"labels": len(part)}
    item = columns[asked.task.head]
    return {
        "users": len(np.unique(part.sequence)),
        "questions": len(part),
        "targets_in_the_history": count_repeats(item, part.history, part.targets, part.owner),
        "targets_never_trained_on": int(cold_targets(asked.train, part, item).sum()),
    }


def evaluate_run(
    folder: str | pathlib.Path,
    which: str,
    *,
    data: str | None = None,
    filter_seen: bool | None = None,
    cutoffs: tuple[int, ...] | None = None,
    checkpoint: str = "best",
    where: str | None = None,
    given: tuple[str, ...] | None = None,
    labels: str | None = None,
) -> dict[str, Any]:
    """Evaluates a run, keeps the record in its folder, and returns it."""
    run = load_run(folder, checkpoint)
    dataset = open_data(run, data)
    changed = [f"config.eval.filter_seen={filter_seen}"] if filter_seen is not None else []
    changed += [f"config.eval.cutoffs={cutoffs}"] if cutoffs is not None else []
    changed += [f"config.task_where={(where,)}"] if where is not None else []
    changed += [f"config.eval.given={given}"] if given is not None else []
    changed += [f"config.label.path={labels}"] if labels is not None else []
    config = override(run.config, changed)
    check_given(config)
    mesh = sharding.make_mesh()
    params = sharding.replicate(run.params, mesh)
    start, columns = time.perf_counter(), read(dataset, run.variables)
    record = {}
    questions = ask_about(config, dataset)
    for name, asked in questions.items():
        if not len(getattr(asked, which)):
            raise ValueError(
                f"{name}: the {which} part of {dataset.path} has no examples: {asked.dropped}."
            )
        told = told_of(config, name, asked.task, run.variables, run.vocabularies)
        asker = make_asker(config, run.model, asked.task, mesh, run.given, told)
        judge = Judge(asker, asked, columns, config)
        if which == "test" and judge.is_label and len(asked.validation):
            judge(params, "validation")  # for its threshold
        metrics, beside = judge.examine(params, which)
        found = {
            **metrics,
            **beside,
            **count_of(asked, which, columns),
            "protocol": protocol(config, dataset, name, asked.task, which),
            "dropped": asked.dropped,
        }
        record |= found if len(questions) == 1 else prefixed(name, found)
    record |= {
        "data": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "run": str(folder),
        "checkpoint": run.checkpoint,
        "step": run.progress["step"],
        "train_seconds": round(run.progress["seconds"], 1),
        "seconds_to_checkpoint": round(run.progress["seconds_to_here"], 1),
        "evaluate_seconds": round(time.perf_counter() - start, 2),
    }
    record = {  # JSON has no NaN
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    environment = read_json(run.folder / "environment.json")
    full = {**record, "environment": environment, "config": to_dict(config)}
    write_json(run.folder / f"{which}{record_name(where, given)}.json", full)
    return record


def record_name(where: str | None, given: tuple[str, ...] | None) -> str:
    """What the name of a record says of the question, where it is not that of the config."""
    parts = [] if where is None else [f"where.{where}"]
    parts += [] if given is None else [f"given.{','.join(given)}"]
    return "".join(f".{part}".replace("|", "+").replace("/", "_") for part in parts)


def prefixed(task: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found for one of several tasks."""
    return {f"{task}/{name}": value for name, value in found.items()}


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
    parser.add_argument("--where", help="of which events, action=buy; default: config.task_where")
    parser.add_argument(
        "--given", help="what is told of them, such as action=buy; default: config.eval.given"
    )
    parser.add_argument("--labels", help="another file of labels; default: config.label.path")
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
        where=flags.where,
        given=told_pairs(flags.given),
        labels=flags.labels,
    )
    tasks = read_config(flags.run).tasks
    for name in tasks:
        prefix = f"{name}/" if len(tasks) > 1 else ""
        own = {key.removeprefix(prefix): v for key, v in record.items() if key.startswith(prefix)}
        repeats = own.get("targets_in_the_history", 0)
        if repeats and own["protocol"]["filter_seen"]:
            print(
                f"clickflax evaluate: warning: {repeats:,} targets had been in their history "
                "before. With the rest of it filtered they are easy to find: where people come back"
                " to what they had, --no-filter-seen is the honest number.",
                file=sys.stderr,
            )
        count = f"{own['questions']:,} questions" if "users" in own else f"{own['labels']:,} labels"
        metrics = {key: value for key, value in own.items() if isinstance(value, float)}
        for key in ("train_seconds", "seconds_to_checkpoint", "evaluate_seconds"):
            metrics.pop(key, None)
        title = f"{name}, {flags.split} of {flags.run}: {count}"
        rich.console.Console().print(table(metrics, title))
    print(json.dumps(record))
