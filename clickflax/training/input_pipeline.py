"""Input pipelines: batches made ahead by the host, or gathered on the devices from resident data.

Both give the batches of `TrainingBatches.batch(seed, step)`. If the data set and the plan of its
rows fit, they stay on the devices and many steps are one dispatch: the host sends only the order of
each epoch. Otherwise a thread of the host makes batches before they are needed.
"""

import concurrent.futures
import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from clickflax.batch import CLS, PAD, Batch, set_reserved
from clickflax.data.batches import TrainingBatches
from clickflax.data.packing import lay_out
from clickflax.run.sharded_tables import keep_placed
from clickflax.runtime import sharding
from clickflax.training.step import State, StepConstants

AHEAD = 2  # batches that the host makes before they are needed

Metrics = dict[str, Shaped[Array, " K"]]  # of each of the steps that were taken
Step = Callable[[State, dict[str, Batch], StepConstants], tuple[State, dict[str, Array]]]


class RowSource(NamedTuple):
    """Training batches of a task, filled up for the devices."""

    batches: TrainingBatches
    rows_divide_by: int  # empty rows fill up a batch to a multiple of it

    @property
    def rows(self) -> int:
        """Rows of a batch, empty ones included."""
        return -(-self.batches.rows // self.rows_divide_by) * self.rows_divide_by


class StepInputs(NamedTuple):
    """A step and its inputs; the sources have the names of the step's objectives."""

    step: Step
    sources: dict[str, RowSource]
    mesh: jax.sharding.Mesh
    constants: StepConstants
    seed: int  # of the order of the data
    parallel: str


class Resident(NamedTuple):
    """Arrays that stay on the devices: the events, and what the rows of all epochs share."""

    columns: dict[str, Shaped[Any, "E ..."]]
    labels: dict[str, Shaped[Any, " E"]]
    slot: Int[Any, "R L"]  # the slot of each column of a row; -1: padding
    position: Int[Any, "R L"]  # of an event in its window
    length: Int[Any, " W"]  # of the window of each slot
    first: Int[Any, " R"]  # slot of each row


class Epochs(NamedTuple):
    """What differs between epochs: where the window of each slot begins, and the row order."""

    start: Int[Any, "P W"]
    order: Int[Any, "P R"]


def make_resident(batches: TrainingBatches) -> Resident:
    """The resident arrays of a training, still on the host."""
    packing = batches.packing
    events = len(batches.columns["item"])
    if events > np.iinfo(np.int32).max:
        raise ValueError(
            f"{events:,} events are too many for 32-bit indices on the devices: set "
            "config.train.steps_at_once=1."
        )
    slot, position = lay_out(packing, batches.layout.max_len)
    return Resident(
        columns={name: np.asarray(values) for name, values in batches.columns.items()},
        labels={name: np.asarray(values) for name, values in batches.labels.items()},
        slot=slot,
        position=position,
        length=packing.length.astype(np.int32),
        first=packing.offsets[:-1].astype(np.int32),
    )


def resident_bytes(batches: TrainingBatches) -> int:
    """Bytes on each device of `make_resident` and of the plans of two epochs."""
    packing = batches.packing
    events = len(batches.columns["item"])
    cells = packing.rows * batches.layout.max_len
    plans = 2 * (len(packing.length) + packing.rows)
    common = 2 * cells + len(packing.length) + packing.rows
    values = sum(math.prod(column.shape[1:]) for column in batches.columns.values())
    return 4 * ((values + len(batches.labels)) * events + common + plans)


def gather_rows(
    data: Resident,
    epochs: Epochs,
    wanted: Int[Array, " B"],
    there: Bool[Array, " B"],
    *,
    position_from: str,
    cls: bool,
) -> Batch:
    """The rows number `wanted`, counted from the first of `epochs`; empty where not `there`.

    The result is that of `fill_rows`.
    """
    rows = data.first.shape[0]
    epoch = (wanted // rows)[:, None]
    row = epochs.order[epoch[:, 0], wanted % rows]
    slot = jnp.where(there[:, None], data.slot[row], -1)
    inside = slot >= 0
    position = data.position[row]
    event = epochs.start[epoch, slot] + position - int(cls)
    is_cls = (position == 0) & cls
    last = event + data.length[slot] - 1
    event = jnp.where(inside, jnp.where(is_cls, last, event), 0)

    def padded(values: Shaped[Array, "B L ..."]) -> Shaped[Array, "B L ..."]:
        return set_reserved(PAD, ~inside, values, jnp)

    def read(column: Shaped[Array, "E ..."]) -> Shaped[Array, "B L ..."]:
        return padded(set_reserved(CLS, is_cls, column[event], jnp) if cls else column[event])

    from_end = data.length[slot] - 1 - position
    return Batch(
        {name: read(column) for name, column in data.columns.items()},
        padded(slot - data.first[row][:, None] + 1),
        padded(from_end if position_from == "end" else position),
        {name: padded(column[event]) for name, column in data.labels.items()},
    )


class ResidentSteps:
    """Takes up to `at_once` steps in one dispatch, on rows that the devices gather themselves."""

    def __init__(self, inputs: StepInputs, at_once: int):
        self.inputs = inputs
        self.at_once = at_once
        mesh = inputs.mesh
        self._compiled = sharding.compile_step(self._many, mesh, inputs.parallel, keep_placed)
        data = {name: make_resident(source.batches) for name, source in inputs.sources.items()}
        self._data = sharding.replicate(data, mesh)
        groups = sharding.groups(mesh)
        here = np.arange(groups, dtype=np.int32)[sharding.process_rows(mesh, groups)]
        self._devices = sharding.split_rows(here, mesh, groups)
        self._epochs: dict[str, tuple[int, Epochs]] = {}  # by task: the first epoch, and the plans

    def __enter__(self) -> "ResidentSteps":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._epochs.clear()

    def __call__(self, state: State, first: int, count: int) -> tuple[State, Metrics]:
        """The state after `count` steps from step `first` on, and the metrics of each step."""
        epochs, rows = {}, {}
        for name, source in self.inputs.sources.items():
            batches = source.batches
            epoch, row = divmod(first * batches.rows, batches.packing.rows)
            epochs[name] = self._epochs_from(name, epoch)
            rows[name] = np.int32(row)
        shared = (self._data, epochs, rows, np.int32(count), self.inputs.constants)
        state, metrics = self._compiled(state, self._devices, shared)
        return state, {name: values[:count] for name, values in metrics.items()}

    def _epochs_from(self, name: str, epoch: int) -> Epochs:
        """The plans of all epochs that one dispatch may read, on the devices."""
        if name not in self._epochs or self._epochs[name][0] != epoch:
            batches = self.inputs.sources[name].batches
            spanned = (batches.rows * self.at_once - 2) // batches.packing.rows + 2  # at most
            plans = [batches.epoch_plan(self.inputs.seed, epoch + i) for i in range(spanned)]
            start = np.stack([windows.start for windows, _ in plans]).astype(np.int32)
            order = np.stack([order for _, order in plans]).astype(np.int32)
            placed = sharding.replicate(Epochs(start, order), self.inputs.mesh)
            self._epochs[name] = (epoch, placed)
        return self._epochs[name][1]

    def _batch(
        self, source: RowSource, data: Resident, epochs: Epochs, first: Any, device: Any
    ) -> Batch:
        """The rows of one device, where the batch begins with row `first` of the epochs."""
        batches = source.batches
        rows_each = source.rows // sharding.groups(self.inputs.mesh)
        number = device * rows_each + jnp.arange(rows_each)
        return gather_rows(
            data,
            epochs,
            first + number,
            number < batches.rows,
            position_from=batches.layout.position_from,
            cls=batches.layout.cls,
        )

    def _many(self, state: State, device: Int[Array, " 1"], shared: Any) -> tuple[State, Metrics]:
        """The program: `count` steps, on one device."""
        data, epochs, first, count, constants = shared
        sources = self.inputs.sources

        def batches_of(i: Int[Array, ""]) -> dict[str, Batch]:
            return {
                name: self._batch(
                    source,
                    data[name],
                    epochs[name],
                    first[name] + i * source.batches.rows,
                    device[0],
                )
                for name, source in sources.items()
            }

        def one(i: Int[Array, ""], carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, metrics = self.inputs.step(carry[0], batches_of(i), constants)
            return state, {name: row.at[i].set(metrics[name]) for name, row in carry[1].items()}

        example = jax.eval_shape(lambda: batches_of(jnp.int32(0)))
        _, metrics = jax.eval_shape(self.inputs.step, state, example, constants)
        nothing = {name: jnp.zeros(self.at_once, one.dtype) for name, one in metrics.items()}
        return jax.lax.fori_loop(0, count, one, (state, nothing))


class HostSteps:
    """Takes one step a dispatch, on batches that threads of the host make ahead.

    A context manager: at its end the threads are closed.
    """

    at_once = 1

    def __init__(self, inputs: StepInputs):
        self.inputs = inputs
        self._compiled = sharding.compile_step(
            inputs.step, inputs.mesh, inputs.parallel, keep_placed
        )
        self._threads = concurrent.futures.ThreadPoolExecutor(2)
        self._coming: dict[int, concurrent.futures.Future[dict[str, Batch]]] = {}

    def __enter__(self) -> "HostSteps":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._coming.clear()
        self._threads.shutdown(cancel_futures=True)

    def __call__(self, state: State, first: int, count: int) -> tuple[State, Metrics]:
        """The state after step `first`, and its metrics; `count` must be 1."""
        if count != 1:
            raise ValueError(f"{count} steps at once of batches that the host makes one by one.")
        if first not in self._coming:  # the beginning, or a jump
            self._coming.clear()
        for number in range(first, first + 1 + AHEAD):
            if number not in self._coming:
                self._coming[number] = self._threads.submit(self._make, number)
        batches = self._coming.pop(first).result()
        state, metrics = self._compiled(state, batches, self.inputs.constants)
        return state, {name: value[None] for name, value in metrics.items()}

    def _make(self, number: int) -> dict[str, Batch]:
        """The batches of a step, on the devices."""
        mesh, seed = self.inputs.mesh, self.inputs.seed
        made = {}
        for name, source in self.inputs.sources.items():
            batches = source.batches
            epoch, row = divmod(number * batches.rows, batches.packing.rows)
            if row < batches.rows:  # the first batch of an epoch: time to plan the next one
                self._threads.submit(batches.epoch_plan, seed, epoch + 1)
            own = sharding.process_rows(mesh, source.rows)
            batch = batches.batch(seed, number, source.rows_divide_by, own)
            made[name] = sharding.split_rows(batch, mesh, source.rows)
        return made


Steps = ResidentSteps | HostSteps


def make_steps(
    inputs: StepInputs, steps_at_once: int, batches: Mapping[str, TrainingBatches]
) -> Steps:
    """The input pipeline that `config.train.steps_at_once` and the size of the data call for."""
    resident = sum(resident_bytes(one) for one in batches.values())
    at_once = sharding.steps_at_once(steps_at_once, resident)
    return ResidentSteps(inputs, at_once) if at_once > 1 else HostSteps(inputs)
