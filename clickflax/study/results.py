"""Results of a study: means over seeds, and differences over users, as tables."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clickflax.config.default import default, differences, from_dict
from clickflax.runtime.environment import CREATED_WITH, read_starts
from clickflax.runtime.schema import check_schema
from clickflax.study.paired import compare_with_baseline, read_cell_record, record_path
from clickflax.study.plan import Cell, Study, check_name
from clickflax.study.statistics import Difference, Spread, spread

LEVEL = 0.05  # of significance, for p-values that are corrected for the rows of a table


class Result(NamedTuple):
    """A metric of a config on a data set."""

    seeds: Spread
    difference: Difference | None  # from the baseline, for the same users
    p: float  # of the difference, by the bootstrap with Holm's correction; NaN if there is none


class Row(NamedTuple):
    """A config on a data set, with the result of each metric."""

    config: str
    published: str
    knobs: dict[str, Any]  # that differ from the default config, except the seed
    seconds: list[float]  # of training, for each seed
    values: dict[str, list[float]]  # of each metric, for each seed
    environments: list[dict[str, Any]]  # the distinct ones: commit, versions, machine
    results: dict[str, Result]


class Table(NamedTuple):
    """The configs on a data set in one evaluation."""

    data: str
    evaluation: str
    rows: list[Row]
    planned: int  # seeds of each row
    not_compared: list[str]  # configs that cannot be compared with the baseline, and why


def make_tables(out: pathlib.Path, study: Study, cells: Sequence[Cell]) -> list[Table]:
    """The tables of all records so far; raises ValueError for a metric that no record has."""
    tables = [
        make_table(out, study, [cell for cell in cells if cell.data == data], data, evaluation)
        for data in study.data
        for evaluation in study.evaluations
    ]
    records = (
        read_cell_record(out, cell, settings)
        for cell in cells
        for settings in study.evaluations.values()
    )
    known = {name: None for record in records if record for name in metric_names(record)}
    for metric in study.metrics if known else ():
        check_name(metric, known, f"{out / 'study.json'}: metrics")
    return tables


def make_table(
    out: pathlib.Path, study: Study, cells: Sequence[Cell], data: str, evaluation: str
) -> Table:
    """The table of a data set and an evaluation."""
    settings = study.evaluations[evaluation]
    done: dict[str, list[Cell]] = {config: [] for config in study.configs}
    records: dict[str, list[dict[str, Any]]] = {config: [] for config in study.configs}
    for cell in cells:
        record = read_cell_record(out, cell, settings)
        if record is not None:
            metrics = {f"{metric}?": (float, None) for metric in study.metrics}
            check_schema(record_path(out, cell, settings), record, {**metrics, str: object})
            done[cell.config].append(cell)
            records[cell.config].append(record)
    comparisons = {
        metric: compare_with_baseline(out, done, settings, study.baseline, metric)
        for metric in study.metrics
    }
    not_compared = {
        f"{config} ({reason})"
        for by_config in comparisons.values()
        for config, reason in by_config.items()
        if isinstance(reason, str)
    }
    rows = []
    for config, of_config in records.items():
        row = Row(
            config=config,
            published=study.published.get(data, {}).get(config, ""),
            knobs=changed_knobs(of_config[0]["config"]) if of_config else {},
            seconds=[record["train_seconds"] for record in of_config],
            values={
                metric: metric_values(of_config, metric) for metric in study.metrics if of_config
            },
            environments=distinct_environments(of_config),
            results={},
        )
        for metric, values in row.values.items():
            comparison = comparisons[metric].get(config)
            compared = comparison if isinstance(comparison, tuple) else (None, math.nan)
            row.results[metric] = Result(spread(values), *compared)
        rows.append(row)
    return Table(data, evaluation, rows, len(study.seeds), sorted(not_compared))


def changed_knobs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs in the config of a record that differ from `default()`.

    The seed and the location of the data set are left out.
    """
    changed = differences(default(), from_dict(config))
    values = {name.removeprefix("config."): value for name, (_, value) in changed.items()}
    return {name: value for name, value in values.items() if name not in ("seed", "data.path")}


def distinct_environments(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The environments of records, each once: the entries on which numbers may depend."""
    environments = []
    for record in records:
        for start in read_starts(record["environment"]):
            environment = {name: start[name] for name in CREATED_WITH if name in start}
            if environment not in environments:
                environments.append(environment)
    return environments


def metric_names(record: Mapping[str, Any]) -> list[str]:
    """The names of the metrics in a record; an undefined metric is null there."""
    times = ("train_seconds", "seconds_to_checkpoint", "evaluate_seconds")
    types = (float, type(None))
    return [name for name, one in record.items() if isinstance(one, types) and name not in times]


def metric_values(records: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """The values of a metric in several records, NaN where it is undefined or missing."""
    values = (record.get(metric) for record in records)
    return [math.nan if value is None else value for value in values]
