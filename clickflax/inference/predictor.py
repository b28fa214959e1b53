"""Batched inference: pack histories, run the model on all devices, return results per example."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from ml_collections import ConfigDict

from clickflax.batch import CLS, MASK, RESERVED, SEP, Batch
from clickflax.data.batches import BatchLayout, Query, Windows, training_batches
from clickflax.data.eval_batches import DeviceLayout, EvalBatch, eval_batches
from clickflax.model.model import Model
from clickflax.run.inputs import batch_layout
from clickflax.run.sharded_tables import trim_tables
from clickflax.runtime import sharding
from clickflax.tasks.task import Task


class Predictor(NamedTuple):
    """Predictions of one task of a model for histories, a batch of them at a time."""

    model: Model
    task: Task
    mesh: jax.sharding.Mesh
    layout: BatchLayout
    query: Query  # what is appended to a history, and its conditions
    batch_size: int  # histories, about
    micro_rows: int  # see `config.train.micro_rows`
    constants: Any  # fixed arrays of the model

    def batches(
        self, columns: Mapping[str, Shaped[np.ndarray, "E ..."]], history: Windows, seen: bool
    ) -> Iterator[EvalBatch]:
        """All histories in batches of about `batch_size`; `seen` items come along if asked for."""
        row_length = self.layout.max_len
        added = int(self.layout.cls) + self.query.tokens
        mean_length = np.minimum(history.stop - history.start + added, row_length).mean()
        share = mean_length / row_length if self.layout.packing else 1.0
        rows = max(1, round(self.batch_size * float(share)))
        if len(history.start) <= rows:  # a few: the same shapes, and program, for about as many
            rows = 1 << (len(history.start) - 1).bit_length()
        devices = sharding.groups(self.mesh)
        group_rows = sharding.micro_rows(self.micro_rows, row_length, -(-rows // devices))
        groups = -(-rows // (group_rows * devices))
        device_layout = DeviceLayout(devices, groups, group_rows)
        return eval_batches(columns, history, self.layout, self.query, device_layout, seen=seen)

    def compile(self, finish: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles `finish(answers, seen [N, 2], chunk, *extras [A, ...])` of a batch.

        Rows are encoded a group at a time, on all devices; their answers are scored together, so
        many items at a time that memory does not depend on the catalog.
        """

        def encode(
            collections: Any, group: tuple[Batch, Array, Array, Array]
        ) -> tuple[Float[Array, "A D"], Any]:
            batch, last, row, nth = group
            hidden = self._encode(collections, batch, last)
            history = self.model.past(
                batch.variables, batch.segment, self.task.causal, last, self.task.head
            )
            return jax.tree.map(lambda x: x[row, nth], (hidden, history))

        def answer(collections: Any, shard: tuple[EvalBatch, tuple[Array, ...]]) -> Any:
            collections = self._trimmed(collections)
            batch, extras = shard
            groups = (batch.batch, batch.last, batch.row, batch.nth)
            encoded = jax.lax.map(lambda group: encode(collections, group), groups)
            hidden, history = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), encoded)
            answers: Any = self.model.apply(
                collections, hidden, self.task.head, history, method="answer"
            )
            shares = self.mesh.shape[sharding.MODEL]
            chunk = sharding.chunk_items(0, hidden.shape[0], answers.items, shares)
            seen = batch.seen - jnp.array([[0, RESERVED]])  # pairs of an answer and an id
            return finish(answers, seen, chunk, *extras)

        return sharding.compile_groups(answer, self.mesh)

    def predict(
        self,
        params: Any,
        compiled: Callable[..., Any],
        columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
        history: Windows,
        filter_seen: bool,
        *extras: Callable[[Int[np.ndarray, "S A"]], np.ndarray],
    ) -> Iterator[tuple[Int[np.ndarray, "S A"], Any]]:
        """Yields the examples of each batch, -1 for none, and what `compiled` gives for them.

        Each of `extras` makes an argument of `finish` from the examples. A batch is read after the
        next one is sent, so that the host works while the devices do.
        """
        collections = {"params": params, "constants": self.constants}
        sent: list[tuple[np.ndarray, Any]] = []
        for batch in self.batches(columns, history, filter_seen):
            example = batch.example.reshape(len(batch.example), -1)
            result = compiled(collections, (batch, tuple(extra(example) for extra in extras)))
            sent.append((example, result))
            if len(sent) > 1:
                yield jax.tree.map(np.asarray, sent.pop(0))
        yield from jax.tree.map(np.asarray, sent)

    def compile_labels(self) -> Callable[..., Any]:
        """Compiles the logits at every event of groups of rows [G, M, L], on all devices."""

        def answer(collections: Any, batch: Batch) -> Float[Array, "M L C"]:
            collections = self._trimmed(collections)
            hidden = self._encode(collections, batch, None)
            logits: Any = self.model.apply(collections, hidden, self.task.head, method="answer")
            return logits

        return sharding.compile_groups(answer, self.mesh)

    def predict_labels(
        self,
        params: Any,
        compiled: Callable[..., Any],
        columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
        ranges: Windows,
        events: Int[np.ndarray, " N"],
    ) -> Float[np.ndarray, "N C"]:
        """The logits of a label at each of `events`, which lie in the ranges and ascend.

        A range longer than a row is read in windows that overlap by half; of several logits of an
        event, those with most of its past count. At CLS, the last window of a range answers for its
        last event.
        """
        at_cls = self.task.query == CLS
        numbers = np.arange(len(columns["item"]))
        batches = training_batches(
            columns,
            {"event": numbers},
            ranges,
            self.layout,
            window="last" if at_cls else "sliding",
            stride=max(1, self.layout.max_len // 2),
            batch_size=self.batch_size,
            shifted=False,
        )
        devices = sharding.groups(self.mesh)
        per_device = -(-batches.rows // devices)
        rows = sharding.micro_rows(self.micro_rows, self.layout.max_len, per_device)
        collections = {"params": params, "constants": self.constants}
        merged = _LabelLogits(len(numbers), at_cls)
        for step in range(-(-batches.packing.rows // batches.rows)):
            batch = batches.batch(0, step, devices * rows)
            groups = jax.tree.map(lambda x: x.reshape(-1, rows, *x.shape[1:]), batch)
            logits = np.asarray(compiled(collections, groups._replace(labels={})))
            merged.add(batch, logits.reshape(*batch.segment.shape, -1))
        return merged.logits[events]

    def _encode(self, collections: Any, batch: Batch, positions: Any) -> Any:
        """Hidden states at some positions of each row; None: at all."""
        return self.model.apply(
            collections,
            batch.variables,
            batch.segment,
            batch.position,
            self.task.causal,
            False,
            positions,
            method="encode",
        )

    def _trimmed(self, collections: Any) -> Any:
        """The collections without the padding rows of tables that devices share."""
        return collections | {"params": trim_tables(self.model, collections["params"])}


class _LabelLogits:
    """Logits of the events of a log, merged from windows that overlap."""

    def __init__(self, events: int, at_cls: bool):
        self.at_cls = at_cls
        self.logits = np.zeros((events, 0), np.float32)
        self.past = np.full(events, -1)  # events before this one in the window that answered

    def add(self, batch: Batch, logits: Float[np.ndarray, "B L C"]) -> None:
        """Takes the logits of a batch where they know more of the past than those before."""
        if not self.logits.shape[1]:
            self.logits = np.full((len(self.past), logits.shape[-1]), np.nan, np.float32)
        column = np.arange(batch.segment.shape[1])
        begins = np.diff(batch.segment, axis=1, prepend=-1) != 0
        past = column - np.maximum.accumulate(np.where(begins, column, 0), axis=1)
        answers = (batch.segment > 0) & ((batch.variables["item"] == CLS) == self.at_cls)
        better = answers & (past > self.past[batch.labels["event"]])
        order = np.argsort(past[better], kind="stable")  # one batch may have an event twice
        event = batch.labels["event"][better][order]
        self.logits[event] = logits[better][order]
        self.past[event] = past[better][order]


def make_predictor(
    config: ConfigDict,
    model: Model,
    task: Task,
    mesh: jax.sharding.Mesh,
    constants: Any,
    conditions: Mapping[str, Any],
) -> Predictor:
    """The predictor of a config; `conditions` are the values of columns at the query."""
    token = task.query if task.query in (MASK, SEP) else None
    return Predictor(
        model=model,
        task=task,
        mesh=mesh,
        layout=batch_layout(config),
        query=Query(token, conditions),
        batch_size=config.eval.batch_size,
        micro_rows=config.train.micro_rows,
        constants=sharding.replicate(constants, mesh),
    )
