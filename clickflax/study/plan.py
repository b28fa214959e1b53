"""What a study asks, and the runs that answer it: configs x data sets x seeds."""

import difflib
import hashlib
import json
import numbers
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from clickflax.config.check import check_config
from clickflax.config.default import call_in, load, to_dict
from clickflax.config.resolve import tasks_of
from clickflax.evaluation.request import EvalRequest
from clickflax.runtime.files import read_json, write_json
from clickflax.tasks.list_metrics import LIST_METRICS
from clickflax.tasks.task import qualify


class Study(NamedTuple):
    """A question, and what is run to answer it.

    Of `configs` and `data` each name has words: of a config its file, then changes to it such as
    "loss.name=gbce"; of a data set changes alone, "data.path=data/ml-1m".
    """

    question: str
    configs: Mapping[str, Sequence[str | pathlib.Path]]
    data: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    metrics: Sequence[str] = ("recall@10", "ndcg@10")
    baseline: str = ""  # the config that others are compared with; "": the first
    asked: Mapping[str, Mapping[str, Any]] = {"test": {}}  # arguments of `evaluate_run`
    published: Mapping[str, Mapping[str, str]] = {}  # of a data set, and of a config on it


class Cell(NamedTuple):
    """One run of a study. Its folder has a name that changes with its config."""

    config: str
    data: str
    seed: int
    file: str
    changes: tuple[str, ...]
    name: str

    def load(self) -> ConfigDict:
        """The config that is trained; refused where its file is no longer what it was."""
        config = load(self.file, self.changes)
        if name_of(self.config, self.data, self.seed, config) != self.name:
            raise ValueError(
                f"{self.file}, or what clickflax has for a knob that it does not name, has changed "
                f"since {self.name} was planned: run the study anew, which plans it as another one."
            )
        return config


def time_folds(
    name: str, changes: Sequence[str], moments: Sequence[str], split: str = "time"
) -> dict[str, tuple[str, ...]]:
    """Data sets of a study: one log at several times, in each of which a later period is the test.

    Between one moment (2015-09-01, or 4/6 of all events) and the next is the validation of a fold,
    after that, until the moment after the next or the end of the log, is its test; what is before
    is trained on. So n moments are n - 1 folds, whose tests follow each other without a gap.
    """
    if len(moments) < 2:
        raise ValueError(f"moments={tuple(moments)}: a fold has two, of its validation and test.")
    ends = [*moments[2:], ""]
    return {
        f"{name}, {test} to {end or 'its end'}": (
            *changes,
            f"data.split={split}",
            f"data.validation_from={validation}",
            f"data.test_from={test}",
            f"data.test_until={end}",
        )
        for validation, test, end in zip(moments, moments[1:], ends, strict=False)
    }


