"""The contents of a report as JSON values: tables, curves, groups, users."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clickflax.batch import RESERVED
from clickflax.config.default import from_dict, knobs
from clickflax.data.store import open_dataset, open_vocabulary
from clickflax.evaluation.protocol import ranking_protocol
from clickflax.evaluation.record import (
    EVALUATE_AGAIN,
    LIST_COLUMNS,
    TARGET_COLUMNS,
    read_record,
    read_rows,
)
from clickflax.runtime.files import json_lines
from clickflax.runtime.log import METRICS_LINE, finite
from clickflax.study.paired import parse_ranking_metric, read_cell_record, rows_path
from clickflax.study.plan import Cell, Study, cell_folder, read_cell_config, read_plan
from clickflax.study.results import Result, make_tables, metric_names
from clickflax.study.table import legend, table_title
from clickflax.tasks.group_metrics import GROUPS, group, metrics_by_group
from clickflax.tasks.label_metrics import LOWER_IS_BETTER, read_bins

SHOWN_USERS = 12  # users whose lists are shown
SHOWN_ITEMS = 20  # events of a history, and items of a list


class ReportSource(NamedTuple):
    """A study, or several runs in the form of a study."""

    out: pathlib.Path
    study: Study
    cells: list[Cell]

    def settings(self) -> Mapping[str, Any]:
        """The settings of the first evaluation; of the others, only the tables are shown."""
        return next(iter(self.study.evaluations.values()))

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """The record of a cell; None if it is not evaluated yet."""
        return read_cell_record(self.out, cell, self.settings())

    def rows_path(self, cell: Cell, task: str | None = None, suffix: str = "") -> pathlib.Path:
        """See `paired.rows_path`."""
        return rows_path(self.out, cell, self.settings(), task, suffix)

    def comparable_cells(self, data: str, task: str | None = None) -> list[Cell]:
        """The evaluated cells on a data set with the same ranking protocol as the first of them."""
        records = {cell: self.record(cell) for cell in self.cells if cell.data == data}
        protocols = {cell: ranking_protocol(one, task) for cell, one in records.items() if one}
        first = next(iter(protocols.values()), None)
        return [cell for cell, protocol in protocols.items() if protocol == first]


def open_source(folders: Sequence[pathlib.Path]) -> ReportSource:
    """The study of a folder; or several folders of runs, each as a config with the run's name.

    Raises FileNotFoundError for a run that is not evaluated, and ValueError for runs of the same
    name.
    """
    if len(folders) == 1 and (folders[0] / "study.json").is_file():
        study, cells = read_plan(folders[0])
        return ReportSource(folders[0], study, cells)
    cells = []
    for folder in folders:
        config = read_cell_config(folder)
        if not (folder / "test.json").is_file():
            raise FileNotFoundError(
                f"{folder} is not evaluated: `clickflax evaluate --run={folder}` does that."
            )
        data = pathlib.Path(config.data.path).name or "simulated shop"
        # As the name is an absolute path, `cell_folder` is this path.
        cells.append(Cell(folder.name, data, config.seed, "", (), str(folder.resolve())))
    names = [cell.config for cell in cells]
    for cell in cells:
        if names.count(cell.config) > 1:
            same = [one.name for one in cells if one.config == cell.config]
            raise ValueError(
                f"{' and '.join(same)} have the same name, by which a report identifies runs: "
                "rename one."
            )
    study = Study(
        question=", ".join(names),
        configs={cell.config: () for cell in cells},
        data={cell.data: () for cell in cells},
        seeds=(0,),
        metrics=main_metrics([read_record(folder / "test.json") for folder in folders]),
        baseline=cells[0].config,
    )
    return ReportSource(folders[0], study, cells)


def main_metrics(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The best-known metrics in the records of runs, of all their tasks."""
    names = dict.fromkeys(name for record in records for name in metric_names(record))
    known = ("recall@10", "ndcg@10", "auc", "average_precision", "accuracy", "mae")
    chosen = tuple(name for name in names if name.rpartition("/")[2] in known)
    return chosen or tuple(names)[:2]


def result_values(result: Result) -> dict[str, Any]:
    """A result of a table: its mean over seeds, and its difference from the baseline."""
    values: dict[str, Any] = result.seeds._asdict()
    if result.difference is not None:
        values |= {"p": result.p, "difference": result.difference.mean}
        values |= {"low": result.difference.low, "high": result.difference.high}
    return values


