"""What a report shows, as JSON can hold it: tables, curves, groups, users."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clickflax.batch import RESERVED
from clickflax.config.default import from_dict, knobs
from clickflax.data.store import open_dataset, open_vocabulary
from clickflax.evaluation.protocol import ranking_protocol
from clickflax.evaluation.record import read_rows
from clickflax.runtime.files import read_json
from clickflax.runtime.log import finite
from clickflax.study.paired import answer_of, columns_of, ranked, rows_of
from clickflax.study.plan import Cell, Study, folder_of, read_plan
from clickflax.study.results import Result, numbers, results
from clickflax.study.table import legend, title
from clickflax.tasks.group_metrics import GROUPS, group, metrics_by_group
from clickflax.tasks.label_metrics import LOWER_IS_BETTER

PEOPLE = 12  # users whose lists are shown
SHOWN = 20  # events of a history, and places of a list


class Source(NamedTuple):
    """A study, or runs that are shown as if they were one."""

    out: pathlib.Path
    study: Study
    cells: list[Cell]

    def first(self) -> Mapping[str, Any]:
        """What is asked first, of which there is more than a table."""
        return next(iter(self.study.asked.values()))

    def rows(self, cell: Cell, task: str | None = None, more: str = "") -> pathlib.Path:
        """The file of a cell with a line for each target, or the one of its lists."""
        return rows_of(self.out, cell, self.first(), task, more)

    def done(self, data: str) -> list[Cell]:
        """The cells on a data set that have been evaluated."""
        of_data = (cell for cell in self.cells if cell.data == data)
        return [cell for cell in of_data if answer_of(self.out, cell, self.first())]

    def alike(self, data: str, task: str | None = None) -> list[Cell]:
        """Those of them that were asked to rank what the first one was."""
        records = {cell: answer_of(self.out, cell, self.first()) or {} for cell in self.done(data)}
        among = {cell: ranking_protocol(record, task) for cell, record in records.items()}
        return [cell for cell in among if among[cell] == next(iter(among.values()))]


def open_source(folders: Sequence[pathlib.Path]) -> Source:
    """The study of a folder; or of several folders of runs, each a config by its name."""
    if len(folders) == 1 and (folders[0] / "study.json").is_file():
        study, cells = read_plan(folders[0])
        return Source(folders[0], study, cells)
    cells = []
    for folder in folders:
        config = from_dict(read_json(folder / "config.json"))
        if not (folder / "test.json").is_file():
            raise FileNotFoundError(
                f"{folder} has not been evaluated: `clickflax evaluate --run={folder}` does that."
            )
        data = pathlib.Path(config.data.path).name or "simulated shop"
        # The folder of a cell that has a path of its own is that path.
        place = str(folder.resolve())
        cells.append(Cell(folder.name, data, config.seed, "", (), place))
    study = Study(
        question=", ".join(cell.config for cell in cells),
        configs={cell.config: () for cell in cells},
        data={cell.data: () for cell in cells},
        seeds=(0,),
        metrics=metrics_of([read_json(folder / "test.json") for folder in folders]),
        baseline=cells[0].config,
    )
    names = [cell.config for cell in cells]
    for cell in cells:
        if names.count(cell.config) > 1:
            both = [one.name for one in cells if one.config == cell.config]
            raise ValueError(
                f"{' and '.join(both)} have the same name, by which runs are told apart: rename "
                "one."
            )
    return Source(folders[0], study, cells)


def metrics_of(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The metrics that runs are best known by; of all their tasks."""
    there = dict.fromkeys(name for record in records for name in numbers(record))
    known = ("recall@10", "ndcg@10", "auc", "average_precision", "accuracy", "mae")
    found = tuple(name for name in there if name.rpartition("/")[2] in known)
    return found or tuple(there)[:2]


