"""The record of an evaluation: what its numbers depend on, its name, and the rows behind it."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from clickflax.batch import MASK, RESERVED, SEP
from clickflax.config.default import of_task
from clickflax.data.eval_batches import count_repeats
from clickflax.data.splits.common import is_cold_target
from clickflax.data.splits.labels import LABEL_SOURCES, LabelExamples
from clickflax.data.store import Dataset
from clickflax.run.targets import TaskData
from clickflax.tasks.task import BASKET, MASKED, NEXT, Task


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
    if name in LABEL_SOURCES:
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


def count_examples(asked: TaskData, which: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """How many examples a part has, and what about them should be known."""
    part = getattr(asked, which)
    if isinstance(part, LabelExamples):
        return {"labels": len(part)}
    item = columns[asked.task.head]
    return {
        "users": len(np.unique(part.sequence)),
        "questions": len(part),
        "targets_in_the_history": count_repeats(item, part.history, part.targets, part.owner),
        "targets_never_trained_on": int(is_cold_target(asked.train, part, item).sum()),
    }


def record_name(
    where: str | None = None,
    given: tuple[str, ...] | None = None,
    negatives: int | None = None,
    drawn: str | None = None,
    unseen: bool | None = None,
    filter_seen: bool | None = None,
    data: str | None = None,
    labels: str | None = None,
    checkpoint: str = "best",
) -> str:
    """What the name of a record says of the question, and of the checkpoint that answers it, where
    they are not those of the config.
    """
    parts = [] if where is None else [f"where.{where}"]
    parts += [] if given is None else [f"given.{','.join(given)}"]
    parts += [] if negatives is None else [f"negatives.{negatives}"]
    parts += [] if drawn is None else [drawn]
    parts += [] if unseen is None else ["unseen" if unseen else "all"]
    parts += [] if filter_seen is None else [f"{'' if filter_seen else 'no-'}filter-seen"]
    parts += [] if data is None else [f"data.{short_name(data)}"]
    parts += [] if labels is None else [f"labels.{short_name(labels)}"]
    parts += [] if checkpoint == "best" else [checkpoint]
    return "".join(f".{part}".replace("|", "+").replace("/", "_") for part in parts)


def short_name(path: str) -> str:
    """The last part of a path, and what tells it from others of that name."""
    return f"{pathlib.PurePath(path).name[:80]}.{hashlib.sha256(path.encode()).hexdigest()[:6]}"


# What the numbers of a ranking depend on, beside the users and the targets, of its protocol.
RANKING_FIELDS = ("candidates", "filter_seen", "ties")


def ranking_protocol(record: Mapping[str, Any], task: str | None) -> dict[str, Any]:
    """What a task of a record was asked to rank; None: the only one, or the first."""
    task = task or next(iter(record.get("config", {}).get("tasks", ())), None)
    told = record.get("protocol") or record.get(f"{task}/protocol", {})
    return {key: told.get(key) for key in RANKING_FIELDS}


def prefix_metrics(task: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found for one of several tasks."""
    return {f"{task}/{name}": value for name, value in found.items()}
