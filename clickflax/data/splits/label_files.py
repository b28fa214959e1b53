"""Files of labels: CSV or Parquet with the columns sequence and label, perhaps event and weight."""

import csv
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from clickflax.runtime.files import parquet_schema, read_parquet, reading, text_lines
from clickflax.runtime.schema import shorten

COLUMNS = ("sequence", "label", "event", "weight")
DELIMITERS = (",", "\t", ";", "|")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"\d{1,18}(\.0*)?", re.ASCII)  # pandas writes 1.0 where some are missing
HINT = {
    "label": "not a number (a yes is 1, a no 0)",
    "event": "not a whole number; events of a sequence count from 0",
    "weight": "not a finite number, 0 or more",
}


class LabelRow(NamedTuple):
    """A row of a file of labels. `event` counts from 0 in the sequence; None is the last event."""

    where: str  # file and line, or file and row of Parquet
    sequence: str
    label: float
    event: int | None
    weight: float | None


def read_label_file(path: str) -> tuple[list[LabelRow], bool]:
    """Returns the rows of a file that have a label, and whether they have weights.

    Raises ValueError, with the line, for a value that is not what its column has.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"config.label.path={path!r} is not a file.")
    names, rows = _read_parquet(path) if path.endswith(".parquet") else _read_csv(path)
    if not {"sequence", "label"} <= set(names):
        raise ValueError(f"{path} has the columns {sorted(names)}, not sequence and label.")
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has two columns {twice[0]!r}: rename or remove one.")
    weighted = "weight" in names
    return [_label_row(where, row, weighted) for where, row in rows if row["label"]], weighted


def _label_row(where: str, row: Mapping[str, str], weighted: bool) -> LabelRow:
    """Returns a row whose values are text. Raises ValueError for one that is none of its column."""
    if not row["sequence"]:
        raise ValueError(f"{where}: a label without a sequence. Name one, or remove the row.")
    event = row.get("event", "")
    if event and not WHOLE.fullmatch(event):
        raise ValueError(f"{where}: the event {shorten(event)} is {HINT['event']}.")
    label = _number(where, "label", row["label"])
    weight = _number(where, "weight", row["weight"]) if weighted else None
    if weight is not None and weight < 0:
        raise ValueError(f"{where}: the weight {shorten(row['weight'])} is {HINT['weight']}.")
    index = int(event.partition(".")[0]) if event else None
    return LabelRow(where, row["sequence"], label, index, weight)


def _number(where: str, name: str, text: str) -> float:
    """Returns the number that a text is. Raises ValueError for another text."""
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    if math.isinf(value):
        comma = " Write a decimal point, not a comma." if "," in text else ""
        raise ValueError(f"{where}: the {name} {shorten(text)} is {HINT[name]}.{comma}")
    return value


def _read_csv(path: str) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Returns the names of the columns, and the rows with their lines; values are text."""
    records = _csv_records(path)
    _, names = next(records, ("", []))
    return names, _named_rows(records, names)


def _named_rows(
    records: Iterator[tuple[str, list[str]]], names: list[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields rows by name. Raises ValueError for one with another number of values."""
    for where, values in records:
        if len(values) != len(names):
            raise ValueError(f"{where} has {len(values)} values for {len(names)} columns: {names}.")
        yield where, {name: value.strip() for name, value in zip(names, values, strict=True)}


def _csv_records(path: str) -> Iterator[tuple[str, list[str]]]:
    """Yields the records of a CSV file, each with the line at which it begins.

    The delimiter is that of the first line. Blank lines at the end are left out.
    """
    lines = (text for _, text in text_lines(path))
    header = next(lines, "")
    delimiter = max(DELIMITERS, key=header.count)
    with reading(f"{path}, line 1,"):
        names = next(csv.reader([header], delimiter=delimiter, strict=True), [])
    yield f"{path}, line 1", names
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    blank = 0
    while True:
        line = rows.line_num + 2  # the header is line 1
        with reading(f"{path}, line {line},"):
            values = next(rows, None)
        if values is None:
            return
        if blank and values:
            raise ValueError(f"{path}, line {blank} is blank. Remove it.")
        if values:
            yield f"{path}, line {line}", values
        else:
            blank = blank or line


def _read_parquet(path: str) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Returns the names of the columns, and the rows with their numbers; values are text."""
    names = parquet_schema(path).names
    wanted = [name for name in COLUMNS if names.count(name) == 1]
    table = read_parquet(path, dict.fromkeys(wanted))
    with reading(path):
        rows = table.to_pylist()
    pairs = ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
    texts = (
        (where, {name: _as_text(where, name, row[name]) for name in wanted}) for where, row in pairs
    )
    return names, texts


def _as_text(where: str, name: str, value: Any) -> str:
    """Returns a value of Parquet as a CSV file has it; a missing one and NaN are empty.

    Raises ValueError for what is no text and no number.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, list | dict | bytes) or (name == "sequence" and isinstance(value, bool)):
        raise ValueError(f"{where}: the {name} {shorten(value)} is not text or a number.")
    return str(int(value)) if isinstance(value, bool) else str(value)