def told_result(result: Result) -> dict[str, Any]:
    """A number of the table, and how it differs from the baseline's."""
    found: dict[str, Any] = result.seeds._asdict()
    if result.apart is not None:
        found |= {"p": result.p, "apart": result.apart.mean}
        found |= {"low": result.apart.low, "high": result.apart.high}
    return found


def told_tables(source: Source) -> list[dict[str, Any]]:
    """The tables of the study."""
    tables = results(source.out, source.study, source.cells)
    return [
        {
            "title": title(table),
            "legend": legend([table], source.study.baseline, apart=False),
            "lines": [
                {
                    "config": line.config,
                    "published": line.published,
                    "seeds": len(line.seconds),
                    "planned": table.planned,
                    "seconds": float(np.mean(line.seconds)) if line.seconds else None,
                    "results": {name: told_result(one) for name, one in line.results.items()},
                }
                for line in table.lines
            ],
        }
        for table in tables
    ]


def told_cells(source: Source) -> list[dict[str, Any]]:
    """Every run that has been evaluated: its metrics, the knobs in which runs differ, its curve."""
    found = []
    for cell in source.cells:
        record = answer_of(source.out, cell, source.first())
        if record is None:
            continue
        folder = folder_of(source.out, cell)
        flat = knobs(from_dict(record["config"]))
        metrics = {name: record[name] for name in numbers(record)}
        found.append(
            {
                "config": cell.config,
                "data": cell.data,
                "seed": cell.seed,
                "metrics": {**metrics, "train_seconds": float(record["train_seconds"])},
                "knobs": {name.removeprefix("config."): value for name, value in flat.items()},
                "curve": curve(folder, f"validation/{flat['config.train.monitor']}"),
                "reliability": {
                    name.rpartition("/")[0] or record["config"]["tasks"][0]: bins
                    for name, bins in record.items()
                    if name.rpartition("/")[2] == "reliability"
                },
            }
        )
    names = found[0]["knobs"] if found else ()
    every = {name: {repr(one["knobs"][name]) for one in found} for name in names}
    differing = [name for name, values in every.items() if len(values) > 1 and name != "seed"]
    for one in found:
        one["knobs"] = {name: str(one["knobs"][name]) for name in differing}
    return found


def curve(folder: pathlib.Path, metric: str) -> dict[str, Any]:
    """The validations of a run: steps, seconds of training, and the metric."""
    some = [one for one in lines_of(folder / "metrics.jsonl") if metric in one]
    names = {"step": "step", "seconds": "seconds", "value": metric}
    return {"name": metric, **{name: [one.get(key) for one in some] for name, key in names.items()}}


