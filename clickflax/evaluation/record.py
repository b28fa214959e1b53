"""The record of an evaluation: a JSON file in the run's folder, with Parquet files of its rows."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped
from ml_collections import ConfigDict

from clickflax.config.default import from_dict, to_dict
from clickflax.data.eval_batches import count_repeats
from clickflax.data.splits.common import is_cold_target
from clickflax.data.splits.labels import LabelExamples
from clickflax.run.folder import Run
from clickflax.run.targets import TaskData
from clickflax.runtime.files import (
    parquet_schema,
    read_json,
    read_parquet,
    write_json,
    write_parquet,
)
from clickflax.runtime.redact import redact
from clickflax.runtime.schema import check_schema

# Columns of the rows that 0.1.0 wrote, and their names today.
OLD_COLUMNS = {"question": "example", "questions": "examples", "place": "rank"}
OLD_COLUMNS |= {"told": "prediction"}
# Columns of the rows: of targets (see `target_rows`), of lists and of labels.
TARGET_COLUMNS = ("example", "sequence", "target", "rank", "history", "end", "trained")
LIST_COLUMNS = ("example", "rank", "item")
LABEL_COLUMNS = ("event", "label", "prediction")
OF_ANY_SIGN = ("label", "prediction")
EVALUATE_AGAIN = "`clickflax evaluate` writes it again."
RECORD = {
    "data": str,
    "fingerprint": str,
    "train_seconds": float,
    "environment": {"resumed?": [{str: object}], str: object},
    "config": {str: object},
    str: object,
}
# Entries of a record; with several tasks, their names begin with that of the task.
ENTRIES = {"protocol": {str: object}, "reliability": [{str: (float, None)}]}


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
    environment = read_json(run.folder / "environment.json", {str: object})
    full = {**record, "environment": environment, "config": redact(to_dict(config))}
    write_json(run.folder / f"{name}.json", full)  # the last: it says that the others are complete


def read_record(path: pathlib.Path) -> dict[str, Any]:
    """The record of an evaluation. Raises ValueError if it is not one."""
    record = read_json(path, RECORD)
    from_dict(record["config"], f"{path}: config: ")
    for name, entry in record.items():
        schema = ENTRIES.get(name.rpartition("/")[2], object)
        check_schema(path, entry, schema, name)
    return record


def read_rows(path: pathlib.Path, needed: Sequence[str]) -> pa.Table:
    """The rows of a Parquet file of an evaluation, also of one by 0.1.0.

    Raises ValueError if there are none, or if a needed column is not of numbers, or of numbers
    below 0 although it counts something.
    """
    names = {OLD_COLUMNS.get(name, name): name for name in parquet_schema(path).names}
    types = {name: "numbers" if new in needed else None for new, name in names.items()}
    missing = [name for name in needed if name not in names]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}, but {[*names]}. {EVALUATE_AGAIN}")
    table = read_parquet(path, types).rename_columns([*names])
    for name in needed:
        values = table[name].to_numpy()
        if not len(values):
            raise ValueError(f"{path} has no rows. {EVALUATE_AGAIN}")
        if name not in OF_ANY_SIGN and not values.min() >= 0:
            raise ValueError(f"{path} has {values.min()} in {name!r}. {EVALUATE_AGAIN}")
    return table
