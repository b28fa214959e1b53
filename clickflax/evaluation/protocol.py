"""The protocol of an evaluation: all settings on which its numbers depend, but the model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from clickflax.batch import MASK, RESERVED, SEP
from clickflax.config.default import of_task
from clickflax.data.store import Dataset
from clickflax.tasks.task import Task, entries_of


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What the protocols of rankings and of labels have in common."""

    split: str  # "validation" or "test"
    strategy: str  # `config.data.split`
    periods: dict[str, Any]  # moments or shares at which the splits begin
    sessions: str  # `config.data.chain`
    where: str  # condition on the events that are predicted; "": all


@dataclasses.dataclass(frozen=True)
class RankingProtocol(Protocol):
    """The protocol of a task that ranks the values of a variable."""

    validation_users: int
    history_until: str  # "target", "session" (of the target) or "split" (its first moment)
    max_events: int | None  # last events of a history that a model reads; None: depends
    ranked: str  # the variable
    values: int  # of it, in all
    candidates: str  # "all", or how `negatives` were drawn: "uniform" or "popularity"
    negatives: int  # of each target; 0: all values are ranked
    unseen: bool  # negatives are drawn among values that are not in the history
    filter_seen: bool
    given: tuple[str, ...]  # conditions on the target's event
    ties: str = "mean rank"


@dataclasses.dataclass(frozen=True)
class LabelProtocol(Protocol):
    """The protocol of a task with labels."""

    label: dict[str, Any]  # `config.label`
    reads: str  # "past", or "sequence": also what comes after the labelled event


# What two rankings must have in common for their metrics to be comparable.
COMPARABLE = ("ranked", "values", "candidates", "negatives", "unseen", "filter_seen", "ties")


def protocol_of(config: ConfigDict, dataset: Dataset, task: Task, split: str) -> Protocol:
    """The protocol by which a task is evaluated on a split."""
    data = config.data
    periods: dict[str, Any] = {}
    if "time" in data.split:
        periods |= {"validation_from": data.validation_from, "test_from": data.test_from}
        periods |= {"test_until": data.test_until} if data.test_until else {}
    if "ratio" in data.split:
        periods |= {"validation_share": data.validation_share, "test_share": data.test_share}
    common = {
        "split": split,
        "strategy": data.split,
        "periods": periods,
        "sessions": data.chain,
        "where": of_task(config.task_where, config.tasks, task.name),
    }
    if not task.ranks:
        reads = "past" if task.causal else "sequence"
        return LabelProtocol(**common, label=config.label.to_dict(), reads=reads)
    history_until = "split" if data.split == "time" else "target"
    added = int(data.cls) + int(task.query in (MASK, SEP))
    evaluation = config.eval
    return RankingProtocol(
        **common,
        validation_users=data.validation_users,
        history_until="session" if task.baskets else history_until,
        max_events=config.model.max_len - added,
        ranked=task.head,
        values=dataset.size(task.head) - RESERVED,
        candidates=evaluation.drawn if evaluation.negatives else "all",
        negatives=evaluation.negatives,
        unseen=bool(evaluation.negatives and evaluation.unseen),
        filter_seen=bool(evaluation.filter_seen and task.head == "item"),
        given=tuple(evaluation.given) if task.conditional else (),
    )


def to_json(protocol: Protocol) -> dict[str, Any]:
    """The fields of a protocol as a record has them."""
    fields = dataclasses.asdict(protocol)
    return {name: list(one) if isinstance(one, tuple) else one for name, one in fields.items()}


def stored_protocol(record: Mapping[str, Any], task: str | None = None) -> dict[str, Any]:
    """The protocol in a record, of its only task, or of the one that is named."""
    first: str = next(iter(record.get("config", {}).get("tasks", ())), "")
    entries = record if "protocol" in record else entries_of(task or first, record, True)
    return dict(entries.get("protocol", {}))


def ranking_protocol(record: Mapping[str, Any], task: str | None = None) -> dict[str, Any]:
    """What the rankings of two records must have in common to be compared."""
    stored = stored_protocol(record, task)
    return {name: stored.get(name) for name in COMPARABLE}


def describe(protocol: Mapping[str, Any]) -> str:
    """A ranking protocol of a record in words; "" for labels."""
    if "candidates" not in protocol:
        return ""
    if "negatives" not in protocol:  # a record of 0.1.0, which had the words
        return str(protocol["candidates"])
    values = f"{protocol['values']:,} {protocol['ranked']}s"
    if protocol["candidates"] == "all":
        words = f"ranked among all {values}"
    else:
        pool = " that the user has not had" if protocol["unseen"] else ""
        how = {"uniform": "uniformly", "popularity": "by popularity"}[protocol["candidates"]]
        words = f"each target ranked among {protocol['negatives']:,} of {values}{pool}, drawn {how}"
    words += ", seen ones left out" if protocol["filter_seen"] else ""
    until = {"target": "the target", "session": "its session", "split": "the split"}
    words += f"; history: all events before {until[protocol['history_until']]}"
    if protocol["max_events"]:
        words += f", of which the model reads the last {protocol['max_events']:,}"
    if protocol["given"]:
        words += f"; given {', '.join(protocol['given'])}"
    return words
