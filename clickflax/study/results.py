"""What the runs of a study have found: means over seeds, and differences over users."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from clickflax.config import default, from_dict
from clickflax.config import differences as differences_of
from clickflax.run import read_json
from clickflax.study.plan import Cell, Study, check_name, folder_of, record_of
from clickflax.study.statistics import Difference, Spread, difference, holm, spread
from clickflax.tasks.metrics import ranking

ENVIRONMENT = ("commit", "dirty", "versions", "backend", "devices", "cpu", "cores")
LEVEL = 0.05  # of a significant difference, corrected for all of its table


class Result(NamedTuple):
    """A metric of a config on a data set."""

    seeds: Spread
    apart: Difference | None  # from the baseline, over users; None: it is the baseline, or no mean
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


def per_user(path: pathlib.Path, metric: str) -> Float[np.ndarray, " U"] | None:
    """What each user, in the order of the log, adds to the mean of a metric over the questions;
    None where it is no mean, as the area under a curve is none.
    """
    rows = pq.read_table(path)
    name, _, k = metric.partition("@")
    if "place" not in rows.column_names or not k:
        return None
    question, sequence = rows["question"].to_numpy(), rows["sequence"].to_numpy()
    count = int(question.max()) + 1
    found = ranking(rows["place"].to_numpy(), question, count, (int(k),))
    if metric not in found:
        return None
    asked = np.zeros(count, np.int64)
    asked[question] = sequence
    users, which = np.unique(asked, return_inverse=True)
    return np.bincount(which, weights=found[metric]) * (len(users) / count)


def answer_of(out: pathlib.Path, cell: Cell, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a cell, None as long as there is none."""
    path = folder_of(out, cell) / f"{record_of(asked)}.json"
    return read_json(path) if path.is_file() else None


def rows_of(
    out: pathlib.Path, cell: Cell, asked: Mapping[str, Any], more: str = ""
) -> pathlib.Path:
    """The file of a cell that has a line for each target of its first task, or one beside it."""
    folder = folder_of(out, cell)
    task = read_json(folder / "config.json")["tasks"][0]
    return folder / f"{record_of(asked)}.{task}{more}.parquet"


def users_of(
    out: pathlib.Path, cells: Sequence[Cell], asked: Mapping[str, Any], metric: str
) -> Float[np.ndarray, " U"] | None:
    """The mean over seeds of what each user adds to a metric."""
    found = []
    for cell in cells:
        users = per_user(rows_of(out, cell, asked), metric)
        if users is None:
            return None
        found.append(users)
    return np.mean(found, axis=0) if found else None


def results(out: pathlib.Path, study: Study, cells: Sequence[Cell]) -> list[Table]:
    """All that there is so far."""
    return [
        table_of(out, study, [cell for cell in cells if cell.data == data], data, asked)
        for data in study.data
        for asked in study.asked
    ]


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
    lines = []
    for config, found in records.items():
        line = Line(
            config=config,
            published=study.published.get(data, {}).get(config, ""),
            knobs=changed_knobs(found[0]["config"]) if found else {},
            seconds=[one["train_seconds"] for one in found],
            values={m: values_of(found, m, f"{data}, {config}") for m in study.metrics if found},
            environments=environments_of(found),
            results={},
        )
        for metric, values in line.values.items():
            against, p = apart[metric].get(config, (None, float("nan")))
            line.results[metric] = Result(spread(values), against, p)
        lines.append(line)
    return Table(data, asked, lines, len(study.seeds))


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
        told = record["environment"]
        one = {name: told[name] for name in ENVIRONMENT if name in told}
        found += [] if one in found else [one]
    return found


def values_of(records: Sequence[dict[str, Any]], metric: str, where: str) -> list[float]:
    """A metric of some records; an unknown one is refused, and the nearest named."""
    for record in records:
        numbers = [name for name, value in record.items() if isinstance(value, float)]
        check_name(metric, numbers, f"metric of {where}")
    return [record[metric] for record in records]


def differences(
    out: pathlib.Path,
    done: dict[str, list[Cell]],
    asked: Mapping[str, Any],
    baseline: str,
    metric: str,
) -> dict[str, tuple[Difference, float]]:
    """How every config differs from the baseline, and how likely that is by chance among all of
    them; of the seeds that both have.
    """
    found = {}
    for config, cells in done.items():
        seeds = {cell.seed for cell in cells} & {cell.seed for cell in done[baseline]}
        if config == baseline or not seeds:
            continue
        sides = []
        for one in (config, baseline):
            some = [cell for cell in done[one] if cell.seed in seeds]
            sides.append(users_of(out, some, asked, metric))
        if sides[0] is not None and sides[1] is not None:
            found[config] = difference(sides[0], sides[1])
    p = holm({config: one.p_bootstrap for config, one in found.items()})
    return {config: (one, p[config]) for config, one in found.items()}
