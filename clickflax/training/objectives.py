"""Training objectives: the batches of each task, its targets and its loss."""

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
from clickflax.run.inputs import InputSchema, batch_layout
from clickflax.run.model import sizes_of
from clickflax.run.targets import TaskData
from clickflax.runtime import sharding
from clickflax.tasks.cloze import max_masked
from clickflax.tasks.losses import CATALOG_LOSSES
from clickflax.tasks.negatives import Sampling
from clickflax.tasks.sampled_losses import choose_sampled_loss, sampled_loss
from clickflax.tasks.task import Masking, TaskBatch, unk_dropout
from clickflax.training.step import Objective


def make_batches(
    config: ConfigDict, data: TaskData, columns: Mapping[str, np.ndarray]
) -> TrainingBatches:
    """The batches on which a task is trained."""
    return training_batches(
        data.reads(columns),
        data.labels,
        data.train,
        batch_layout(config),
        window=config.data.window,
        stride=config.data.stride,
        batch_size=config.train.batch_size,
        shifted=data.task.follows,
    )


def make_negative_sampling(
    config: ConfigDict, data: TaskData, column: Int[np.ndarray, " E"], may: Bool[np.ndarray, " V"]
) -> Sampling:
    """How negatives of a task are drawn, whose targets are values of the column; uniform ones only
    among those that `may` be drawn.
    """
    loss = config.loss
    cumulative = None
    if loss.drawn != "uniform":
        values = column[events_inside(data.train, len(column))] - RESERVED
        cumulative = np.cumsum(np.bincount(values[values >= 0], minlength=len(may)))
        if cumulative[-1] > np.iinfo(np.int32).max:
            raise ValueError(
                f"config.loss.drawn={loss.drawn!r} counts up to 2^31 training events, and the data "
                f"has {cumulative[-1]:,}: use 'uniform'."
            )
        cumulative = cumulative.astype(np.int32)
    drawable = None if may.all() else np.flatnonzero(may).astype(np.int32)
    return Sampling(
        loss.negatives, loss.drawn, loss.shared, loss.avoid, len(may), drawable, cumulative
    )


def bytes_of_row(config: ConfigDict, targets: int, values: int, mesh: jax.sharding.Mesh) -> int:
    """Bytes of the scores of a row with so many targets, if they are not made in chunks.

    They are those of a row's own negatives, or of a device's share of a table; else 0.
    """
    loss = config.loss
    shares = mesh.shape[sharding.MODEL]
    if not loss.negatives and shares > 1:
        return 4 * targets * -(-values // shares)
    if not loss.negatives or loss.shared:
        return 0
    return 4 * targets * min(values, loss.negatives * config.model.width)


def make_loss(
    config: ConfigDict,
    data: TaskData,
    batches: TrainingBatches,
    cold: Bool[np.ndarray, " V"],
    scores: int,
    shares: int,
) -> tuple[Callable[..., Any], Sampling | None, float]:
    """The loss of a task, how its negatives are drawn, and the biases that its head begins with.

    `cold` marks values that no training event has, `scores` is the number of predictions of a
    micro-batch, and `shares` the number of devices that share a table.
    """
    task = data.task
    if not task.ranks:
        assert task.kind.loss is not None
        options = {"positive": config.label.positive} if task.kind.has_threshold else {}
        return functools.partial(task.kind.loss, **options), None, 0.0
    if config.loss.negatives:
        column = np.asarray(batches.columns[task.head])
        sampling = make_negative_sampling(config, data, column, ~cold)
        loss, bias = choose_sampled_loss(
            config.loss.name, int((~cold).sum()), config.loss.negatives, config.loss.calibration
        )
        loss = functools.partial(sampled_loss, loss=loss, log_q=config.loss.log_q)
        return loss, sampling, bias
    chunk = sharding.chunk_items(config.train.softmax_chunk, scores, len(cold), shares)
    loss = CATALOG_LOSSES.find(config.loss.name, "config.loss.name")
    return functools.partial(loss, chunk=chunk, smoothing=config.loss.smoothing), None, 0.0


def make_objective(
    config: ConfigDict,
    data: TaskData,
    batches: TrainingBatches,
    schema: InputSchema,
    mesh: jax.sharding.Mesh,
) -> Objective:
    """The objective of a task in a training step."""
    task, mask, packing = data.task, config.mask, batches.packing
    sizes = sizes_of(schema.variables)
    most = max_masked(packing.length, packing.offsets, mask.ratio)
    targets = config.model.max_len if task.causal else most
    values = sizes.get(task.head, 0) - RESERVED  # below 0 for a label
    micro_rows = sharding.micro_rows(
        config.train.micro_rows,
        config.model.max_len,
        -(-batches.rows // sharding.groups(mesh)),
        bytes_of_row(config, targets, values, mesh),
    )
    trained = RESERVED + np.flatnonzero(~schema.cold).astype(np.int32)
    masking = Masking(
        ratio=mask.ratio,
        replace=mask.replace,
        last=mask.last,
        positions=most,
        items=sizes["item"] - RESERVED,
        conditions=tuple(name for name in config.data.given if name != task.head),
        replacements=trained if schema.cold.any() else None,
    )
    loss, sampling, first_bias = make_loss(
        config,
        data,
        batches,
        schema.cold if task.head == "item" else np.zeros(max(values, 0), bool),
        micro_rows * targets,
        mesh.shape[sharding.MODEL],
    )

    def prepare(key: Key[Array, ""], batch: Batch) -> TaskBatch:
        prepared = task.prepare(key, batch, masking)
        if not mask.unknown:
            return prepared
        unk_key = jax.random.fold_in(key, 1)
        return prepared._replace(inputs=unk_dropout(unk_key, prepared.inputs, mask.unknown))

    return Objective(
        share=of_task(config.task_weights, config.tasks, task.name),
        causal=task.causal,
        head=task.head,
        prepare=prepare,
        loss=loss,
        micro_rows=micro_rows,
        sampling=sampling,
        first_bias=first_bias,
    )
