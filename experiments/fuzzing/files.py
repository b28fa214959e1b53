"""Small files of a data set and a run, damaged: they are refused, or what is read is sound.

The data set and the run are made once per process. A file is damaged as bytes, or as JSON that
parses and has another shape; half of the runs have no checksums, like those of version 0.1.0, so
that the values themselves are looked at.
"""

import functools
import json
import pathlib
import random
import tempfile
from collections.abc import Callable
from typing import Any

import clickflax
from clickflax.config.default import default
from clickflax.data.check import open_checked
from clickflax.data.splits.labels import LabelOptions, labels_from_file
from clickflax.data.store import open_dataset
from clickflax.evaluation.record import read_record, read_rows
from clickflax.evaluation.request import EvalRequest
from clickflax.inference.recommend import read_users
from clickflax.run.folder import read_config, variables_of, vocabularies_of
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from experiments.fuzzing.mutate import TEXTS, mutate_bytes, mutate_json

DATA_FILES = (
    *("dataset.json", "dataset.json", "dataset.json", "offsets.npy", "events/item.npy"),
    *("events/time.npy", "vocab/item.parquet", "vocab/sequence.parquet", "vocab/action.parquet"),
)
RUN_FILES = (
    *("config.json", "config.json", "variables.json", "variables.json", "environment.json"),
    *("checksums.json", "vocab/item.parquet", "vocab/action.parquet"),
)
LABELS = ["user-1,1,0,1.0", "user-2,0,1,0.5", "user-3,1,,2"]


@functools.cache
def template() -> pathlib.Path:
    """A folder with a data set, a run of two steps, and its records."""
    folder = pathlib.Path(tempfile.mkdtemp())
    simulate(folder / "data", Shop(sequences=30, items=12, mean_length=6.0))
    config = default()
    config.tasks = ("next_item",)
    config.data.path = str(folder / "data")
    config.data.variables = ("item", "action", "gap", "item.price")
    config.model.update({"width": 8, "feed_forward": 8, "layers": 1, "heads": 1, "max_len": 8})
    config.train.update({"steps": 2, "eval_every": 2, "log_every": 1, "batch_size": 4})
    clickflax.train(config, folder / "run")
    clickflax.evaluate(folder / "run", request=EvalRequest(lists=True))
    return folder


def damaged_data_set(chance: random.Random, folder: pathlib.Path) -> str | None:
    """A data set of which one file is damaged: refused, or its fingerprint is that of before."""
    data = template() / "data"
    before = open_dataset(data).fingerprint

    def use() -> str | None:
        dataset = open_checked(data)
        dataset.vocabulary("item").names()
        return None if dataset.fingerprint == before else "damage was not noticed"

    return _damaged(data / chance.choice(DATA_FILES), chance, use)


def damaged_run(chance: random.Random, folder: pathlib.Path) -> str | None:
    """A run of which one file is damaged, with its checksums or without."""
    run = template() / "run"
    sums = run / "checksums.json"
    kept = sums.read_bytes()
    try:
        name = chance.choice(RUN_FILES)
        with_sums = chance.random() < 0.5
        if not with_sums and name != "checksums.json":
            sums.unlink()
        before = (run / name).read_bytes() if (run / name).exists() else b""

        def use() -> str | None:
            read_config(run)
            variables_of(run)
            for vocabulary in vocabularies_of(run).values():
                vocabulary.names()
            changed = (run / name).exists() and (run / name).read_bytes() != before
            guarded = with_sums and name not in ("environment.json", "checksums.json")
            return "damage was not noticed" if changed and guarded else None

        return _damaged(run / name, chance, use)
    finally:
        sums.write_bytes(kept)


def damaged_record(chance: random.Random, folder: pathlib.Path) -> str | None:
    """The record or the lists of an evaluation, damaged."""
    run = template() / "run"
    if chance.random() < 0.7:
        path = run / "test.json"
        return _damaged(path, chance, lambda: _ignore(read_record(path)))
    path = run / "test.next_item.lists.parquet"
    needed = ("example", "rank", "item")
    return _damaged(path, chance, lambda: _ignore(read_rows(path, needed)))


def damaged_labels(chance: random.Random, folder: pathlib.Path) -> str | None:
    """A file of labels with other values, or with damaged bytes."""
    lines = ["sequence,label,event,weight", *chance.sample(LABELS, chance.randint(1, 3))]
    fields = [line.split(",") for line in lines]
    row = chance.choice(fields)
    row[chance.randrange(4)] = chance.choice((*TEXTS, "yes", "true", "1,5", "1.7", "-1", "1e400"))
    text = "\n".join(",".join(row) for row in fields) + "\n"
    path = folder / "labels.csv"
    data = text.encode()
    path.write_bytes(mutate_bytes(data, chance) if chance.random() < 0.5 else data)
    options = LabelOptions("buy", "return", 0, str(path))
    labels_from_file(open_dataset(template() / "data"), options)
    return None


def damaged_users(chance: random.Random, folder: pathlib.Path) -> str | None:
    """A file of users, damaged."""
    path = folder / "users.txt"
    path.write_bytes(mutate_bytes(b"user-1\nuser-2\n" * chance.randint(0, 3), chance))
    read_users(str(path))
    return None


def _damaged(
    path: pathlib.Path, chance: random.Random, use: Callable[[], str | None]
) -> str | None:
    """Damages a file, uses it, and puts the old one back."""
    before = path.read_bytes()
    try:
        path.write_bytes(_damage(before, path.suffix, chance))
        return use()
    finally:
        path.write_bytes(before)


def _damage(data: bytes, suffix: str, chance: random.Random) -> bytes:
    """Other bytes or, of JSON, more often another value in one place."""
    if suffix == ".json" and chance.random() < 0.8:
        return json.dumps(mutate_json(json.loads(data), chance)).encode()
    return mutate_bytes(data, chance)


def _ignore(_value: Any) -> None:
    """Drops a value that was read without an error."""


FILE_KINDS: dict[str, tuple[Callable[[random.Random, pathlib.Path], str | None], int]] = {
    "damaged_data_set": (damaged_data_set, 20),
    "damaged_run": (damaged_run, 40),
    "damaged_record": (damaged_record, 40),
    "damaged_labels": (damaged_labels, 30),
    "damaged_users": (damaged_users, 40),
}
