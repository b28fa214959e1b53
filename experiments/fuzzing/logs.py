"""Logs in every format of the source `log`, whole or damaged, and what an independent reader finds.

A whole log must give the sequences that are read here, by Python alone. A damaged one must give an
error, or as many rows, read = kept + dropped, as are counted here.
"""

import csv
import gzip
import io
import json
import pathlib
import random
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clickflax.batch import RESERVED
from clickflax.data.store import Dataset, open_dataset
from clickflax.preparation.main import prepare
from clickflax.preparation.options import Options, parse_columns
from experiments.fuzzing.mutate import TEXTS, mutate_bytes

START = 1_700_000_000
COLUMNS = "sequence=user,item=product,time=at,action=action"
FRACTION = re.compile(r"-?[0-9]+\.[0-9]+")
FORMATS = ("csv", "tsv", "csv.gz", "csv.zst", "jsonl", "jsonl.gz", "json", "parquet", "CSV")

Rows = list[dict[str, Any]]


def whole_log(chance: random.Random, folder: pathlib.Path) -> str | None:
    """A log without damage: its sequences are those that it was made of."""
    rows = random_rows(chance)
    format = chance.choice(FORMATS)
    path = folder / f"log.{format}"
    path.write_bytes(_packed(written(rows, format, chance), format))
    data = prepared(path, folder, on_bad_rows="error")
    expected = expected_sequences(rows)
    found = sequences_of(data)
    if found != expected:
        return f"{format}: {rows!r:.600} gave {found!r:.600}, not {expected!r:.600}"
    return accounts(data, len(rows))


def damaged_log(chance: random.Random, folder: pathlib.Path) -> str | None:
    """A log with damage: an error, or each of its rows is counted."""
    rows = random_rows(chance)
    format = chance.choice(FORMATS)
    data = mutate_bytes(written(rows, format, chance), chance)
    packed = _packed(data, format)
    if format.endswith((".gz", ".zst")) and chance.random() < 0.2:
        packed = mutate_bytes(packed, chance)
        data = None
    path = folder / f"log.{format}"
    path.write_bytes(packed)
    quote = chance.choice(('"', "none"))
    options: dict[str, Any] = {"on_bad_rows": chance.choice(("skip", "error"))}
    if "parquet" not in format and "json" not in format:
        options |= {"quote": quote, "delimiter": chance.choice((None, None, ",", ";"))}
    dataset = prepared(path, folder, **options)
    return accounts(dataset, None if data is None else count_rows(path, data, format, quote))


def random_rows(chance: random.Random) -> Rows:
    """Rows of a log, some of them without sequence or item."""
    texts = [chance.choice(TEXTS) for _ in range(5)] if chance.random() < 0.4 else []
    texts = [text for text in texts if text.strip() == text and "\n" not in text]
    users = [f"u{k}" for k in range(3)] + texts[:2]
    items = [f"i{k}" for k in range(4)] + texts[2:]
    if chance.random() < 0.1:
        users = [f"{k}.0" for k in range(1, 4)]
    return [
        {
            "user": chance.choice(users),
            "product": chance.choice(items),
            "at": START + chance.randint(0, 9),
            "action": chance.choice(("view", "buy", "", "ä")),
        }
        for _ in range(chance.randint(3, 20))
    ]


def written(rows: Rows, format: str, chance: random.Random) -> bytes:
    """The bytes of a log in a format, before it is packed."""
    if format.startswith("json"):
        lines = [json.dumps(row, ensure_ascii=chance.random() < 0.5) for row in rows]
        return ("\n".join(lines) + chance.choice(("", "\n", "\n\n"))).encode()
    if format == "parquet":
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), file)
        return file.getvalue()
    delimiter = "\t" if format == "tsv" else chance.choice(",;|\t")
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=chance.choice(("\n", "\r\n")))
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    mark = chance.choice(("", "", "\ufeff"))
    return (mark + text.getvalue()).encode()


def _packed(data: bytes, format: str) -> bytes:
    if format.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    if format.endswith(".zst"):
        return pa.compress(data, codec="zstd", asbytes=True)
    return data


def prepared(path: pathlib.Path, folder: pathlib.Path, **options: Any) -> Dataset:
    """The data set of a log."""
    out = folder / "out"
    log_options = Options(columns=parse_columns(COLUMNS), threads=1, memory="1GB", **options)
    prepare("log", path, out, log_options, overwrite=True)
    return open_dataset(out)


def expected_sequences(rows: Rows) -> dict[str, list[str]]:
    """The items of each sequence in the order of time, read by Python alone."""
    strip = {
        name: all(FRACTION.fullmatch(row[name]) for row in rows if row[name])
        for name in ("user", "product")
    }
    found: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        user, item = (
            row[name].removesuffix(".0") if strip[name] else row[name]
            for name in ("user", "product")
        )
        if user and item:
            found.setdefault(user, []).append((row["at"], item))
    return {
        user: [item for _, item in sorted(events, key=lambda event: event[0])]
        for user, events in found.items()
    }


def sequences_of(data: Dataset) -> dict[str, list[str]]:
    """The items of each sequence of a data set."""
    tokens = [""] * RESERVED + data.vocabulary("item").tokens()
    users = data.sequence_column("token") or []
    item = data.columns["item"]
    return {
        user: [tokens[id] for id in item[start:stop]]
        for user, start, stop in zip(users, data.offsets[:-1], data.offsets[1:], strict=True)
    }


def accounts(data: Dataset, rows: int | None) -> str | None:
    """Says so if the counts of a data set do not add up, or are not of so many rows."""
    counts = data.info["counts"]
    if counts["read"] != counts["kept"] + sum(counts["dropped"].values()):
        return f"read is not kept and dropped: {counts}"
    if counts["kept"] != data.events:
        return f"{data.events} events are stored: {counts}"
    if rows is not None and counts["read"] != rows:
        return f"{rows} rows are there: {counts}"
    return None


def count_rows(path: pathlib.Path, data: bytes, format: str, quote: str) -> int | None:
    """The number of rows, counted without clickflax; None if quotes leave that open."""
    if format == "parquet":
        return pq.read_metadata(path).num_rows
    data = data.removeprefix(b"\xef\xbb\xbf")
    lines = re.split(rb"\r\n|\n|\r", data)
    if format.startswith("json"):
        return sum(bool(line.strip(b" ")) for line in lines)
    if quote != "none" and b'"' in data:
        return None
    return sum(bool(line) for line in lines) - 1
