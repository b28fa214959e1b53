"""Tasks with labels: purchase, returns, and labels of a file."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key

from clickflax.batch import CLS, Batch
from clickflax.data.splits.labels import LABEL_SOURCES, LabelledEvents
from clickflax.tasks.kinds import LABEL_KINDS
from clickflax.tasks.task import TASKS, LabelSettings, Masking, Task, TaskBatch, target_weights


def label_task(
    name: str,
    settings: LabelSettings,
    kind: str,
    labels: Callable[..., LabelledEvents],
    **more: Any,
) -> Task:
    """A task that predicts a label of a `kind` of LABEL_KINDS; `more` are fields of `Task`."""
    at_cls = settings.at == "cls"
    several = kind == "classes"
    return Task(
        name=name,
        kind=LABEL_KINDS.find(kind, "config.label.kind"),
        head=name,
        causal=settings.causal,
        query=CLS if at_cls else None,
        prepare=functools.partial(label_targets, name, at_cls),
        outputs=settings.classes if several else 1,
        labels=labels,
        **more,
    )


@TASKS.register("purchase")
def purchase_task(name: str, settings: LabelSettings) -> Task:
    """Predicts if the session ends in a purchase."""
    return label_task(
        name,
        settings,
        "binary",
        LABEL_SOURCES["purchase"],
        label_knobs=("buy", "after"),
        # Asked once a sequence, all events up to the label are the past.
        may_look_ahead=lambda after, sessions: bool(after) and not sessions,
    )


@TASKS.register("returns")
def returns_task(name: str, settings: LabelSettings) -> Task:
    """Predicts if a purchase will be returned."""
    labels = LABEL_SOURCES["returns"]
    return label_task(name, settings, "binary", labels, label_knobs=("buy", "back"))


@TASKS.register("label")
def file_label_task(name: str, settings: LabelSettings) -> Task:
    """Predicts a label of a file, of sequences or of events; its kind is `config.label.kind`."""
    return label_task(
        name,
        settings,
        settings.kind,
        LABEL_SOURCES["label"],
        label_knobs=("path", "kind", "classes"),
        may_look_ahead=lambda after, sessions: True,
    )


def label_targets(
    name: str, at_cls: bool, key: Key[Array, ""], batch: Batch, masking: Masking
) -> TaskBatch:
    """Targets are the labels of the events that have one, at the event or at CLS."""
    labels = batch.labels[name]
    here = (batch.variables["item"] == CLS) == at_cls
    wanted = (batch.segment > 0) & ~jnp.isnan(labels) & here
    targets = jnp.where(wanted, labels, 0.0)
    return TaskBatch(batch.variables, None, targets, target_weights(wanted, batch))
