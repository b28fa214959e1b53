"""`clickflax baselines`: standard baselines on the tasks of a config.

Labels, examples, split and metrics are those of a model that is trained with the config; no run is
needed. Items are ranked by popularity, Markov chains, item-kNN, EASE and matrix factorisation
(BPR). Labels are predicted by their mean, and by linear models and boosted trees on hand-made
features (pip install 'clickflax[baselines]').
"""

import dataclasses
import importlib.metadata
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.box
import rich.table
from ml_collections import ConfigDict

from clickflax.baselines.feature_table import (
    make_feature_table,
    read_event_columns,
    training_statistics,
)
from clickflax.baselines.features import select_features
from clickflax.baselines.label_models import (
    check_scikit_learn,
    fit_label_baseline,
    metrics_of_labels,
)
from clickflax.baselines.rankers import NotApplicable, RankingLog
from clickflax.baselines.registry import item_baselines, label_baselines
from clickflax.config.check import check_config
from clickflax.config.default import of_task, to_dict
from clickflax.config.flags import flags_of, parse_flags
from clickflax.data.candidates import Candidates
from clickflax.data.check import open_checked
from clickflax.data.splits.common import Examples
from clickflax.data.splits.labels import LabelExamples
from clickflax.data.store import Dataset
from clickflax.data.where import matches
from clickflax.evaluation.evaluator import eval_candidates
from clickflax.evaluation.protocol import RankingProtocol, protocol_of, to_json
from clickflax.evaluation.record import count_examples
from clickflax.run.targets import TaskData, check_trainable, make_task_data
from clickflax.runtime.environment import environment
from clickflax.runtime.files import write_json
from clickflax.runtime.log import finite
from clickflax.runtime.terminal import Console
from clickflax.tasks.label_metrics import reliability_entry
from clickflax.tasks.ranking_metrics import mean_metrics, ranking_metrics
from clickflax.tasks.task import entries_of, qualify

# Entries of a baseline in the record that the table leaves out.
NOT_IN_TABLE = ("chosen", "seconds", "threshold", "yes", "reliability")


