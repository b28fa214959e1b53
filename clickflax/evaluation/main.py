"""`clickflax evaluate`: ranks every item of the catalog for every user, and counts."""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.table
from ml_collections import ConfigDict

from clickflax.config.check import check_candidates, check_given
from clickflax.config.default import override, to_dict
from clickflax.config.flags import add_processes
from clickflax.data.store import Dataset
from clickflax.data.variables import read_columns
from clickflax.evaluation.evaluator import Evaluator, rows_of_targets
from clickflax.evaluation.record import count_examples, prefix_metrics, protocol, record_name
from clickflax.evaluation.top_k import ListOptions, check_list_options, evaluate_lists
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
from clickflax.runtime.files import read_json, write_json, write_parquet
from clickflax.runtime.log import finite
from clickflax.tasks.group_metrics import GROUPS, group_metrics
from clickflax.tasks.ranking_metrics import metrics_by_sequence
from clickflax.tasks.task import LABELS


def metrics_table(metrics: Mapping[str, float], title: str) -> rich.table.Table:
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


def group_tables(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[rich.table.Table]:
    """A table for each way to group targets: what is asked for at the last cut-off."""
    for column, found in groups.items():
        lines = rich.table.Table(title=GROUPS[column], title_justify="left")
        last = list(found)[-1].split("@")[1]
        metrics = [f"{name}@{last}" for name in ("recall", "ndcg")]
        for name in ("", "targets", *metrics):
            lines.add_column(name, justify="right" if name else "left")
        for i, name in enumerate(found["bins"]):
            values = (f"{found[metric][i]:.4f}" for metric in metrics)
            lines.add_row(name, f"{found['targets'][i]:,}", *values)
        yield lines


def evaluate_tasks(
    config: ConfigDict,
    run: Run,
    dataset: Dataset,
    which: str,
    listing: ListOptions | None = None,
    groups: bool = False,
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """What is found for a part by each task of a run, and what it depends on; and by the names of
    their files the rows that the metrics are the means of.
    """
    mesh = make_run_mesh(config)
    params, columns = place_on_mesh(run.params, mesh), read_columns(dataset, run.variables)
    record, rows, questions = {}, {}, make_task_data(config, dataset)
    if listing is not None and all(asked.task.head != "item" for asked in questions.values()):
        raise ValueError(f"--lists: no task of {list(questions)} answers with items.")
    if groups and all(name in LABELS for name in questions):
        raise ValueError(f"--groups are of targets that are ranked; {list(questions)} tell labels.")
    for name, asked in questions.items():
        if not len(getattr(asked, which)):
            raise ValueError(
                f"{name}: the {which} part of {dataset.path} has no examples: {asked.dropped}."
            )
        told = encode_condition(config, name, asked.task, run.variables, run.vocabularies)
        asker = make_predictor(config, run.model, asked.task, mesh, run.given, told)
        judge = Evaluator(asker, asked, columns, config)
        if which == "test" and judge.is_label and len(asked.validation):
            judge(params, "validation")  # for its threshold
        verdict = judge.examine(params, which)
        rows[name] = rows_of_targets(
            asked, which, verdict.found, judge.columns, dataset.sequence_starts
        )
        if not judge.is_label:
            cutoffs = tuple(config.eval.cutoffs)
            rows[f"{name}.users"] = metrics_by_sequence(rows[name], cutoffs)
            if groups:
                verdict.beside["groups"] = group_metrics(rows[name], cutoffs)
        if listing is not None and asked.task.head == "item":
            more, rows[f"{name}.lists"] = evaluate_lists(
                judge, params, dataset, which, name, listing
            )
            verdict.metrics.update(more)
        found = {
            **verdict.metrics,
            **verdict.beside,
            **count_examples(asked, which, columns),
            "protocol": protocol(config, dataset, name, asked.task, which),
            "dropped": asked.dropped,
        }
        record |= found if len(questions) == 1 else prefix_metrics(name, found)
    return record, rows


# What an evaluation may ask otherwise than the config of its run.
CHANGEABLE = ("where", "given", "labels", "filter_seen", "cutoffs", "negatives", "drawn", "unseen")


def apply_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """The config of a run with what an evaluation asks otherwise: a value for each of OTHERWISE, of
    which None leaves a knob as it is.
    """
    names = {"where": "task_where", "labels": "label.path"}
    values = {names.get(name, f"eval.{name}"): value for name, value in changes.items()}
    if values["task_where"] is not None:
        values["task_where"] = (values["task_where"],)
    if values["eval.negatives"] == 0:
        # Where all items are ranked, it does not matter how the run drew some.
        values |= {"eval.drawn": changes["drawn"] or "uniform"}
        values |= {"eval.unseen": changes["unseen"] is not False}
    flags = [f"config.{knob}={value}" for knob, value in values.items() if value is not None]
    config = override(config, flags)
    check_given(config)
    check_candidates(config)
    if changes["labels"] is not None and "label" not in config.tasks:
        raise ValueError(
            f"--labels={changes['labels']}: {list(config.tasks)} tell no labels of a file."
        )
    told = {name: changes[name] for name in ("filter_seen", "cutoffs") if changes[name] is not None}
    if told and not set(config.tasks) - set(LABELS):
        raise ValueError(f"{told}: these are about rankings, and {list(config.tasks)} tell labels.")
    if not config.eval.negatives and (changes["drawn"], changes["unseen"]) != (None, None):
        raise ValueError("--drawn and --unseen are about candidates: name --negatives, too.")
    return config


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
    negatives: int | None = None,
    drawn: str | None = None,
    unseen: bool | None = None,
    lists: bool = False,
    features: Sequence[str] = (),
    reference: str = "",
    groups: bool = False,
) -> dict[str, Any]:
    """Evaluates a run, keeps the record in its folder, and returns it. Several processes share the
    examples, and the first one writes.

    Next to DIR/test.json, DIR/test.TASK.parquet has a row for each target or label
    (`rows_of_targets`), DIR/test.TASK.users.parquet one for each user (`metrics_by_sequence`), and
    with `lists` DIR/test.TASK.lists.parquet has the lists (`rows_of_lists`), whose metrics are in
    the record. `groups` adds metrics by group (`group_metrics`). Settings that differ from the
    config's have files of their own, such as DIR/test.negatives.100.json, except `cutoffs`.
    """
    check_list_options(lists, features, reference)
    run, start = load_run(folder, checkpoint), time.perf_counter()
    dataset = open_data(run, data)
    drawing = {"negatives": negatives, "drawn": drawn, "unseen": unseen}
    asking = {"where": where, "given": given, "filter_seen": filter_seen, "labels": labels}
    config = apply_changes(run.config, {**asking, **drawing, "cutoffs": cutoffs})
    question = record_name(**asking, **drawing, data=data)
    name = question + record_name(checkpoint=checkpoint)
    listing = ListOptions(tuple(features), reference, question) if lists else None
    found, rows = evaluate_tasks(config, run, dataset, which, listing, groups)
    record = finite(found) | {
        "data": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "run": str(folder),
        "checkpoint": run.checkpoint,
        "step": run.progress["step"],
        "train_seconds": round(run.progress["seconds"], 1),
        "seconds_to_checkpoint": round(run.progress["seconds_to_here"], 1),
        "evaluate_seconds": round(time.perf_counter() - start, 2),
    }
    processes.wait_for_all("asked")  # of what another evaluation has left, perhaps
    if processes.is_first():
        write_record(run, f"{which}{name}", record, rows, config)
    processes.wait_for_all("evaluated")
    return record


def write_record(
    run: Run,
    name: str,
    record: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, np.ndarray]],
    config: ConfigDict,
) -> None:
    """Writes a record, and the rows behind it, into the folder of a run."""
    for task in run.tasks:  # they would be taken for those of this evaluation
        (run.folder / f"{name}.{task}.lists.parquet").unlink(missing_ok=True)
    for file, columns in rows.items():
        write_parquet(run.folder / f"{name}.{file}.parquet", columns)
    environment = read_json(run.folder / "environment.json")
    full = {**record, "environment": environment, "config": to_dict(config)}
    write_json(run.folder / f"{name}.json", full)  # the last: it says that all is there


