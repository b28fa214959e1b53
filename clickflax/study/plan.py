"""The plan of a study: its question, and its runs, which are configs x data sets x seeds."""

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
from clickflax.config.default import call_in, from_dict, load, to_dict
from clickflax.config.resolve import tasks_of
from clickflax.data.item_features import ITEM_PREFIX
from clickflax.evaluation.request import REQUEST, EvalRequest
from clickflax.runtime.files import REMEDY, read_json, write_json
from clickflax.runtime.redact import redact
from clickflax.runtime.schema import FILE_NAME, check_schema
from clickflax.tasks.list_metrics import LIST_METRICS
from clickflax.tasks.task import qualify


class Study(NamedTuple):
    """A question, and the runs that answer it.

    A config is a file, followed by changes to it such as "loss.name=gbce". A data set is a list of
    changes, such as "data.path=data/ml-1m".
    """

    question: str
    configs: Mapping[str, Sequence[str | pathlib.Path]]
    data: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    metrics: Sequence[str] = ("recall@10", "ndcg@10")
    baseline: str = ""  # the config that the others are compared with; "": the first
    evaluations: Mapping[str, Mapping[str, Any]] = {"test": {}}  # fields of `EvalRequest`
    published: Mapping[str, Mapping[str, str]] = {}  # numbers by data set and config


# Schema of study.json, in which configs and data sets have names only.
PLAN = {
    "question": str,
    "configs": [str],
    "data": [str],
    "seeds": [int],
    "metrics": [str],
    "baseline": str,
    "evaluations": {str: REQUEST},
    "published": {str: {str: str}},
    "cells": [
        {
            "config": str,
            "data": str,
            "seed": int,
            "file": str,
            "changes": [str],
            "name": FILE_NAME,  # of its folder
        }
    ],
}


class Cell(NamedTuple):
    """One run of a study. The name of its folder depends on its config."""

    config: str
    data: str
    seed: int
    file: str
    changes: tuple[str, ...]
    name: str

    def load(self) -> ConfigDict:
        """The config of the run; raises ValueError if its file has changed since the plan."""
        config = load(self.file, self.changes)
        if cell_name(self.config, self.data, self.seed, config) != self.name:
            raise ValueError(
                f"{self.file}, or a default of clickflax, has changed since {self.name} was "
                "planned: run the study again, which plans it as a new cell."
            )
        return config


def time_folds(
    name: str, changes: Sequence[str], moments: Sequence[str], split: str = "time"
) -> dict[str, tuple[str, ...]]:
    """Data sets of a study: one log, split at several moments into training, validation and test.

    A moment is a date (2015-09-01) or a share of all events (4/6). A fold is trained on everything
    before a moment, validated from there to the next moment, and tested from that one to the moment
    after it, or to the end of the log. So n moments make n - 1 folds with adjacent tests. Raises
    ValueError for fewer than two moments.
    """
    if len(moments) < 2:
        raise ValueError(
            f"moments={tuple(moments)}: a fold needs two, at which validation and test begin."
        )
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


def cell_name(config: str, data: str, seed: int, values: ConfigDict) -> str:
    """The name of the folder of a cell: config, data set, seed, and a hash of the config."""
    text = json.dumps(redact(to_dict(values)), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    words = (re.sub(r"[^\w=-]+", "_", word) for word in (config, data))
    return ".".join([*words, str(seed), digest])


def cells_of(study: Study) -> list[Cell]:
    """The runs of a study, ordered by seed, so that all configs have early results.

    Raises ValueError for a config that is not valid, and for a metric that no run will have.
    """
    cells, metrics = [], {}
    for seed in map(int, study.seeds):
        for data, knobs in study.data.items():
            for name, (file, *changes) in study.configs.items():
                flags = tuple(f"config.{knob}" for knob in (*knobs, *changes, f"seed={seed}"))
                config = load(file, flags)
                check_config(config)
                for settings in study.evaluations.values():
                    request = EvalRequest.from_json(settings)
                    request.apply(config)
                    metrics |= dict.fromkeys(recorded_metrics(config, request))
                folder = cell_name(name, data, seed, config)
                cells.append(Cell(name, data, seed, str(file), flags, folder))
    for metric in study.metrics:
        check_name(metric, metrics, "metrics")
    return cells


def recorded_metrics(config: ConfigDict, request: EvalRequest) -> list[str]:
    """The names of the metrics in the record of an evaluation."""
    cutoffs = request.cutoffs or tuple(config.eval.cutoffs)
    tasks = tasks_of(config)
    names: dict[str, None] = {}
    for name, task in tasks.items():
        of_task = [*task.metrics(cutoffs), *task.kind.extra_metrics]
        if task.ranks and any(one.startswith(ITEM_PREFIX) for one in config.data.variables):
            of_task += [f"cold/{metric}" for metric in of_task]
        if task.ranks and request.lists:
            needs = {"diversity": request.features, "intersection": request.reference}
            measured = [metric for metric in LIST_METRICS if needs.get(metric, True)]
            of_task += [f"{metric}@{k}" for metric in measured for k in cutoffs]
        names |= qualify(name, dict.fromkeys(of_task), len(tasks) > 1)
    return list(names)


def load_study(path: str | pathlib.Path) -> Study:
    """The study that `get_study()` of a file returns; raises ValueError if it is not valid."""
    study = call_in(path, "get_study", Study)
    check_study(study, str(path))
    return study


def check_field_types(study: Study, where: str) -> None:
    """Raises ValueError for a field of the wrong type."""
    fields = study._asdict()
    for field in ("configs", "data", "evaluations", "published"):
        value = fields[field]
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: {field}={value!r} must be a dictionary.")
    for field in ("seeds", "metrics"):
        value = fields[field]
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"{where}: {field}={value!r} must be a list or a tuple.")
    for seed in study.seeds:
        if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
            raise ValueError(f"{where}: seed {seed!r} must be a whole number.")
    for metric in study.metrics:
        if not isinstance(metric, str):
            raise ValueError(f"{where}: metric {metric!r} must be a name, such as 'ndcg@10'.")
    for field, least, content in (
        ("configs", 1, "a file, then changes to it"),
        ("data", 0, "changes"),
    ):
        for name, value in fields[field].items():
            if isinstance(value, str) or not isinstance(value, Sequence) or len(value) < least:
                raise ValueError(f"{where}: {field}[{name!r}]={value!r} must be a list: {content}.")
    for field in ("evaluations", "published"):
        for name, value in fields[field].items():
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {field}[{name!r}]={value!r} must be a dictionary.")
    try:
        json.dumps(dict(study.evaluations))
    except TypeError as error:
        raise ValueError(f"{where}: evaluations={study.evaluations!r}: {error}.") from None


