"""What each task of a run is in training: its rows, what is hidden in them, and its loss."""

import functools
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Key
from ml_collections import ConfigDict

from clickflax.config import of_task
from clickflax.data.batches import TrainingBatches, training_batches
from clickflax.data.split import inside
from clickflax.events import RESERVED, Batch
from clickflax.questions import Asked
from clickflax.runtime import sharding
from clickflax.step import Objective
from clickflax.tasks.losses import LABEL_LOSSES, softmax_loss
from clickflax.tasks.negatives import Sampling
from clickflax.tasks.sampled import LOSSES, Loss, bce, gbce_beta, sampled_loss
from clickflax.tasks.tasks import LABELS, NEXT, Hiding, Question, forget, most_hidden


def make_batches(
    config: ConfigDict, asked: Asked, columns: Mapping[str, np.ndarray]
) -> TrainingBatches:
    """The rows that a task is trained on."""
    return training_batches(
        asked.reads(columns),
        asked.labels,
        asked.train,
        max_len=config.model.max_len,
        window=config.data.window,
        stride=config.data.stride,
        packing=config.data.packing,
        batch_size=config.train.batch_size,
        position_from=config.data.position_from,
        # Where targets follow, the last event of a window is nothing but one.
        follow=any(name.startswith(NEXT) for name in asked.labels),
        opens=config.data.cls,
    )


def make_sampling(
    config: ConfigDict,
    asked: Asked,
    column: Int[np.ndarray, " E"],
    items: int,
    others: Int[np.ndarray, " W"] | None,
) -> Sampling:
    """How the negatives of a task are drawn, whose head answers with values of the column."""
    loss, upto = config.loss, None
    if loss.drawn == "popularity":
        values = column[inside(asked.train, len(column))] - RESERVED
        upto = np.cumsum(np.bincount(values[values >= 0], minlength=items)).astype(np.int32)
    return Sampling(loss.negatives, loss.drawn, loss.shared, loss.avoid, items, others, upto)


def sampled_one(loss: ConfigDict, items: int) -> Loss:
    """The loss beside negatives that `config.loss` names."""
    if loss.name == "gbce":
        return functools.partial(bce, beta=gbce_beta(items, loss.negatives, loss.calibration))
    return LOSSES[loss.name]


def make_objective(
    config: ConfigDict,
    name: str,
    asked: Asked,
    batches: TrainingBatches,
    sizes: Mapping[str, int],
    cold: Bool[np.ndarray, " V"],
    devices: int,
) -> Objective:
    """What a task is in a step."""
    task, mask, rows = asked.task, config.mask, -(-batches.rows // devices)
    micro_rows = sharding.micro_rows(config.train.micro_rows, config.model.max_len, rows)
    packing = batches.packing
    places = most_hidden(packing.length, packing.offsets, mask.ratio)
    given = tuple(one for one in config.data.given if one != task.head)
    others = RESERVED + np.flatnonzero(~cold).astype(np.int32) if cold.any() else None
    hiding = Hiding(
        mask.ratio, mask.replace, mask.last, places, sizes["item"] - RESERVED, given, others
    )
    sampling = None
    if name in LABELS:
        kind = config.label.kind if name == "label" else "binary"
        loss = LABEL_LOSSES[kind]
        if kind == "binary":
            loss = functools.partial(loss, positive=config.label.positive)
    else:
        items, known = sizes[task.head] - RESERVED, None
        if config.loss.negatives:
            if task.head == "item" and others is not None:
                known = others - RESERVED
            column = np.asarray(batches.columns[task.head])
            sampling = make_sampling(config, asked, column, items, known)
            loss = functools.partial(
                sampled_loss, loss=sampled_one(config.loss, items), log_q=config.loss.log_q
            )
        else:
            targets = micro_rows * (config.model.max_len if task.causal else places)
            chunk = sharding.chunk_items(config.train.softmax_chunk, targets, items)
            smoothing = config.loss.smoothing
            loss = functools.partial(softmax_loss, chunk=chunk, smoothing=smoothing)

    def prepare(key: Key[Array, ""], batch: Batch) -> Question:
        question = task.prepare(key, batch, hiding)
        if not mask.unknown:
            return question
        forget_key = jax.random.fold_in(key, 1)
        return question._replace(inputs=forget(forget_key, question.inputs, mask.unknown))

    return Objective(
        share=of_task(config.task_weights, config.tasks, name),
        causal=task.causal,
        head=task.head,
        prepare=prepare,
        loss=loss,
        micro_rows=micro_rows,
        sampling=sampling,
    )