def lines_of(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines; what a run is just writing at its end does not count."""
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(whole, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is no JSON ({error}).") from None
    return found


def told_groups(source: Source) -> list[dict[str, Any]]:
    """The last metric of the table for targets with short and long histories, rare and common."""
    wanted = [kind for kind in map(ranked, source.study.metrics) if kind]
    found = []
    for data in source.study.data if wanted else ():
        metric = wanted[-1]
        files = {cell: source.rows(cell, metric.task) for cell in source.alike(data, metric.task)}
        tables = {cell: columns_of(path) for cell, path in files.items() if path.is_file()}
        for column, words in GROUPS.items() if tables else ():
            values = next(iter(tables.values()))[column].to_numpy()
            groups = group(values)
            lines: dict[str, list] = {}
            for cell, table in tables.items():
                place = table["rank"].to_numpy()
                if len(place) != len(values):  # it was asked otherwise
                    continue
                means = metrics_by_group(groups, place, (metric.cutoff,))[metric.name]
                lines.setdefault(cell.config, []).append(means)
            found.append(
                {
                    "title": f"{data}: {metric.name} by {words}",
                    "bins": groups.names,
                    "targets": np.bincount(groups.of).tolist(),
                    "lines": {name: np.mean(v, axis=0).tolist() for name, v in lines.items()},
                }
            )
    return found


def told_users(source: Source) -> list[dict[str, Any]]:
    """Some users: what they had, what each model says, what was right. Half of them are those about
    whom models differ most.
    """
    found = []
    for data in source.study.data:
        first: dict[str, Cell] = {}
        for cell in source.alike(data):
            if source.rows(cell, more=".lists").is_file():
                first.setdefault(cell.config, cell)
        if first:
            found.extend(users_of_data(source, data, first))
    return found


def users_of_data(source: Source, data: str, first: Mapping[str, Cell]) -> list[dict[str, Any]]:
    """The users of a data set, from one run of each config."""
    tables = {name: read_rows(source.rows(cell)).to_pandas() for name, cell in first.items()}
    rows = next(iter(tables.values()))
    # Of models that were asked otherwise, the first one is shown, and those that were asked as it.
    alike = {n for n, t in tables.items() if t["target"].tolist() == rows["target"].tolist()}
    tables = {name: table for name, table in tables.items() if name in alike}
    gain = np.stack([1 / (table["rank"].to_numpy() + 1) for table in tables.values()])
    apart = np.argsort(-(gain.max(0) - gain.min(0)), kind="stable")[: PEOPLE // 2]
    others = np.random.default_rng(0).permutation(len(rows))[: PEOPLE - len(apart)]
    chosen = list(dict.fromkeys(rows["example"].to_numpy()[[*apart, *others]].tolist()))
    folder = folder_of(source.out, next(iter(first.values())))
    catalog = open_vocabulary(folder / "vocab" / "item.parquet")
    titles = catalog.names()
    record = answer_of(source.out, next(iter(first.values())), source.first()) or {}
    histories = histories_of(record, rows, chosen)
    lists = {name: read_rows(source.rows(first[name], more=".lists")) for name in tables}
    found = []
    for question in chosen:
        mine = rows[rows["example"] == question]
        targets = mine["target"].tolist()
        of_models = []
        for name, table in lists.items():
            some = table["example"].to_numpy() == question
            items = table["item"].to_numpy()[some][:SHOWN].tolist()
            shown = [{"title": titles[i - RESERVED], "hit": i in targets} for i in items]
            place = tables[name].loc[tables[name]["example"] == question, "rank"].min()
            of_models.append({"config": name, "items": shown, "place": float(place)})
        found.append(
            {
                "name": f"{data}: user {int(mine['sequence'].iloc[0])}, question {question}",
                "history": [titles[i - RESERVED] for i in histories.get(question, ())],
                "length": int(mine["history"].iloc[0]),
                "targets": [titles[i - RESERVED] for i in targets],
                "models": of_models,
            }
        )
    return found


def histories_of(
    record: Mapping[str, Any], rows: Any, chosen: Sequence[int]
) -> dict[int, list[int]]:
    """The last items of some histories, the newest first; none where the data set is gone."""
    path = pathlib.Path(record["data"])
    if record["config"]["data"]["chain"] or not (path / "dataset.json").is_file():
        return {}
    dataset, found = open_dataset(path), {}
    for question in chosen:
        line = rows[rows["example"] == question].iloc[0]
        start, stop = dataset.offsets[int(line["sequence"])], int(line["end"])
        items = np.asarray(dataset.columns["item"][max(start, stop - SHOWN) : stop])[::-1]
        found[question] = [int(i) for i in items if i >= RESERVED]
    return found


def told(source: Source) -> dict[str, Any]:
    """Everything that the page shows."""
    done = told_cells(source)
    if not done:
        raise ValueError(
            f"No run of {source.out} has been evaluated: there is nothing to show. `clickflax "
            "study run FILE --out DIR` goes on with a study."
        )
    found = {
        "question": source.study.question,
        "metrics": list(source.study.metrics),
        "lower": [
            name for name in source.study.metrics if name.rpartition("/")[2] in LOWER_IS_BETTER
        ],
        "baseline": source.study.baseline,
        "planned": len(source.cells),
        "tables": told_tables(source),
        "cells": done,
        "groups": told_groups(source),
        "users": told_users(source),
    }
    return finite(found)
