"""Small models, small data, small configs for the tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from clickflax.batch import RESERVED
from clickflax.config import default
from clickflax.data.batches import BatchLayout, Windows, fill_rows, shift_left
from clickflax.evaluation.evaluator import make_evaluator
from clickflax.inference.predictor import make_predictor
from clickflax.run.model import build_model
from clickflax.run.targets import TaskData
from clickflax.runtime import sharding
from clickflax.tasks.find import find_task
from clickflax.tasks.task import LabelSettings
from clickflax.training.step import init_params

ITEMS = 12


def small_config(**model):
    """Two blocks of width 8, without dropout, for sequences of up to 8 events."""
    c = default()
    c.model.update(
        {"width": 8, "heads": 2, "feed_forward": 16, "max_len": 8, "init_stddev": 0.3}
        | {"dropout": 0.0, "attention_dropout": 0.0}
        | model
    )
    return c


@functools.cache
def small_model(**changed):
    """The model of `small_config`, with parameters."""
    model = build_model(small_config(**changed).model, {"item": ITEMS + RESERVED})
    params = init_params(model, jax.random.key(0), rows([[1, 2, 3]]))
    return model, params


def layout(max_len=8, **changed):
    """Packed rows of `max_len` tokens, with positions from the end and without CLS."""
    options = {"packing": True, "position_from": "end", "cls": False}
    return BatchLayout(max_len, **(options | changed))


def rows(sequences, row=None, length=8, shifted=False, **changed):
    """A batch of these sequences of items, counted from 0, each in a row of its own or in `row`."""
    row = np.arange(len(sequences)) if row is None else np.array(row)
    bounds = np.concatenate([[0], np.cumsum([len(s) for s in sequences])])
    columns = {"item": (np.concatenate(sequences) + RESERVED).astype(np.int32)}
    windows = Windows(bounds[:-1], bounds[1:])
    labels = {"next_item": shift_left(columns["item"])} if shifted else {}
    batch = fill_rows(
        columns,
        windows,
        row,
        int(row.max()) + 1,
        layout(length, **changed),
        labels=labels,
        shifted=shifted,
    )
    return jax.tree.map(jnp.asarray, batch)


def encode(model, params, batch, causal=False):
    """Hidden states without dropout."""
    return model.apply(
        {"params": params},
        batch.variables,
        batch.segment,
        batch.position,
        causal,
        False,
        method="encode",
    )


def make_task(name, causal=True, at="event", kind="binary", classes=2):
    """The task of a name, with these settings of `config.label`."""
    return find_task(name, LabelSettings(causal, at, kind, classes))


def evaluate(config, model, task, params, columns, examples):
    """The evaluation of these examples by a task of a model."""
    mesh = sharding.make_mesh()
    predictor = make_predictor(config, model, task, mesh, {}, {})
    nothing = Windows(np.zeros(0, int), np.zeros(0, int))
    data = TaskData(task, nothing, examples, examples, {}, frozenset(), {}, {})
    evaluator = make_evaluator(predictor, data, columns, config)
    return evaluator.evaluate(sharding.replicate(params, mesh), "test")