def name_of(config: str, data: str, seed: int, values: ConfigDict) -> str:
    """The folder of a cell."""
    text = json.dumps(to_dict(values), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    words = (re.sub(r"[^\w=-]+", "_", word) for word in (config, data))
    return ".".join([*words, str(seed), digest])


def cells_of(study: Study) -> list[Cell]:
    """The runs of a study, seed by seed: what is there early tells something of all configs.

    Raises ValueError for a config without sense, and for a metric that no run will have.
    """
    found, metrics = [], {}
    for seed in map(int, study.seeds):
        for data, knobs in study.data.items():
            for name, (file, *changes) in study.configs.items():
                flags = tuple(f"config.{knob}" for knob in (*knobs, *changes, f"seed={seed}"))
                config = load(file, flags)
                check_config(config)
                for asked in study.asked.values():
                    request = EvalRequest.from_json(asked)
                    request.apply(config)
                    metrics |= dict.fromkeys(metrics_told(config, request))
                cell = name_of(name, data, seed, config)
                found.append(Cell(name, data, seed, str(file), flags, cell))
    for metric in study.metrics:
        check_name(metric, metrics, "metrics")
    return found


def metrics_told(config: ConfigDict, request: EvalRequest) -> list[str]:
    """Names of the metrics in the record of an evaluation."""
    cutoffs = request.cutoffs or tuple(config.eval.cutoffs)
    tasks = tasks_of(config)
    found: dict[str, None] = {}
    for name, task in tasks.items():
        own = [*task.metrics(cutoffs), *task.kind.extra_metrics]
        if task.ranks and any(one.startswith("item.") for one in config.data.variables):
            own += [f"cold/{metric}" for metric in own]
        if task.ranks and request.lists:
            needs = {"diversity": request.features, "intersection": request.reference}
            known = [metric for metric in LIST_METRICS if needs.get(metric, True)]
            own += [f"{metric}@{k}" for metric in known for k in cutoffs]
        found |= qualify(name, dict.fromkeys(own), len(tasks) > 1)
    return list(found)


def load_study(path: str | pathlib.Path) -> Study:
    """The study that `get_study()` of a Python file gives; ValueError for one without sense."""
    study = call_in(path, "get_study", Study)
    check_study(study, str(path))
    return study


def check_kinds(study: Study, where: str) -> None:
    """Refuses what has not the form of a part of a study."""
    for part in ("configs", "data", "asked", "published"):
        found = getattr(study, part)
        if not isinstance(found, Mapping):
            raise ValueError(f"{where}: {part}={found!r} must be a dictionary.")
    for part in ("seeds", "metrics"):
        found = getattr(study, part)
        if isinstance(found, str) or not isinstance(found, Sequence):
            raise ValueError(f"{where}: {part}={found!r} must be a list or a tuple.")
    for seed in study.seeds:
        if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
            raise ValueError(f"{where}: seed {seed!r} must be a whole number.")
    for metric in study.metrics:
        if not isinstance(metric, str):
            raise ValueError(f"{where}: metric {metric!r} must be a name, such as 'ndcg@10'.")
    for part, least, words in (
        ("configs", 1, "a file, then changes to it"),
        ("data", 0, "changes"),
    ):
        for name, found in getattr(study, part).items():
            if isinstance(found, str) or not isinstance(found, Sequence) or len(found) < least:
                raise ValueError(f"{where}: {part}[{name!r}]={found!r} must be a list: {words}.")
    for part in ("asked", "published"):
        for name, found in getattr(study, part).items():
            if not isinstance(found, Mapping):
                raise ValueError(f"{where}: {part}[{name!r}]={found!r} must be a dictionary.")
    try:
        json.dumps(dict(study.asked))
    except TypeError as error:
        raise ValueError(f"{where}: asked={study.asked!r}: {error}.") from None


def check_study(study: Study, where: str) -> None:
    """Refuses a study without cells, and names that stand for nothing."""
    check_kinds(study, where)
    for part in ("configs", "data", "seeds", "metrics", "asked"):
        if not getattr(study, part):
            raise ValueError(f"{where}: {part} is empty, so that the study has no cells.")
    twice = sorted({seed for seed in study.seeds if list(study.seeds).count(seed) > 1})
    if twice:
        raise ValueError(f"{where}: seed {twice[0]} is there twice: it would be the same run.")
    files = [record_of(asked) for asked in study.asked.values()]
    for name, asked in study.asked.items():
        EvalRequest.from_json(asked, f"{where}: asked[{name!r}]: ")
        if files.count(record_of(asked)) > 1:
            raise ValueError(
                f"{where}: asked[{name!r}] and another one have the same record, "
                f"{record_of(asked)}.json: make them two studies."
            )
    check_name(study.baseline or next(iter(study.configs)), study.configs, f"{where}: baseline")
    for data, rows in study.published.items():
        check_name(data, study.data, f"{where}: published")
        for name in rows:
            check_name(name, study.configs, f"{where}: published[{data!r}]")


def check_name(name: str, known: Mapping[str, Any] | Sequence[str], what: str) -> None:
    """Refuses a name that is not known, and names the nearest one."""
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, known))}."
        raise ValueError(f"{what}={name!r} is not there; {hint}")


def write_plan(out: pathlib.Path, study: Study, cells: Sequence[Cell]) -> None:
    """Keeps what a study asks beside its runs."""
    out.mkdir(parents=True, exist_ok=True)
    told = study._asdict() | {"configs": list(study.configs), "data": list(study.data)}
    told["baseline"] = study.baseline or next(iter(study.configs))
    told |= {"seeds": [int(seed) for seed in study.seeds], "metrics": list(study.metrics)}
    write_json(out / "study.json", {**told, "cells": [cell._asdict() for cell in cells]})


def read_plan(out: str | pathlib.Path) -> tuple[Study, list[Cell]]:
    """The study of a folder: of configs and data sets the names alone."""
    out = pathlib.Path(out)
    if not (out / "study.json").is_file():
        raise FileNotFoundError(
            f"{out / 'study.json'} is not there: {out} is not the folder of a study "
            "(`clickflax study run FILE --out DIR` makes one)."
        )
    told = read_json(out / "study.json")
    cells = [Cell(**{**cell, "changes": tuple(cell["changes"])}) for cell in told.pop("cells")]
    names = {part: {name: () for name in told[part]} for part in ("configs", "data")}
    asked = {
        name: {key: tuple(one) if isinstance(one, list) else one for key, one in how.items()}
        for name, how in told["asked"].items()
    }
    return Study(**{**told, **names, "asked": asked}), cells


def record_of(asked: Mapping[str, Any]) -> str:
    """The name of the record of an evaluation, without .json: test.negatives.100."""
    return f"test{EvalRequest.from_json(asked).suffix()}"


def folder_of(out: pathlib.Path, cell: Cell) -> pathlib.Path:
    """Where the run of a cell is."""
    return out / "cells" / cell.name
