"""A task with a numeric label in one file: how many events a sequence will still have.

import my_task  # in a config file, with c.tasks = ("remaining",) and c.train.monitor = "mae"
"""

import numpy as np

from clickflax.data.batches import Windows
from clickflax.data.splits.labels import LabelledEvents, LabelOptions
from clickflax.data.store import Dataset
from clickflax.tasks.labels import label_task
from clickflax.tasks.task import TASKS, LabelSettings, Task


def count_remaining(dataset: Dataset, options: LabelOptions) -> LabelledEvents:
    """The number of later events, at every event; known at the end of the sequence."""
    start, stop = dataset.offsets[:-1], dataset.offsets[1:]
    last = np.repeat(stop - 1, stop - start)
    remaining = (last - np.arange(dataset.events)).astype(np.float64)
    return LabelledEvents(Windows(start, stop), remaining, last, {}, {})


@TASKS.register("remaining")
def remaining_task(name: str, settings: LabelSettings) -> Task:
    """Predicts the number of later events from the events so far."""
    return label_task(name, settings, "number", count_remaining)
