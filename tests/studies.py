"""Toy studies, and folders as their finished runs leave them."""

import os
import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clickflax.config.default import to_dict
from clickflax.runtime.files import write_json
from clickflax.study import Study
from clickflax.study.plan import cell_folder, cells_of, write_plan
from clickflax.tasks.label_metrics import binary_metrics
from clickflax.tasks.ranking_metrics import mean_metrics, ranking_metrics

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
SMALL = ("train.steps=2", "train.eval_every=2", "train.batch_size=16", "model.width=8")
SMALL += ("model.heads=1", "model.max_len=8", "train.log_every=1", "train.cpu_devices=1")
FILE = CONFIGS / "sasrec_ml100k.py"
PURCHASE = ("tasks=('purchase',)", "data.variables=('item', 'action')", "train.monitor=auc")
PURCHASE += ("data.position_from=start",)


def study_of(path="data", **changed):
    """Two configs of different width on a data set, with two seeds."""
    fields = {
        "question": "Do wide models know more?",
        "configs": {"narrow": (FILE, *SMALL), "wide one": (FILE, *SMALL, "model.width=16")},
        "data": {"shop": (f"data.path={path}",)},
        "seeds": (0, 1),
    }
    return Study(**{**fields, **changed})


def planned(out, **changed):
    """The cells of a toy study, whose plan is in the folder `out`."""
    study = study_of(**changed)
    cells = cells_of(study)
    write_plan(out, study, cells)
    return cells


def write_ranks(out, cell, ranks, seconds=10.0):
    """Writes the folder of a finished cell, whose targets have these ranks."""
    owner = np.arange(len(ranks))
    metrics = mean_metrics(ranking_metrics(np.array(ranks, np.float64), owner, len(ranks), (10,)))
    rows = {"example": owner, "sequence": owner, "rank": np.array(ranks, np.float32)}
    write_finished(out, cell, "next_item", {**rows, "target": owner + 7}, metrics, seconds)


def write_predictions(out, cell, prediction, label):
    """Writes the folder of a finished cell with these probabilities; two labels a sequence."""
    event = np.arange(len(label))
    rows = {"sequence": event // 2, "event": event, "label": label, "prediction": prediction}
    write_finished(out, cell, "purchase", rows, binary_metrics(prediction, label, 0.5), 1.0)


def write_finished(out, cell, task, rows, metrics, seconds):
    """Writes the folder of a finished cell: config, record, and rows of a task."""
    folder = cell_folder(out, cell)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"tasks": [task], "train": {"steps": 4}})
    pq.write_table(pa.table(rows), folder / f"test.{task}.parquet")
    environment = {"commit": "abc", "started": "now"}
    more = {"data": "data", "fingerprint": "0" * 64}
    more |= {"train_seconds": seconds, "environment": environment, "config": to_dict(cell.load())}
    write_json(folder / "test.json", {**metrics, **more})
    write_json(folder / "answered.json", {"test": {}})


def finished(out, **changed):
    """The cells of a finished toy study; the wide config ranks targets higher by up to three."""
    cells = planned(out, **changed)
    ranks = np.random.default_rng(0).integers(0, 20, 200)
    for cell in cells:
        wide = cell.config == "wide one"
        write_ranks(out, cell, np.maximum(0, ranks - 3 * wide) + cell.seed)
    return cells


def finished_labels(out):
    """The cells of a finished toy study of purchases; the wide config is less noisy."""
    data = {"shop": ("data.path=data", *PURCHASE)}
    cells = planned(out, data=data, metrics=("auc", "log_loss", "f1"))
    chance = np.random.default_rng(0)
    label = (chance.random(400) < 0.4).astype(np.float64)
    for cell in cells:
        noise = chance.normal(size=400) / (2 if cell.config == "wide one" else 1)
        write_predictions(out, cell, 1 / (1 + np.exp(-(2 * label - 1 + noise))), label)
    return cells


# A study file for commands in other processes.
STUDY = """
from clickflax.study import Study
SMALL = {small!r}
def get_study():
    return Study(
        question="Do wide models know more?",
        configs={{"narrow": ({file!r}, *SMALL), "wide": ({file!r}, *SMALL, "model.width=16")}},
        data={{"shop": ("data.path={path}",)}},
        seeds={seeds},
        evaluations={{"test": {{"lists": True}}}},
    )
"""


def write_study_file(folder, seeds=(0,), small=SMALL):
    """Writes study.py for the data set `folder / "data"`."""
    path = folder / "study.py"
    text = STUDY.format(small=small, file=str(FILE), path=folder / "data", seeds=seeds)
    path.write_text(text)
    return path


def study_command(*words):
    """The command `clickflax study` as a list."""
    return [sys.executable, "-m", "clickflax.cli", "study", *map(str, words)]


def command_environment():
    """The environment of commands: their programs are compiled once for all tests."""
    return {**os.environ, "JAX_ENABLE_X64": "0"}
