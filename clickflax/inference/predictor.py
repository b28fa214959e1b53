"""How histories become rows, rows answers and answers results: evaluation and recommendation."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Asks a model about histories, a batch of them at a time."""

    model: Model
    task: Task
    mesh: jax.sharding.Mesh
    layout: BatchLayout
    batch_size: int
    micro_rows: int
    given: Any  # see `Shared`
    told: Mapping[str, Any]  # of the last place of a history

    def batches(
        self, columns: Mapping[str, Shaped[np.ndarray, "E ..."]], history: Windows, seen: bool
    ) -> Iterator[EvalBatch]:
        """All the histories, in batches of about `batch_size`."""
        query = Query(self.task.ask if self.task.ask in (MASK, SEP) else None, self.told)
        row_length = self.layout.max_len
        added = int(self.layout.cls) + query.tokens
        mean_length = np.minimum(history.stop - history.start + added, row_length).mean()
        share = mean_length / row_length if self.layout.packing else 1.0
        rows = max(1, round(self.batch_size * float(share)))
        if len(history.start) <= rows:  # few: the same shapes for about as many
            rows = 1 << (len(history.start) - 1).bit_length()
        devices = sharding.groups(self.mesh)
        group_rows = sharding.micro_rows(self.micro_rows, row_length, -(-rows // devices))
        groups = -(-rows // (group_rows * devices))
        return eval_batches(
            columns,
            history,
            self.layout,
            query,
            DeviceLayout(devices, groups, group_rows),
            seen=seen,
        )

    def trimmed(self, collections: Any) -> Any:
        """What the model is asked with."""
        return collections | {"params": trim_tables(self.model, collections["params"])}

    def compile(self, finish: Callable[..., Any]) -> Callable[..., Any]:
        """`finish(answers, seen [N, 2], chunk, *extras [A, ...])` of a batch, on all devices.

        Rows are encoded a group at a time; the answers of all of them are scored together, so
        many items at a time that memory does not depend on the catalog.
        """

        def encode(
            collections: Any, group: tuple[Batch, Array, Array, Array]
        ) -> tuple[Float[Array, "A D"], Any]:
            (variables, segment, position, _), last, row, nth = group
            hidden: Any = self.model.apply(
                collections,
                variables,
                segment,
                position,
                self.task.causal,
                False,
                last,
                method="encode",
            )
            past = self.model.past(variables, segment, self.task.causal, last, self.task.head)
            return jax.tree.map(lambda x: x[row, nth], (hidden, past))

        def answer(collections: Any, shard: tuple[EvalBatch, tuple[Array, ...]]) -> Any:
            collections, (asked, extras) = self.trimmed(collections), shard
            groups = (asked.batch, asked.last, asked.row, asked.nth)
            found = jax.lax.map(lambda group: encode(collections, group), groups)
            hidden, past = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), found)
            answers: Any = self.model.apply(
                collections, hidden, self.task.head, past, method="answer"
            )
            shares = self.mesh.shape[sharding.MODEL]
            chunk = sharding.chunk_items(0, hidden.shape[0], answers.items, shares)
            seen = asked.seen - jnp.array([[0, RESERVED]])  # pairs of an answer and an id
            return finish(answers, seen, chunk, *extras)

        return sharding.compile_groups(answer, self.mesh)

    def ask(
        self,
        params: Any,
        compiled: Callable[..., Any],
        columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
        history: Windows,
        filter_seen: bool,
        *extras: Callable[[Int[np.ndarray, "S A"]], np.ndarray],
    ) -> Iterator[tuple[Int[np.ndarray, "S A"], Any]]:
        """The examples of each batch, -1 for none, and what `compiled` finds for them.

        Each of `extras` makes an argument of `finish` of the examples. A batch is read when the
        next one has been sent: what is done with it is done while the devices work.
        """
        collections = {"params": params, "given": self.given}
        sent: list[tuple[np.ndarray, Any]] = []
        for asked in self.batches(columns, history, filter_seen):
            example = asked.example.reshape(len(asked.example), -1)
            found = compiled(collections, (asked, tuple(extra(example) for extra in extras)))
            sent.append((example, found))
            if len(sent) > 1:
                yield jax.tree.map(np.asarray, sent.pop(0))
        yield from jax.tree.map(np.asarray, sent)

    def tell(
        self,
        params: Any,
        compiled: Callable[..., Any],
        columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
        ranges: Windows,
        events: Int[np.ndarray, " N"],
    ) -> Float[np.ndarray, "N C"]:
        """The logits of a label at each of `events`, which lie in the ranges and ascend.

        A longer range is read in windows that overlap by half; of two answers for an event, that
        with more of its past counts. At CLS, the last events of a range answer for its last one.
        """
        numbers, at_cls = np.arange(len(columns["item"])), self.task.ask == CLS
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
        rows = sharding.micro_rows(
            self.micro_rows, self.layout.max_len, -(-batches.rows // devices)
        )
        collections = {"params": params, "given": self.given}
        found: np.ndarray | None = None
        past = np.full(len(numbers), -1)
        for step in range(-(-batches.packing.rows // batches.rows)):
            batch = batches.batch(0, step, devices * rows)
            groups = jax.tree.map(lambda x: x.reshape(-1, rows, *x.shape[1:]), batch)
            logits = np.asarray(compiled(collections, groups._replace(labels={})))
            logits = logits.reshape(*batch.segment.shape, -1)
            if found is None:
                found = np.full((len(numbers), logits.shape[-1]), np.nan, np.float32)
            column = np.arange(batch.segment.shape[1])
            begins = np.diff(batch.segment, axis=1, prepend=-1) != 0
            before = column - np.maximum.accumulate(np.where(begins, column, 0), axis=1)
            there = (batch.segment > 0) & ((batch.variables["item"] == CLS) == at_cls)
            better = there & (before > past[batch.labels["event"]])
            order = np.argsort(before[better], kind="stable")  # of two in this batch, too
            event = batch.labels["event"][better][order]
            found[event], past[event] = logits[better][order], before[better][order]
        assert found is not None
        return found[events]

    def compile_labels(self) -> Callable[..., Any]:
        """The logits at every event of groups of rows [G, M, L], on all devices."""

        def answer(collections: Any, rows: Batch) -> Float[Array, "M L C"]:
            collections = self.trimmed(collections)
            hidden: Any = self.model.apply(
                collections,
                rows.variables,
                rows.segment,
                rows.position,
                self.task.causal,
                False,
                method="encode",
            )
            found: Any = self.model.apply(collections, hidden, self.task.head, method="answer")
            return found

        return sharding.compile_groups(answer, self.mesh)


def make_predictor(
    config: ConfigDict,
    model: Model,
    task: Task,
    mesh: jax.sharding.Mesh,
    given: Any,
    told: Mapping[str, Any],
) -> Predictor:
    """The asker that a config describes."""
    return Predictor(
        model=model,
        task=task,
        mesh=mesh,
        layout=batch_layout(config),
        batch_size=config.eval.batch_size,
        micro_rows=config.train.micro_rows,
        given=sharding.replicate(given, mesh),
        told=told,
    )