def check_study(study: Study, where: str) -> None:
    """Raises ValueError for a study without runs, and for names that do not exist."""
    check_field_types(study, where)
    for field in ("configs", "data", "seeds", "metrics", "evaluations"):
        if not study._asdict()[field]:
            raise ValueError(f"{where}: {field} is empty, so that the study has no runs.")
    repeated = sorted({seed for seed in study.seeds if list(study.seeds).count(seed) > 1})
    if repeated:
        raise ValueError(f"{where}: seed {repeated[0]} is given twice; name each seed once.")
    files = [record_name(settings) for settings in study.evaluations.values()]
    for name, settings in study.evaluations.items():
        EvalRequest.from_json(settings, f"{where}: evaluations[{name!r}]: ")
        if files.count(record_name(settings)) > 1:
            raise ValueError(
                f"{where}: evaluations[{name!r}] and another one have the same record, "
                f"{record_name(settings)}.json: make them two studies."
            )
    check_name(study.baseline or next(iter(study.configs)), study.configs, f"{where}: baseline")
    for data, rows in study.published.items():
        check_name(data, study.data, f"{where}: published")
        for name in rows:
            check_name(name, study.configs, f"{where}: published[{data!r}]")


def check_name(name: str, choices: Mapping[str, Any] | Sequence[str], field: str) -> None:
    """Raises ValueError, with the nearest choice, if a name is none of the choices."""
    if name not in choices:
        near = difflib.get_close_matches(name, list(choices), n=1)
        listed = ", ".join(map(repr, choices))
        hint = f"did you mean {near[0]!r}?" if near else f"the choices are {listed}."
        raise ValueError(f"{field}={name!r} does not exist; {hint}")


def write_plan(out: pathlib.Path, study: Study, cells: Sequence[Cell]) -> None:
    """Writes study.json into the folder of a study."""
    out.mkdir(parents=True, exist_ok=True)
    plan = study._asdict() | {"configs": list(study.configs), "data": list(study.data)}
    plan["baseline"] = study.baseline or next(iter(study.configs))
    plan |= {"seeds": [int(seed) for seed in study.seeds], "metrics": list(study.metrics)}
    plan["cells"] = [cell._asdict() for cell in cells]
    write_json(out / "study.json", redact(plan))


def read_plan(out: str | pathlib.Path) -> tuple[Study, list[Cell]]:
    """The study of a folder, with the names of configs and data sets only, and its cells."""
    out = pathlib.Path(out)
    if not (out / "study.json").is_file():
        raise FileNotFoundError(
            f"{out / 'study.json'} does not exist: {out} is not the folder of a study "
            "(`clickflax study run FILE --out DIR` makes one)."
        )
    path = out / "study.json"
    plan = read_json(path, {str: object})
    if "asked" in plan:  # the name of `evaluations` in earlier versions
        plan["evaluations"] = plan.pop("asked")
    check_schema(path, plan, PLAN)
    if plan["baseline"] not in plan["configs"] or not plan["evaluations"]:
        raise ValueError(
            f"{path}: baseline is {plan['baseline']!r}, configs are {plan['configs']}, evaluations "
            f"{list(plan['evaluations'])}. {REMEDY}"
        )
    for cell in plan["cells"]:
        if cell["config"] not in plan["configs"] or cell["data"] not in plan["data"]:
            raise ValueError(
                f"{path}: the cell {cell['name']!r} is not of its configs and data sets. {REMEDY}"
            )
    cells = [Cell(**{**cell, "changes": tuple(cell["changes"])}) for cell in plan.pop("cells")]
    names = {field: {name: () for name in plan[field]} for field in ("configs", "data")}
    evaluations = {
        name: {key: tuple(one) if isinstance(one, list) else one for key, one in settings.items()}
        for name, settings in plan["evaluations"].items()
    }
    return Study(**{**plan, **names, "evaluations": evaluations}), cells


def read_cell_config(folder: pathlib.Path) -> ConfigDict:
    """The config in the folder of a run."""
    path = folder / "config.json"
    return from_dict(read_json(path, {str: object}), f"{path}: ")


def record_name(settings: Mapping[str, Any]) -> str:
    """The name of the record of an evaluation, without .json: test.negatives.100."""
    return f"test{EvalRequest.from_json(settings).suffix()}"


def cell_folder(out: pathlib.Path, cell: Cell) -> pathlib.Path:
    """The folder of the run of a cell."""
    return out / "cells" / cell.name
