"""`clickflax baselines`: what one would try first, on the very question of a config.

The labels and examples, the split and the metrics are those of a model that is trained with the
config; no run is needed. Items are ranked by popularity, by what followed the last ones, by their
neighbours (item-kNN), by EASE and by matrix factorisation (BPR). Labels are told by the mean of the
training, and by a linear model and boosted trees on hand-made features (pip install
'clickflax[baselines]').
"""

import importlib.metadata
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
from ml_collections import ConfigDict

from clickflax.baselines import counts, features, items, learners, tables
from clickflax.config.check import check_config
from clickflax.config.default import of_task, to_dict
from clickflax.config.flags import flags_of, parse_flags
from clickflax.data.candidates import Candidates
from clickflax.data.splits.common import Examples
from clickflax.data.splits.labels import LabelExamples
from clickflax.data.store import Dataset, open_dataset
from clickflax.data.where import matches
from clickflax.evaluation.evaluator import eval_candidates
from clickflax.evaluation.record import count_examples, prefix_metrics, protocol
from clickflax.run.targets import TaskData, check_trainable, make_task_data
from clickflax.runtime.environment import environment
from clickflax.runtime.files import write_json
from clickflax.runtime.log import finite
from clickflax.tasks.label_metrics import precision_recall_curve
from clickflax.tasks.ranking_metrics import mean_metrics, ranking_metrics

BESIDE = ("seconds", "threshold", "yes", "reliability")  # in the record, not in the table