def print_metrics(record: Mapping[str, Any], tasks: Sequence[str], which: str, run: str) -> None:
    """Prints a table for each task, and warns of numbers that are too good."""
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
        console = rich.console.Console()
        console.print(metrics_table(metrics, f"{name}, {which} of {run}: {count}"))
        for lines in group_tables(own.get("groups", {})):
            console.print(lines)


def make_parser() -> argparse.ArgumentParser:
    """The flags of the verb."""
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
    parser.add_argument(
        "--negatives", type=int, help="for each target, 0: all items; default: config.eval"
    )
    parser.add_argument("--drawn", choices=("uniform", "popularity"), help="default: config.eval")
    parser.add_argument(
        "--unseen",
        action=argparse.BooleanOptionalAction,
        help="negatives are drawn among what the user has not had; default: config.eval",
    )
    parser.add_argument(
        "--lists",
        action="store_true",
        help="keep the lists; coverage, novelty and more of them",
    )
    parser.add_argument("--features", help="of the catalog, such as genres,year: diversity by them")
    parser.add_argument("--reference", default="", help="a run: how much of its lists is the same")
    parser.add_argument(
        "--groups", action="store_true", help="by the length of the history and by popularity, too"
    )
    parser.add_argument("--labels", help="another file of labels; default: config.label.path")
    add_processes(parser)
    return parser


def main(argv: list[str]) -> None:
    """`clickflax evaluate --run DIR --split test`."""
    flags = make_parser().parse_args(argv)
    cutoffs = None
    if flags.cutoffs is not None:
        if not all(k.isdigit() and int(k) for k in flags.cutoffs.split(",")):
            raise ValueError(f"--cutoffs={flags.cutoffs!r} is not a list such as 5,10,20.")
        cutoffs = tuple(int(k) for k in flags.cutoffs.split(","))
    config = read_config(flags.run)
    sharding.use_devices(config.train.cpu_devices)
    processes.start_processes(flags.coordinator, flags.processes, flags.process, flags.devices)
    record = evaluate_run(
        flags.run,
        flags.split,
        data=flags.data,
        filter_seen=flags.filter_seen,
        cutoffs=cutoffs,
        checkpoint=flags.checkpoint,
        where=flags.where,
        given=parse_condition(flags.given),
        labels=flags.labels,
        negatives=flags.negatives,
        drawn=flags.drawn,
        unseen=flags.unseen,
        lists=flags.lists,
        features=flags.features.split(",") if flags.features else (),
        reference=flags.reference,
        groups=flags.groups,
    )
    if processes.is_first():
        print_metrics(record, config.tasks, flags.split, flags.run)
        print(json.dumps(record))
