"""What the runs of a study have found: means over seeds, and differences over users."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clickflax.config.default import default, from_dict
from clickflax.config.default import differences as differences_of
from clickflax.runtime.environment import CREATED_WITH, read_starts
from clickflax.study.paired import answer_of, differences
from clickflax.study.plan import Cell, Study, check_name
from clickflax.study.statistics import Difference, Spread, spread

LEVEL = 0.05  # of a significant difference, corrected for the lines of its table


class Result(NamedTuple):
    """A metric of a config on a data set."""

    seeds: Spread
    apart: Difference | None  # from the baseline, for the same users
    p: float  # of the difference, by the bootstrap, with Holm's correction; NaN without


class Line(NamedTuple):
    """A config on a data set: what made it, and a result for each metric."""

    config: str
    published: str
    knobs: dict[str, Any]  # in which its config is not the default; the seed is left out
    seconds: list[float]  # of training, of each seed
    values: dict[str, list[float]]  # of each metric, of each seed
    environments: list[dict[str, Any]]  # the different ones: commit, versions, machine
    results: dict[str, Result]


class Table(NamedTuple):
    """The configs on a data set that were asked the same."""

    data: str
    asked: str
    lines: list[Line]
    planned: int  # seeds of each line
    strangers: list[str]  # configs that cannot be compared with the baseline, and why


def results(out: pathlib.Path, study: Study, cells: Sequence[Cell]) -> list[Table]:
    """All that there is so far. A metric that only some are asked for is blank elsewhere."""
    found = [
        table_of(out, study, [cell for cell in cells if cell.data == data], data, asked)
        for data in study.data
        for asked in study.asked
    ]
    answers = (answer_of(out, cell, asked) for cell in cells for asked in study.asked.values())
    known = {name: None for answer in answers if answer for name in numbers(answer)}
    for metric in study.metrics if known else ():
        check_name(metric, known, "metrics")
    return found


def table_of(
    out: pathlib.Path, study: Study, cells: Sequence[Cell], data: str, asked: str
) -> Table:
    """What is found on a data set."""
    how = study.asked[asked]
    done: dict[str, list[Cell]] = {config: [] for config in study.configs}
    records: dict[str, list[dict[str, Any]]] = {config: [] for config in study.configs}
    for cell in cells:
        record = answer_of(out, cell, how)
        if record is not None:
            done[cell.config].append(cell)
            records[cell.config].append(record)
    apart = {
        metric: differences(out, done, how, study.baseline, metric) for metric in study.metrics
    }
    strangers = {
        f"{config}: {one}"
        for found in apart.values()
        for config, one in found.items()
        if isinstance(one, str)
    }
    lines = []
    for config, found in records.items():
        line = Line(
            config=config,
            published=study.published.get(data, {}).get(config, ""),
            knobs=changed_knobs(found[0]["config"]) if found else {},
            seconds=[one["train_seconds"] for one in found],
            values={metric: values_of(found, metric) for metric in study.metrics if found},
            environments=environments_of(found),
            results={},
        )
        for metric, values in line.values.items():
            told = apart[metric].get(config)
            against, p = told if isinstance(told, tuple) else (None, float("nan"))
            line.results[metric] = Result(spread(values), against, p)
        lines.append(line)
    return Table(data, asked, lines, len(study.seeds), sorted(strangers))


def changed_knobs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs of a record's config that are not as `default()` has them, but for the seed and
    for where the data lie.
    """
    changed = differences_of(default(), from_dict(config))
    found = {name.removeprefix("config."): value for name, (_, value) in changed.items()}
    return {name: value for name, value in found.items() if name not in ("seed", "data.path")}


def environments_of(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the records were made with, each once, without what tells one start from another."""
    found = []
    for record in records:
        for told in read_starts(record["environment"]):
            one = {name: told[name] for name in CREATED_WITH if name in told}
            found += [] if one in found else [one]
    return found


def numbers(record: Mapping[str, Any]) -> list[str]:
    """The metrics of a record; one that could not be told is null there."""
    beside = ("train_seconds", "seconds_to_checkpoint", "evaluate_seconds")
    kinds = (float, type(None))
    return [name for name, one in record.items() if isinstance(one, kinds) and name not in beside]


def values_of(records: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """A metric of some records, NaN where it could not be told."""
    found = (record.get(metric) for record in records)
    return [math.nan if value is None else value for value in found]