def rank_items(
    config: ConfigDict,
    dataset: Dataset,
    name: str,
    asked: TaskData,
    which: str,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The metrics of every way to rank the items of a task, and why some have none."""
    head, examples, validation = asked.task.head, getattr(asked, which), asked.validation
    assert isinstance(validation, Examples)
    item, size = np.asarray(dataset.columns[head]), dataset.size(head)
    filter_seen = bool(config.eval.filter_seen and head == "item")

    def drawn(part: Examples) -> Candidates | None:
        if not config.eval.negatives:
            return None
        return eval_candidates(config, asked.train, part, item, size, filter_seen)

    candidates = drawn(examples)
    log = items.Log(
        item=item,
        time=dataset.columns.get("time"),
        offsets=dataset.offsets,
        train=asked.train,
        size=size,
        where=matches(dataset, of_task(config.task_where, config.tasks, name)),
        validation=validation,
        filter_seen=filter_seen,
        candidates=drawn(validation),
    )
    found, unable = {}, {}
    for way, learn in items.WAYS.items():
        start = time.perf_counter()
        try:
            rank, strength = learn(log)
        except items.Unable as reason:
            unable[way] = str(reason)
            continue
        places = rank(examples, candidates)
        metrics = ranking_metrics(places, examples.owner, len(examples), tuple(config.eval.cutoffs))
        seconds = round(time.perf_counter() - start, 2)
        found[way] = {**mean_metrics(metrics), "chosen": strength, "seconds": seconds}
    return found, {"unable": unable}


def tell_labels(
    config: ConfigDict,
    dataset: Dataset,
    asked: TaskData,
    which: str,
    kind: str,
    without: Sequence[str] = (),
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The metrics of every way to tell the labels of a task, which are of a `kind` of
    `config.label`, and what was learned from: not from features of the patterns `without`.
    """
    start = time.perf_counter()
    log = tables.read_log(dataset, asked, tuple(config.data.variables))
    label = asked.labels[asked.task.head]
    train = LabelExamples(asked.train, label.astype(np.float64))
    known = tables.learn(log, train, kind)
    trained = tables.make_table(log, known, train, trained=True)
    names = features.others(trained.telling(), without)
    trained = trained.only(names)
    parts = {
        name: tables.make_table(log, known, getattr(asked, name), trained=False).only(names)
        for name in ("validation", which)
    }
    more = {
        "labels_trained_on": len(trained.label),
        "features": list(names),
        "seconds_of_features": round(time.perf_counter() - start, 2),
    }
    found = {}
    for name in learners.LEARNERS:
        start = time.perf_counter()
        choice = learners.fit(name, kind, config.label.classes, trained, parts["validation"])
        told = choice.predict(parts[which].matrix())
        metrics = learners.judge(kind, told, parts[which].label, choice.threshold)
        if kind == "binary":
            metrics |= precision_recall_curve(told, parts[which].label)
        seconds = round(time.perf_counter() - start, 2)
        found[name] = {**metrics, "chosen": choice.chosen, "seconds": seconds}
    return found, more


def compare_task(
    config: ConfigDict,
    dataset: Dataset,
    name: str,
    asked: TaskData,
    which: str,
    without: Sequence[str],
) -> dict[str, Any]:
    """The record of one task."""
    part = getattr(asked, which)
    if not len(part):
        raise ValueError(
            f"{name}: the {which} part of {dataset.path} has no examples: {asked.dropped}."
        )
    told = protocol(config, dataset, name, asked.task, which)
    if isinstance(part, Examples):
        found, more = rank_items(config, dataset, name, asked, which)
        told["given"] = ()  # they cannot be told anything
        looks = counts.RANKINGS["markov_recent"].looks
        until, _, _ = told["history"].partition(";")
        told["history"] = (
            f"{until}; markov looks at the last one, markov_recent at {looks}, others at all"
        )
    else:
        kind = config.label.kind if name == "label" else "binary"
        found, more = tell_labels(config, dataset, asked, which, kind, without)
        told["read"] = "the events so far"
    counted = count_examples(asked, which, dataset.columns)
    return {"baselines": found, **counted, **more, "protocol": told, "dropped": asked.dropped}


def compare(config: ConfigDict, which: str, without: Sequence[str] = ()) -> dict[str, Any]:
    """The record of all the tasks of a config, on a part of its data set; the features whose names
    match a pattern of `without` are not used.
    """
    check_config(config)
    if not config.data.path:
        raise ValueError(
            "config.data.path is empty; the simulated shop of a run DIR is --config.data.path="
            "DIR/data, and `clickflax simulate` makes others."
        )
    # The parts of its chains, without the SEPs that stand between them for a model.
    dataset = open_dataset(config.data.path).chained(config.data.chain).joined()
    start, questions = time.perf_counter(), make_task_data(config, dataset)
    check_trainable(questions)
    packages = ["scipy"]
    if any(isinstance(asked.test, LabelExamples) for asked in questions.values()):
        learners.check_installed()
        packages.append("scikit-learn")
    elif without:
        raise ValueError(
            f"{', '.join(questions)}: items are ranked without features; leave out --without."
        )
    record = {}
    for name, asked in questions.items():
        found = compare_task(config, dataset, name, asked, which, without)
        record |= found if len(questions) == 1 else prefix_metrics(name, found)
    seconds = round(time.perf_counter() - start, 2)
    made_with = environment(dataset.fingerprint)
    made_with["versions"] |= {name: importlib.metadata.version(name) for name in packages}
    return {
        **record,
        "data": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "without": list(without),
        "seconds": seconds,
        "environment": made_with,
    }


def table(found: Mapping[str, Mapping[str, Any]], title: str) -> rich.table.Table:
    """A row for every baseline and, where there are cut-offs, each of them; metrics across."""
    rows = [(name, cut(metrics)) for name, metrics in found.items()]
    names = dict.fromkeys(name for _, parts in rows for one in parts.values() for name in one)
    lines = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    lines.padding, lines.pad_edge = (0, 1, 0, 0), False
    lines.add_column("baseline")
    for name in names:
        # A name is broken at its spaces where the console is narrow.
        header = name.replace("_", " ").replace("@", " @").replace("=", " ")
        lines.add_column(header, justify="right")
    for baseline, parts in rows:
        for one in parts.values():
            lines.add_row(baseline, *(written(one.get(name)) for name in names))
            baseline = ""
    return lines


def written(value: Any) -> str:
    """A cell: numbers that are not whole with four digits, nothing for None."""
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def cut(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The numbers among the metrics by cut-off, "" where there is none."""
    numbers = {n: v for n, v in metrics.items() if n not in ("chosen", *BESIDE)}
    cutoffs = dict.fromkeys(n.split("@")[1] for n in numbers if n.split("@")[-1].isdigit())
    if not cutoffs:
        return {"": numbers}
    return {
        k: {"@": k} | {n.split("@")[0]: v for n, v in numbers.items() if n.endswith(f"@{k}")}
        for k in cutoffs
    }


def main(argv: list[str]) -> None:
    """`clickflax baselines --config=FILE`."""
    parser = flags_of("baselines", "[--split test] [--without PATTERN ...] [--out FILE.json]")
    parser.description = __doc__
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="features to leave out: '*_rate*'",
    )
    parser.add_argument("--out", type=pathlib.Path, help="a file for the record, config included")
    config, flags = parse_flags(parser, argv)
    record = finite(compare(config, flags.split, flags.without))
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(flags.out, {**record, "config": to_dict(config)})
    for name in config.tasks:
        prefix = f"{name}/" if len(config.tasks) > 1 else ""
        users, labels = (record.get(f"{prefix}{count}") for count in ("users", "labels"))
        count = f"{labels:,} labels" if users is None else f"{users:,} users"
        title = f"{name}, {flags.split} of {record['data']}: {count}"
        console = rich.console.Console()
        console.print(table(record[f"{prefix}baselines"], title))
        for way, reason in record.get(f"{prefix}unable", {}).items():
            console.print(f"{way}: {reason}", highlight=False)
    print(json.dumps(record))
