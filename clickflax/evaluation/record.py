"""The record of an evaluation: a JSON file in the run's folder, with Parquet files of its rows."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped
from ml_collections import ConfigDict

from clickflax.config.default import to_dict
from clickflax.data.eval_batches import count_repeats
from clickflax.data.splits.common import is_cold_target
from clickflax.data.splits.labels import LabelExamples
from clickflax.run.folder import Run
from clickflax.run.targets import TaskData
from clickflax.runtime.files import read_json, write_json, write_parquet

# Columns of the rows that 0.1.0 wrote, and their names today.
OLD_COLUMNS = {"question": "example", "questions": "examples", "place": "rank"}
OLD_COLUMNS |= {"told": "prediction"}


def count_examples(data: TaskData, split: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of examples of a split, and what one should know about them."""
    examples = data.examples(split)
    if isinstance(examples, LabelExamples):
        return {"labels": len(examples)}
    item = columns[data.task.head]
    repeats = count_repeats(item, examples.history, examples.targets, examples.owner)
    return {
        "users": len(np.unique(examples.sequence)),
        "examples": len(examples),
        "targets_in_the_history": repeats,
        "targets_never_trained_on": int(is_cold_target(data.train, examples, item).sum()),
    }


def write_record(
    run: Run,
    name: str,
    record: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Shaped[np.ndarray, "..."]]],
    config: ConfigDict,
) -> None:
    """Writes NAME.json, and the rows behind it as NAME.ROWS.parquet, into the folder of a run."""
    for task in run.tasks:  # lists of an earlier evaluation do not belong to this one
        (run.folder / f"{name}.{task}.lists.parquet").unlink(missing_ok=True)
    for file, columns in rows.items():
        write_parquet(run.folder / f"{name}.{file}.parquet", columns)
    environment = read_json(run.folder / "environment.json")
    full = {**record, "environment": environment, "config": to_dict(config)}
    write_json(run.folder / f"{name}.json", full)  # the last: it says that the others are complete


def read_rows(path: pathlib.Path) -> pa.Table:
    """The rows of a Parquet file of an evaluation, also of one by 0.1.0."""
    table = pq.read_table(path)
    return table.rename_columns([OLD_COLUMNS.get(name, name) for name in table.column_names])
