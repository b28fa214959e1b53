"""`clickflax evaluate`: metrics of a run on its validation or test split."""

import argparse
import dataclasses
import errno
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.table
from ml_collections import ConfigDict

from clickflax.config.flags import add_processes
from clickflax.data.store import Dataset
from clickflax.data.variables import read_columns
from clickflax.evaluation.evaluator import (
    RankingEvaluator,
    label_rows,
    make_evaluator,
    target_rows,
)
from clickflax.evaluation.protocol import describe, protocol_of, to_json
from clickflax.evaluation.record import count_examples, write_record
from clickflax.evaluation.request import EvalRequest
from clickflax.evaluation.top_k import evaluate_lists
from clickflax.inference.predictor import make_predictor
from clickflax.run.folder import (
    Run,
    encode_condition,
    load_run,
    open_data,
    parse_condition,
    read_config,
)
from clickflax.run.sharded_tables import make_run_mesh, place_on_mesh
from clickflax.run.targets import make_task_data
from clickflax.runtime import processes, sharding
from clickflax.runtime.log import finite
from clickflax.runtime.redact import without_secrets
from clickflax.runtime.terminal import Console, say
from clickflax.tasks.group_metrics import GROUPS, group_metrics
from clickflax.tasks.ranking_metrics import metrics_by_sequence
from clickflax.tasks.task import entries_of, qualify

Rows = dict[str, np.ndarray]
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)  # errors of a folder that cannot be written


def evaluate_run(
    folder: str | pathlib.Path, split: str = "test", request: EvalRequest | None = None
) -> dict[str, Any]:
    """Evaluates a run, keeps the record in its folder unless that is read-only, and returns it.

    Several processes share the examples, and the first one writes. Next to DIR/test.json,
    DIR/test.TASK.parquet has a row for each target or label (`target_rows`, `label_rows`),
    DIR/test.TASK.users.parquet one for each user (`metrics_by_sequence`), and with `request.lists`
    DIR/test.TASK.lists.parquet one for each recommended item. Settings that differ from the
    config's have files of their own, such as DIR/test.negatives.100.json, except the cut-offs.
    """
    request = request or EvalRequest()
    run = load_run(folder, request.checkpoint)
    start = time.perf_counter()
    dataset = open_data(run, request.data)
    if request.data and without_secrets(request.data) == without_secrets(run.config.data.path):
        request = dataclasses.replace(request, data=None)  # its own, which had to be named
    config = request.apply(run.config)
    entries, rows = evaluate_tasks(config, run, dataset, split, request)
    record = finite(entries) | {
        "data": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "run": str(folder),
        "checkpoint": run.checkpoint,
        "step": run.progress["step"],
        "train_seconds": round(run.progress["seconds"], 1),
        "seconds_to_checkpoint": round(run.progress["seconds_to_here"], 1),
        "evaluate_seconds": round(time.perf_counter() - start, 2),
    }
    processes.wait_for_all("predicted")  # others may still read what an earlier evaluation wrote
    if processes.is_first():
        try:
            write_record(run, f"{split}{request.suffix()}", record, rows, config)
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            say(
                f"clickflax evaluate: warning: the record is not kept, as {run.folder} cannot be "
                f"written ({error.strerror}).",
                error=True,
            )
    processes.wait_for_all("evaluated")
    return record


def evaluate_tasks(
    config: ConfigDict, run: Run, dataset: Dataset, split: str, request: EvalRequest
) -> tuple[dict[str, Any], dict[str, Rows]]:
    """The entries of a record for all tasks of a run, and the rows behind them by file name."""
    mesh = make_run_mesh(config)
    params = place_on_mesh(run.params, mesh)
    columns = read_columns(dataset, run.variables)
    tasks = make_task_data(config, dataset)
    record, rows = {}, {}
    for name, data in tasks.items():
        data.some_examples(split, dataset.path)
        conditions = encode_condition(config, data.task, run.variables, run.vocabularies)
        predictor = make_predictor(config, run.model, data.task, mesh, run.constants, conditions)
        evaluator = make_evaluator(predictor, data, columns, config)
        evaluation = evaluator.evaluate(params, split)
        protocol = protocol_of(config, dataset, data.task, split)
        entries = {
            **evaluation.metrics,
            **evaluation.details,
            **count_examples(data, split, columns),
            "protocol": to_json(protocol),
            "dropped": data.dropped,
        }
        if isinstance(evaluator, RankingEvaluator):
            cutoffs = tuple(config.eval.cutoffs)
            rows[name] = target_rows(data, split, evaluation.values, evaluator.columns)
            rows[f"{name}.users"] = metrics_by_sequence(rows[name], cutoffs)
            if request.groups:
                entries["groups"] = group_metrics(rows[name], cutoffs)
            if request.lists and data.task.head == "item":
                metrics, rows[f"{name}.lists"] = evaluate_lists(
                    evaluator, params, dataset, protocol, request
                )
                entries |= metrics
        else:
            rows[name] = label_rows(data, split, evaluation.values, dataset.sequence_starts)
        record |= qualify(name, entries, len(tasks) > 1)
    return record, rows