def report_tables(source: ReportSource) -> list[dict[str, Any]]:
    """The tables of the study."""
    tables = make_tables(source.out, source.study, source.cells)
    return [
        {
            "title": table_title(table),
            "legend": legend([table], source.study.baseline, with_differences=False),
            "rows": [
                {
                    "config": row.config,
                    "published": row.published,
                    "seeds": len(row.seconds),
                    "planned": table.planned,
                    "seconds": float(np.mean(row.seconds)) if row.seconds else None,
                    "results": {name: result_values(one) for name, one in row.results.items()},
                }
                for row in table.rows
            ],
        }
        for table in tables
    ]


def report_runs(source: ReportSource) -> list[dict[str, Any]]:
    """Every evaluated run: its metrics, its learning curve, and the knobs in which runs differ."""
    runs = []
    for cell in source.cells:
        record = source.record(cell)
        if record is None:
            continue
        folder = cell_folder(source.out, cell)
        flat = knobs(from_dict(record["config"]))
        metrics = {name: record[name] for name in metric_names(record)}
        runs.append(
            {
                "config": cell.config,
                "data": cell.data,
                "seed": cell.seed,
                "metrics": {**metrics, "train_seconds": float(record["train_seconds"])},
                "knobs": {name.removeprefix("config."): value for name, value in flat.items()},
                "curve": learning_curve(folder, f"validation/{flat['config.train.monitor']}"),
                "reliability": {
                    name.rpartition("/")[0] or from_dict(record["config"]).tasks[0]: read_bins(bins)
                    for name, bins in record.items()
                    if name.rpartition("/")[2] == "reliability"
                },
            }
        )
    names = runs[0]["knobs"] if runs else ()
    values = {name: {repr(run["knobs"][name]) for run in runs} for name in names}
    differing = [name for name in names if len(values[name]) > 1 and name != "seed"]
    for run in runs:
        run["knobs"] = {name: str(run["knobs"][name]) for name in differing}
    return runs


def learning_curve(folder: pathlib.Path, metric: str) -> dict[str, Any]:
    """The validations of a run: steps, seconds of training, and the metric."""
    values = (value for _, value in json_lines(folder / "metrics.jsonl", METRICS_LINE))
    lines = [line for line in values if metric in line]
    keys = {"step": "step", "seconds": "seconds", "value": metric}
    points = {name: [line.get(key) for line in lines] for name, key in keys.items()}
    return {"name": metric, **points}


def report_groups(source: ReportSource) -> list[dict[str, Any]]:
    """The last ranking metric of the tables, by length of the history and popularity of targets."""
    metrics = [metric for metric in map(parse_ranking_metric, source.study.metrics) if metric]
    charts = []
    for data in source.study.data if metrics else ():
        metric = metrics[-1]
        cells = source.comparable_cells(data, metric.task)
        paths = {cell: source.rows_path(cell, metric.task) for cell in cells}
        tables = {
            cell: read_rows(path, TARGET_COLUMNS) for cell, path in paths.items() if path.is_file()
        }
        for column, title in GROUPS.items() if tables else ():
            values = next(iter(tables.values()))[column].to_numpy()
            groups = group(values)
            by_config: dict[str, list] = {}
            for cell, table in tables.items():
                ranks = table["rank"].to_numpy()
                if len(ranks) != len(values):  # its targets differ
                    continue
                means = metrics_by_group(groups, ranks, (metric.cutoff,))[metric.name]
                by_config.setdefault(cell.config, []).append(means)
            charts.append(
                {
                    "title": f"{data}: {metric.name} by {title}",
                    "bins": groups.names,
                    "targets": np.bincount(groups.of).tolist(),
                    "configs": {
                        name: np.mean(seeds, axis=0).tolist() for name, seeds in by_config.items()
                    },
                }
            )
    return charts


def report_users(source: ReportSource) -> list[dict[str, Any]]:
    """Some users with their history, targets, and the list of each config.

    Half of them are those with the largest differences between configs, the others are random.
    """
    users = []
    for data in source.study.data:
        first: dict[str, Cell] = {}
        for cell in source.comparable_cells(data):
            if source.rows_path(cell, suffix=".lists").is_file():
                first.setdefault(cell.config, cell)
        if first:
            users.extend(users_of_data(source, data, first))
    return users


