"""What each task of a run is in training: its rows, what is hidden in them, and its loss."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Key
from ml_collections import ConfigDict

from clickflax.batch import RESERVED, Batch
from clickflax.config.default import of_task
from clickflax.data.batches import TrainingBatches, training_batches
from clickflax.data.splits.common import events_inside
from clickflax.run.inputs import batch_layout
from clickflax.run.targets import TaskData
from clickflax.runtime import sharding
from clickflax.tasks.losses import CATALOG_LOSSES, LABEL_LOSSES
from clickflax.tasks.negatives import Sampling
from clickflax.tasks.sampled_losses import SAMPLED_LOSSES, first_bias, gbce_beta, sampled_loss
from clickflax.tasks.task import LABELS, NEXT, Masking, TaskBatch, max_masked, unk_dropout
from clickflax.training.step import Objective


def make_batches(
    config: ConfigDict, asked: TaskData, columns: Mapping[str, np.ndarray]
) -> TrainingBatches:
    """The rows that a task is trained on."""
    return training_batches(
        asked.reads(columns),
        asked.labels,
        asked.train,
        batch_layout(config),
        window=config.data.window,
        stride=config.data.stride,
        batch_size=config.train.batch_size,
        shifted=any(name.startswith(NEXT) for name in asked.labels),
    )


def make_negative_sampling(
    config: ConfigDict, asked: TaskData, column: Int[np.ndarray, " E"], may: Bool[np.ndarray, " V"]
) -> Sampling:
    """How the negatives of a task are drawn, whose head answers with values of the column; of
    uniform ones, only those that `may` be.
    """
    loss, upto = config.loss, None
    if loss.drawn != "uniform":
        values = column[events_inside(asked.train, len(column))] - RESERVED
        upto = np.cumsum(np.bincount(values[values >= 0], minlength=len(may)))
        if upto[-1] > np.iinfo(np.int32).max:
            raise ValueError(
                f"config.loss.drawn={loss.drawn!r} counts up to 2^31 training events, and there are"
                f" {upto[-1]:,}: take 'uniform'."
            )
        upto = upto.astype(np.int32)
    drawable = None if may.all() else np.flatnonzero(may).astype(np.int32)
    return Sampling(loss.negatives, loss.drawn, loss.shared, loss.avoid, len(may), drawable, upto)


def choose_sampled_loss(loss: ConfigDict, values: int) -> tuple[Callable[..., Any], float]:
    """The loss that `config.loss` names, where so many values may be negatives, and the bias that
    they begin with.
    """
    one, beta, begin = SAMPLED_LOSSES[loss.name], 1.0, 0.0
    if loss.name == "gbce":
        beta = gbce_beta(values, loss.negatives, loss.calibration)
        one = functools.partial(one, beta=beta)
    if loss.name in ("bce", "gbce"):
        begin = first_bias(beta, loss.negatives)
    return functools.partial(sampled_loss, loss=one, log_q=loss.log_q), begin


def bytes_of_row(config: ConfigDict, targets: int, values: int, mesh: jax.sharding.Mesh) -> int:
    """What the scores of a row take that has so many targets: of negatives of its own, or of the
    items that a device has of a table that it shares; 0 where they are made in chunks.
    """
    loss, shares = config.loss, mesh.shape[sharding.MODEL]
    if not loss.negatives and shares > 1:
        return 4 * targets * -(-values // shares)
    if not loss.negatives or loss.shared:
        return 0
    return 4 * targets * min(values, loss.negatives * config.model.width)


def make_objective(
    config: ConfigDict,
    name: str,
    asked: TaskData,
    batches: TrainingBatches,
    sizes: Mapping[str, int],
    cold: Bool[np.ndarray, " V"],
    mesh: jax.sharding.Mesh,
) -> Objective:
    """What a task is in a step."""
    task, mask, packing = asked.task, config.mask, batches.packing
    most = max_masked(packing.length, packing.offsets, mask.ratio)
    targets = config.model.max_len if task.causal else most
    values = sizes.get(task.head, 0) - RESERVED  # below 0: of a label
    micro_rows = sharding.micro_rows(
        config.train.micro_rows,
        config.model.max_len,
        -(-batches.rows // sharding.groups(mesh)),
        bytes_of_row(config, targets, values, mesh),
    )
    given = tuple(one for one in config.data.given if one != task.head)
    others = RESERVED + np.flatnonzero(~cold).astype(np.int32) if cold.any() else None
    hiding = Masking(
        mask.ratio, mask.replace, mask.last, most, sizes["item"] - RESERVED, given, others
    )
    sampling, begin = None, 0.0
    if name in LABELS:
        kind = config.label.kind if name == "label" else "binary"
        loss = LABEL_LOSSES[kind]
        if kind == "binary":
            loss = functools.partial(loss, positive=config.label.positive)
    elif config.loss.negatives:
        may = ~cold if task.head == "item" else np.ones(values, bool)
        sampling = make_negative_sampling(
            config, asked, np.asarray(batches.columns[task.head]), may
        )
        loss, begin = choose_sampled_loss(config.loss, int(may.sum()))
    else:
        chunk = sharding.chunk_items(
            config.train.softmax_chunk, micro_rows * targets, values, mesh.shape[sharding.MODEL]
        )
        loss = functools.partial(
            CATALOG_LOSSES[config.loss.name], chunk=chunk, smoothing=config.loss.smoothing
        )

    def prepare(key: Key[Array, ""], batch: Batch) -> TaskBatch:
        question = task.prepare(key, batch, hiding)
        if not mask.unknown:
            return question
        forget_key = jax.random.fold_in(key, 1)
        return question._replace(inputs=unk_dropout(forget_key, question.inputs, mask.unknown))

    return Objective(
        share=of_task(config.task_weights, config.tasks, name),
        causal=task.causal,
        head=task.head,
        prepare=prepare,
        loss=loss,
        micro_rows=micro_rows,
        sampling=sampling,
        first_bias=begin,
    )