def compare_rankings(
    config: ConfigDict, dataset: Dataset, data: TaskData, split: str
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Returns the metrics of each item baseline on a task, and why some are not applicable."""
    head = data.task.head
    examples = data.ranking_examples(split)
    validation = data.ranking_examples("validation")
    item = np.asarray(dataset.columns[head])
    size = dataset.size(head)
    filter_seen = bool(config.eval.filter_seen and head == "item")

    def candidates_of(examples: Examples) -> Candidates | None:
        if not config.eval.negatives:
            return None
        return eval_candidates(config, data.train, examples, item, size, filter_seen)

    candidates = candidates_of(examples)
    log = RankingLog(
        item=item,
        time=dataset.columns.get("time"),
        offsets=dataset.offsets,
        train=data.train,
        size=size,
        where=matches(dataset, of_task(config.task_where, config.tasks, data.task.name)),
        validation=validation,
        filter_seen=filter_seen,
        candidates=candidates_of(validation),
    )
    metrics = {}
    unable = {}
    for name, baseline in item_baselines().items():
        start = time.perf_counter()
        try:
            fitted = baseline.fit(log)
        except NotApplicable as reason:
            unable[name] = str(reason)
            continue
        ranks = fitted.rank(examples, candidates)
        cutoffs = tuple(config.eval.cutoffs)
        means = mean_metrics(ranking_metrics(ranks, examples.owner, len(examples), cutoffs))
        seconds = round(time.perf_counter() - start, 2)
        metrics[name] = {**means, "chosen": fitted.chosen, "seconds": seconds}
    return metrics, {"unable": unable}


def compare_label_models(
    config: ConfigDict,
    dataset: Dataset,
    data: TaskData,
    split: str,
    kind: str,
    without: Sequence[str] = (),
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Returns the metrics of each label baseline on a task, and facts of their training.

    `kind` is that of the labels, see `config.label.kind`; features that match a pattern of
    `without` are left out.
    """
    start = time.perf_counter()
    columns = read_event_columns(dataset, data, tuple(config.data.variables))
    label = data.labels[data.task.head]
    train = LabelExamples(data.train, label.astype(np.float64))
    statistics = training_statistics(columns, train, kind)
    train_table = make_feature_table(columns, statistics, train, trained=True)
    names = select_features(train_table.varying(), without)
    train_table = train_table.select(names)
    tables = {
        name: make_feature_table(columns, statistics, data.label_examples(name), trained=False)
        for name in ("validation", split)
    }
    tables = {name: table.select(names) for name, table in tables.items()}
    facts = {
        "labels_trained_on": len(train_table.label),
        "features": list(names),
        "seconds_of_features": round(time.perf_counter() - start, 2),
    }
    metrics = {}
    for name, baseline in label_baselines().items():
        start = time.perf_counter()
        model = fit_label_baseline(
            baseline.fit, kind, config.label.classes, train_table, tables["validation"]
        )
        predictions = model.predict(tables[split].matrix())
        labels = tables[split].label
        model_metrics = metrics_of_labels(kind, predictions, labels, model.threshold)
        if kind == "binary":
            model_metrics |= reliability_entry(predictions, labels)
        seconds = round(time.perf_counter() - start, 2)
        metrics[name] = {**model_metrics, "chosen": model.chosen, "seconds": seconds}
    return metrics, facts


def compare_on_task(
    config: ConfigDict,
    dataset: Dataset,
    data: TaskData,
    split: str,
    without: Sequence[str],
) -> dict[str, Any]:
    """Returns the record of one task."""
    data.some_examples(split, dataset.path)
    protocol = protocol_of(config, dataset, data.task, split)
    if isinstance(protocol, RankingProtocol):
        metrics, more = compare_rankings(config, dataset, data, split)
        # Baselines take no conditions, and read as many past events as each does.
        protocol = dataclasses.replace(protocol, given=(), max_events=None)
    else:
        kind = data.task.kind.name
        metrics, more = compare_label_models(config, dataset, data, split, kind, without)
        protocol = dataclasses.replace(protocol, reads="past")
    counts = count_examples(data, split, dataset.columns)
    return {
        "baselines": metrics,
        **counts,
        **more,
        "protocol": to_json(protocol),
        "dropped": data.dropped,
    }


def compare_baselines(
    config: ConfigDict, split: str, without: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the record of all tasks of a config on a split of its data set.

    Features whose names match a pattern of `without` are left out.
    """
    check_config(config)
    if not config.data.path:
        raise ValueError(
            "config.data.path is empty. Name a prepared data set: --config.data.path=RUN/data is "
            "the simulated shop of a run, and `clickflax simulate` makes others."
        )
    # The sessions of sequences, without the SEPs between them that a model reads.
    dataset = open_checked(config.data.path).with_sessions(config.data.chain).without_separators()
    start = time.perf_counter()
    tasks = make_task_data(config, dataset)
    check_trainable(tasks)
    packages = ["scipy"]
    if not all(data.task.ranks for data in tasks.values()):
        check_scikit_learn()
        packages.append("scikit-learn")
    elif without:
        raise ValueError(
            f"--without is for label baselines, and config.tasks={tuple(tasks)} rank items without "
            "features: leave it out."
        )
    record = {}
    for name, data in tasks.items():
        task_record = compare_on_task(config, dataset, data, split, without)
        record |= qualify(name, task_record, len(tasks) > 1)
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


def baselines_table(baselines: Mapping[str, Mapping[str, Any]], title: str) -> rich.table.Table:
    """Returns a table with metrics as columns, and a row for each baseline and cut-off."""
    rows = [(name, by_cutoff(metrics)) for name, metrics in baselines.items()]
    columns = dict.fromkeys(name for _, cuts in rows for cut in cuts.values() for name in cut)
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    table.pad_edge = False
    table.add_column("baseline")
    for name in columns:
        # A narrow console breaks a name at its spaces.
        header = name.replace("_", " ").replace("@", " @").replace("=", " ")
        table.add_column(header, justify="right")
    for baseline, cuts in rows:
        for cut in cuts.values():
            table.add_row(baseline, *(cell_text(cut.get(name)) for name in columns))
            baseline = ""
    return table


def cell_text(value: Any) -> str:
    """Formats a cell: floats with four digits, None as nothing."""
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def by_cutoff(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Groups the numbers among metrics by cut-off, under "" if no metric has one."""
    numbers = {name: value for name, value in metrics.items() if name not in NOT_IN_TABLE}
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
        help="features to leave out, such as '*_rate*'",
    )
    parser.add_argument("--out", type=pathlib.Path, help="file for the record and its config")
    config, flags = parse_flags(parser, argv)
    record = finite(compare_baselines(config, flags.split, flags.without))
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(flags.out, {**record, "config": to_dict(config)})
    console = Console()
    for name in config.tasks:
        entries = entries_of(name, record, len(config.tasks) > 1)
        counted = "users" if "users" in entries else "labels"
        count = f"{entries[counted]:,} {counted}"
        title = f"{name}, {flags.split} of {record['data']}: {count}"
        console.print(baselines_table(entries["baselines"], title))
        for baseline, reason in entries.get("unable", {}).items():
            console.print(f"{baseline} is not applicable: {reason}")
    print(json.dumps(record))