def users_of_data(
    source: ReportSource, data: str, cells: Mapping[str, Cell]
) -> list[dict[str, Any]]:
    """The users of a data set, from one cell of each config."""
    first = next(iter(cells.values()))
    titles = open_vocabulary(cell_folder(source.out, first) / "vocab" / "item.parquet").names()
    tables = {
        name: read_item_rows(source.rows_path(cell), TARGET_COLUMNS, len(titles)).to_pandas()
        for name, cell in cells.items()
    }
    rows = next(iter(tables.values()))
    # Configs whose targets differ from those of the first config are left out.
    targets = rows["target"].tolist()
    tables = {name: table for name, table in tables.items() if table["target"].tolist() == targets}
    record = source.record(first) or {}
    examples = choose_examples(rows, [table["rank"].to_numpy() for table in tables.values()])
    histories = read_histories(record, rows, examples)
    lists = {
        name: read_item_rows(
            source.rows_path(cells[name], suffix=".lists"), LIST_COLUMNS, len(titles)
        )
        for name in tables
    }
    users = []
    for example in examples:
        mine = rows[rows["example"] == example]
        targets = mine["target"].tolist()
        models = []
        for name, table in lists.items():
            of_example = table["example"].to_numpy() == example
            items = table["item"].to_numpy()[of_example][:SHOWN_ITEMS].tolist()
            shown = [{"title": titles[i - RESERVED], "hit": i in targets} for i in items]
            rank = tables[name].loc[tables[name]["example"] == example, "rank"].min()
            models.append({"config": name, "items": shown, "rank": float(rank)})
        users.append(
            {
                "name": f"{data}: user {int(mine['sequence'].iloc[0])}, example {example}",
                "history": [titles[i - RESERVED] for i in histories.get(example, ())],
                "length": int(mine["history"].iloc[0]),
                "targets": [titles[i - RESERVED] for i in targets],
                "models": models,
            }
        )
    return users


def read_item_rows(path: pathlib.Path, needed: Sequence[str], items: int) -> pa.Table:
    """Rows of items or targets; raises ValueError for an item that the catalog does not have."""
    table = read_rows(path, needed)
    for name in {"item", "target"} & set(needed):
        most = table[name].to_numpy().max()
        if most - RESERVED >= items:
            raise ValueError(f"{path} has the item {most} of {items:,}. {EVALUATE_AGAIN}")
    return table


def choose_examples(rows: Any, ranks: Sequence[np.ndarray]) -> list[int]:
    """The examples to show: those with the largest differences of 1 / rank, and random ones."""
    gain = np.stack([1 / (one + 1) for one in ranks])
    largest = np.argsort(-(gain.max(0) - gain.min(0)), kind="stable")[: SHOWN_USERS // 2]
    others = np.random.default_rng(0).permutation(len(rows))[: SHOWN_USERS - len(largest)]
    return list(dict.fromkeys(rows["example"].to_numpy()[[*largest, *others]].tolist()))


def read_histories(
    record: Mapping[str, Any], rows: Any, examples: Sequence[int]
) -> dict[int, list[int]]:
    """The last items in the history of each example, the newest first.

    It is empty if the data set no longer exists or is another one, and for data sets with sessions.
    """
    path = pathlib.Path(record["data"])
    if from_dict(record["config"]).data.chain or not (path / "dataset.json").is_file():
        return {}
    dataset = open_dataset(path)
    if dataset.fingerprint != record["fingerprint"] or rows["sequence"].max() >= dataset.sequences:
        return {}
    histories = {}
    for example in examples:
        row = rows[rows["example"] == example].iloc[0]
        start, stop = dataset.offsets[int(row["sequence"])], int(row["end"])
        items = np.asarray(dataset.columns["item"][max(start, stop - SHOWN_ITEMS) : stop])[::-1]
        histories[example] = [int(i) for i in items if i >= RESERVED]
    return histories


def gather_report(source: ReportSource) -> dict[str, Any]:
    """All contents of a report; raises ValueError if no run is evaluated."""
    runs = report_runs(source)
    if not runs:
        raise ValueError(
            f"No run of {source.out} is evaluated yet, so that there is nothing to report. "
            "`clickflax study run FILE --out DIR` resumes a study."
        )
    metrics = list(source.study.metrics)
    contents = {
        "question": source.study.question,
        "metrics": metrics,
        "lower_is_better": [one for one in metrics if one.rpartition("/")[2] in LOWER_IS_BETTER],
        "baseline": source.study.baseline,
        "planned": len(source.cells),
        "tables": report_tables(source),
        "runs": runs,
        "groups": report_groups(source),
        "users": report_users(source),
    }
    return finite(contents)
