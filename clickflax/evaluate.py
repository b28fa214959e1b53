"""`clickflax evaluate`: ranks every item of the catalog for every user, and counts."""

import argparse
import glob
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rich.console
import rich.table
from ml_collections import ConfigDict

from clickflax.asker import make_asker
from clickflax.checks import check_candidates, check_given
from clickflax.config import of_task, override, to_dict
from clickflax.data.asking import count_repeats
from clickflax.data.labels import LABELS, LabelPart
from clickflax.data.split import cold_targets
from clickflax.data.store import Dataset
from clickflax.data.variables import read
from clickflax.events import MASK, RESERVED, SEP
from clickflax.judge import Columns, Judge, rows_of
from clickflax.listing import describe, lists_of, read_lists, rows_of_lists
from clickflax.questions import Asked, ask_about
from clickflax.run import (
    Run,
    load_run,
    open_data,
    read_config,
    read_json,
    told_of,
    told_pairs,
    write_json,
)
from clickflax.runtime import sharding
from clickflax.tasks.tasks import BASKET, MASKED, NEXT, Task


def protocol(
    config: ConfigDict, dataset: Dataset, name: str, task: Task, which: str
) -> dict[str, Any]:
    """What the numbers of a task depend on, to stand beside them."""
    data = config.data
    moments = {"validation_from": data.validation_from, "test_from": data.test_from}
    moments |= {"test_until": data.test_until} if data.test_until else {}
    where = of_task(config.task_where, config.tasks, name)
    common = {"split": data.split, "part": which, **(moments if "time" in data.split else {})}
    if "ratio" in data.split:
        common |= {"validation_share": data.validation_share, "test_share": data.test_share}
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
    candidates = f"all {dataset.size(task.head) - RESERVED} {task.head}s"
    if config.eval.negatives:
        candidates = f"the targets and, for each, {config.eval.negatives} {task.head}s drawn "
        candidates += {"uniform": "uniformly", "popularity": "by popularity"}[config.eval.drawn]
        candidates += "" if config.eval.unseen else " of all, less those seen"
    return {
        **common,
        "validation_users": data.validation_users,
        "history": f"every event {until}; the model looks at the last {looks}",
        "candidates": candidates,
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


class Listing(NamedTuple):
    """Whether lists are made, too, and what is asked of them."""

    features: tuple[str, ...] = ()  # of the catalog, by which they are diverse
    reference: str = ""  # the folder of a run whose lists they are compared with
    name: str = ""  # of the record, as `record_name` has it


def examine(
    config: ConfigDict, run: Run, dataset: Dataset, which: str, listing: Listing | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """What is found for a part by each task of a run, and what it depends on; and by the names of
    their files the rows that the metrics are the means of.
    """
    mesh = sharding.make_mesh()
    params, columns = sharding.replicate(run.params, mesh), read(dataset, run.variables)
    record, rows, questions = {}, {}, ask_about(config, dataset)
    if listing is not None and all(asked.task.head != "item" for asked in questions.values()):
        raise ValueError(f"--lists: no task of {list(questions)} answers with items.")
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
        verdict = judge.examine(params, which)
        rows[name] = rows_of(asked, which, verdict.found, judge.columns)
        if listing is not None and asked.task.head == "item":
            more, rows[f"{name}.lists"] = list_part(judge, params, dataset, which, name, listing)
            verdict.metrics.update(more)
        found = {
            **verdict.metrics,
            **verdict.beside,
            **count_of(asked, which, columns),
            "protocol": protocol(config, dataset, name, asked.task, which),
            "dropped": asked.dropped,
        }
        record |= found if len(questions) == 1 else prefixed(name, found)
    return record, rows


def list_part(
    judge: Judge, params: Any, dataset: Dataset, which: str, name: str, listing: Listing
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics of the lists of a part, as long as the last cut-off, and their rows."""
    asked, config = judge.asked, judge.config
    part, k = getattr(asked, which), max(config.eval.cutoffs)
    if config.eval.negatives:
        raise ValueError(
            f"--lists are of all items, and eval.negatives={config.eval.negatives} ranks among few:"
            " --negatives=0 asks of all."
        )
    items, scores = lists_of(
        judge.rank.asker, params, judge.columns, part, k, config.eval.filter_seen
    )
    reference = None
    if listing.reference:
        told = protocol(config, dataset, name, asked.task, which)
        check_reference(listing, which, name, dataset, told, k)
        path = pathlib.Path(listing.reference) / f"{which}{listing.name}.{name}.lists.parquet"
        reference = read_lists(path, len(part), k)
    found = describe(
        items,
        asked,
        part,
        dataset,
        judge.columns,
        tuple(config.eval.cutoffs),
        listing.features,
        reference,
    )
    return found, rows_of_lists(items, scores)


def check_reference(
    listing: Listing, which: str, task: str, dataset: Dataset, told: dict[str, Any], k: int
) -> None:
    """Refuses lists that answer other questions, or end too early."""
    theirs = read_json(pathlib.Path(listing.reference) / f"{which}{listing.name}.json")
    if theirs["fingerprint"] != dataset.fingerprint:
        raise ValueError(f"--reference={listing.reference} was evaluated on {theirs['data']}.")
    protocols = (theirs.get("protocol") or theirs.get(f"{task}/protocol") or {}, told)
    # How far a model looks back is its own affair, and what JSON has as a list was a tuple.
    ours = [{**one, "history": "", "given": list(one.get("given", ()))} for one in protocols]
    if ours[0] != ours[1]:
        raise ValueError(
            f"--reference={listing.reference} was asked otherwise: {ours[0]}, and here {ours[1]}."
        )
    longest = max(theirs["config"]["eval"]["cutoffs"])
    if longest < k:
        raise ValueError(f"--reference={listing.reference} has lists of {longest}, not of {k}.")


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
) -> dict[str, Any]:
    """Evaluates a run, keeps the record in its folder, and returns it.

    Beside DIR/test.json stands DIR/test.TASK.parquet, a line for each target or label (`rows_of`),
    and with `lists` DIR/test.TASK.lists.parquet (`rows_of_lists`) and their metrics in the record.
    """
    if (features or reference) and not lists:
        raise ValueError("--features and --reference are about lists: say --lists, too.")
    run, start = load_run(folder, checkpoint), time.perf_counter()
    dataset = open_data(run, data)
    changed = {
        "config.eval.filter_seen": filter_seen,
        "config.eval.cutoffs": cutoffs,
        "config.task_where": None if where is None else (where,),
        "config.eval.given": given,
        "config.label.path": labels,
        "config.eval.negatives": negatives,
        # Where all items are ranked, it does not matter how the run drew some.
        "config.eval.drawn": "uniform" if negatives == 0 and drawn is None else drawn,
        "config.eval.unseen": True if negatives == 0 and unseen is None else unseen,
    }
    flags = [f"{knob}={value}" for knob, value in changed.items() if value is not None]
    config = override(run.config, flags)
    check_given(config)
    check_candidates(config)
    if not config.eval.negatives and (drawn, unseen) != (None, None):
        raise ValueError("--drawn and --unseen are about candidates: name --negatives, too.")
    name = record_name(where, given, negatives, drawn, unseen)
    listing = Listing(tuple(features), reference, name) if lists else None
    found, rows = examine(config, run, dataset, which, listing)
    record = found | {
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
    for old in run.folder.glob(f"{glob.escape(which + name)}.*.lists.parquet"):
        old.unlink()  # they would be taken for those of this evaluation
    for file, columns in rows.items():
        write_rows(run.folder / f"{which}{name}.{file}.parquet", columns)
    write_json(run.folder / f"{which}{name}.json", full)  # the last: it says that all is there
    return record


def write_rows(path: pathlib.Path, columns: Mapping[str, np.ndarray]) -> None:
    """Columns of a Parquet file, whole or not at all."""
    partial = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.table(dict(columns)), partial)
    partial.replace(path)


def record_name(
    where: str | None = None,
    given: tuple[str, ...] | None = None,
    negatives: int | None = None,
    drawn: str | None = None,
    unseen: bool | None = None,
) -> str:
    """What the name of a record says of the question, where it is not that of the config."""
    parts = [] if where is None else [f"where.{where}"]
    parts += [] if given is None else [f"given.{','.join(given)}"]
    parts += [] if negatives is None else [f"negatives.{negatives}"]
    parts += [] if drawn is None else [drawn]
    parts += [] if unseen is None else ["unseen" if unseen else "all"]
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
        negatives=flags.negatives,
        drawn=flags.drawn,
        unseen=flags.unseen,
        lists=flags.lists,
        features=flags.features.split(",") if flags.features else (),
        reference=flags.reference,
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