def metrics_table(metrics: Mapping[str, float], title: str) -> rich.table.Table:
    """Metrics down; those that have cut-offs have them across."""
    table = rich.table.Table(title=title, title_justify="left")
    table.add_column("metric")
    cutoffs = dict.fromkeys(key.split("@")[1] for key in metrics if "@" in key)
    for k in cutoffs or [""]:
        table.add_column(f"@{k}" if k.isdigit() else k, justify="right")
    for name in dict.fromkeys(key.split("@")[0] for key in metrics):
        if name in metrics:
            table.add_row(name, f"{metrics[name]:.4f}")
        else:
            values = (metrics.get(f"{name}@{k}") for k in cutoffs)
            table.add_row(name, *("" if v is None else f"{v:.4f}" for v in values))
    return table


def group_tables(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[rich.table.Table]:
    """A table for each grouping of the targets, at the last cut-off."""
    for column, group in groups.items():
        table = rich.table.Table(title=GROUPS[column], title_justify="left")
        last = list(group)[-1].split("@")[1]
        metrics = [f"{name}@{last}" for name in ("recall", "ndcg")]
        for name in ("", "targets", *metrics):
            table.add_column(name, justify="right" if name else "left")
        for i, name in enumerate(group["bins"]):
            values = (f"{group[metric][i]:.4f}" for metric in metrics)
            table.add_row(name, f"{group['targets'][i]:,}", *values)
        yield table


def print_metrics(record: Mapping[str, Any], tasks: Sequence[str], split: str, run: str) -> None:
    """Prints a table for each task, and warns of numbers that are too good to be true."""
    for name in tasks:
        entries = entries_of(name, record, len(tasks) > 1)
        repeats = entries.get("targets_in_the_history", 0)
        if repeats and entries["protocol"]["filter_seen"]:
            say(
                f"clickflax evaluate: warning: {repeats:,} targets are in their own history. With "
                "the other items of the history filtered, these are easy to find: where people "
                "return to items, --no-filter-seen gives the number to trust.",
                error=True,
            )
        counted = ("examples", "users") if "users" in entries else ("labels",)
        count = f"{entries[counted[0]]:,} {counted[0]}"
        metrics = {key: value for key, value in entries.items() if isinstance(value, float)}
        for key in ("train_seconds", "seconds_to_checkpoint", "evaluate_seconds"):
            metrics.pop(key, None)
        console = Console()
        console.print(metrics_table(metrics, f"{name}, {split} of {run}: {count}"))
        words = describe(entries["protocol"])
        if words:
            console.print(words)
        for table in group_tables(entries.get("groups", {})):
            console.print(table)


def make_parser() -> argparse.ArgumentParser:
    """The flags of the verb."""
    parser = argparse.ArgumentParser(prog="clickflax evaluate", description=__doc__)
    parser.add_argument("--run", required=True, help="the folder of a run")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--data", help="another prepared data set with the same catalog")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--cutoffs", help="such as 5,10,20; default: config.eval.cutoffs")
    parser.add_argument(
        "--filter-seen",
        action=argparse.BooleanOptionalAction,
        help="leave items of the history out of the ranking; default: config.eval",
    )
    parser.add_argument(
        "--where", help="only targets that match, action=buy; default: config.task_where"
    )
    parser.add_argument(
        "--given", help="condition on the next event, action=buy; default: config.eval.given"
    )
    parser.add_argument(
        "--negatives",
        type=int,
        help="candidates drawn for each target; 0: rank all items; default: config.eval",
    )
    parser.add_argument("--drawn", choices=("uniform", "popularity"), help="default: config.eval")
    parser.add_argument(
        "--unseen",
        action=argparse.BooleanOptionalAction,
        help="draw negatives among items that the user has not had; default: config.eval",
    )
    parser.add_argument(
        "--lists",
        action="store_true",
        help="keep the top-k lists, and measure coverage, novelty, diversity, ...",
    )
    parser.add_argument(
        "--features", help="of the catalog, genres,year: measure diversity by these"
    )
    parser.add_argument(
        "--reference", default="", help="folder of a run: measure the overlap with its lists"
    )
    parser.add_argument(
        "--groups",
        action="store_true",
        help="metrics by length of the history and popularity of the target, too",
    )
    parser.add_argument("--labels", help="another file of labels; default: config.label.path")
    add_processes(parser)
    return parser


def parse_cutoffs(text: str | None) -> tuple[int, ...] | None:
    """The cut-offs of a text such as 5,10,20; None without one."""
    if text is None:
        return None
    if not all(k.isdigit() and int(k) for k in text.split(",")):
        raise ValueError(f"--cutoffs={text!r} must be whole numbers from 1 on, such as 5,10,20.")
    return tuple(int(k) for k in text.split(","))


def request_of(flags: argparse.Namespace) -> EvalRequest:
    """The request that the flags make."""
    values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(EvalRequest)}
    values["cutoffs"] = parse_cutoffs(flags.cutoffs)
    values["given"] = parse_condition(flags.given)
    values["features"] = tuple(flags.features.split(",")) if flags.features else ()
    return EvalRequest(**values)


def main(argv: list[str]) -> None:
    """`clickflax evaluate --run DIR --split test`."""
    flags = make_parser().parse_args(argv)
    request = request_of(flags)
    config = read_config(flags.run)
    sharding.use_devices(config.train.cpu_devices)
    processes.start_processes(flags.coordinator, flags.processes, flags.process, flags.devices)
    record = evaluate_run(flags.run, flags.split, request)
    if processes.is_first():
        print_metrics(record, config.tasks, flags.split, flags.run)
        print(json.dumps(record))
