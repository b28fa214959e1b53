"""How batches reach the devices: made by the host, or picked on the devices from resident data.

Both give the same batches, `TrainingBatches.batch(seed, step)`. Where the data set and the plan of
its rows fit, they stay on the devices and many steps are one dispatch: the host sends nothing but
the order of each epoch. Otherwise a thread of the host makes batches ahead of their use.
"""

import concurrent.futures
import functools
import math
from collections.abc import Callable
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

AHEAD = 2  # batches that the host makes before they are asked for

Metrics = dict[str, Shaped[Array, " K"]]  # of each of the steps that were taken
Step = Callable[[State, dict[str, Batch], StepConstants], tuple[State, dict[str, Array]]]
Advance = Callable[[State, int, int], tuple[State, Metrics]]  # from a step on, so many steps


class RowSource(NamedTuple):
    """Where the rows of an objective come from."""

    batches: TrainingBatches
    rows_divide_by: int  # a multiple of the devices: empty rows fill up a batch

    @property
    def rows(self) -> int:
        """Rows of a batch, empty ones included."""
        return -(-self.batches.rows // self.rows_divide_by) * self.rows_divide_by


class StepInputs(NamedTuple):
    """A step, and what it is taken on: the same names as the objectives of the step."""

    step: Step
    sources: dict[str, RowSource]
    mesh: jax.sharding.Mesh
    shared: StepConstants
    seed: int  # of the order of the data
    parallel: str


class Resident(NamedTuple):
    """What stays on the devices: the events, and what every epoch's rows have in common."""

    columns: dict[str, Shaped[Any, "E ..."]]
    labels: dict[str, Shaped[Any, " E"]]
    slot: Int[Any, "R L"]  # the slot of each place of a row; -1: nothing
    place: Int[Any, "R L"]  # of an event in its sequence
    length: Int[Any, " W"]  # of the window of each slot
    first: Int[Any, " R"]  # slot of each row


class Epochs(NamedTuple):
    """What the coming epochs differ in: where the window of each slot begins, and the row order."""

    start: Int[Any, "P W"]
    order: Int[Any, "P R"]


def make_resident(batches: TrainingBatches) -> Resident:
    """The arrays of a training, still on the host."""
    packing, events = batches.packing, len(batches.columns["item"])
    if events > np.iinfo(np.int32).max:
        raise ValueError(
            f"{events:,} events are too many for the devices to count: set train.steps_at_once=1."
        )
    slot, place = lay_out(packing, batches.layout.max_len)
    columns, labels = (
        {name: np.asarray(values) for name, values in some.items()}
        for some in (batches.columns, batches.labels)
    )
    return Resident(
        columns,
        labels,
        slot,
        place,
        packing.length.astype(np.int32),
        packing.offsets[:-1].astype(np.int32),
    )


def resident_bytes(batches: TrainingBatches) -> int:
    """What `make_resident` takes on each device, and the plans of two epochs."""
    packing, events = batches.packing, len(batches.columns["item"])
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
    opens: bool,
) -> Batch:
    """The rows number `wanted`, counted from the first of `epochs`; empty where not `there`. See
    `fill`.
    """
    rows = data.first.shape[0]
    epoch = (wanted // rows)[:, None]
    row = epochs.order[epoch[:, 0], wanted % rows]
    slot = jnp.where(there[:, None], data.slot[row], -1)
    inside = slot >= 0
    place = data.place[row]
    source = epochs.start[epoch, slot] + place - int(opens)
    opening = (place == 0) & opens
    last = source + data.length[slot] - 1
    source = jnp.where(inside, jnp.where(opening, last, source), 0)

    def spread(values: Shaped[Array, "B L ..."]) -> Shaped[Array, "B L ..."]:
        return set_reserved(PAD, ~inside, values, jnp)

    def read(column: Shaped[Array, "E ..."]) -> Shaped[Array, "B L ..."]:
        return spread(set_reserved(CLS, opening, column[source], jnp) if opens else column[source])

    position = data.length[slot] - 1 - place if position_from == "end" else place
    return Batch(
        {name: read(column) for name, column in data.columns.items()},
        spread(slot - data.first[row][:, None] + 1),
        spread(position),
        {name: spread(column[source]) for name, column in data.labels.items()},
    )


def resident_steps(feed: StepInputs, at_once: int) -> Advance:
    """Up to `at_once` steps in one dispatch, on rows that the devices pick themselves."""
    mesh, sources = feed.mesh, feed.sources

    def many(state: State, device: Int[Array, " 1"], shared: Any) -> tuple[State, Metrics]:
        data, epochs, first, count, constant = shared

        def batch_of(name: str, i: Int[Array, ""]) -> Batch:
            batches, rows_each = sources[name].batches, sources[name].rows // sharding.groups(mesh)
            place = device[0] * rows_each + jnp.arange(rows_each)
            wanted = first[name] + i * batches.rows + place
            there = place < batches.rows
            return gather_rows(
                data[name],
                epochs[name],
                wanted,
                there,
                position_from=batches.layout.position_from,
                opens=batches.layout.cls,
            )

        def one(i: Int[Array, ""], carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            taken = {name: batch_of(name, i) for name in sources}
            state, found = feed.step(carry[0], taken, constant)
            return state, {name: values.at[i].set(found[name]) for name, values in carry[1].items()}

        taken = jax.eval_shape(lambda: {name: batch_of(name, jnp.int32(0)) for name in sources})
        _, found = jax.eval_shape(feed.step, state, taken, constant)
        nothing = {name: jnp.zeros(at_once, value.dtype) for name, value in found.items()}
        return jax.lax.fori_loop(0, count, one, (state, nothing))

    compiled = sharding.compile_step(many, mesh, feed.parallel, keep_placed)
    data = {name: make_resident(source.batches) for name, source in sources.items()}
    data = sharding.replicate(data, mesh)
    groups = sharding.groups(mesh)
    here = np.arange(groups, dtype=np.int32)[sharding.own_rows(mesh, groups)]
    devices = sharding.split_rows(here, mesh, groups)

    @functools.lru_cache(maxsize=len(sources))
    def epochs_from(name: str, epoch: int) -> Epochs:
        batches = sources[name].batches
        spanned = (batches.rows * at_once - 2) // batches.packing.rows + 2  # at most
        plans = [batches.epoch_plan(feed.seed, epoch + i) for i in range(spanned)]
        start = np.stack([windows.start for windows, _ in plans]).astype(np.int32)
        order = np.stack([order for _, order in plans]).astype(np.int32)
        return sharding.replicate(Epochs(start, order), mesh)

    def advance(state: State, first: int, count: int) -> tuple[State, Metrics]:
        epochs, rows = {}, {}
        for name, (batches, _) in sources.items():
            epoch, row = divmod(first * batches.rows, batches.packing.rows)
            epochs[name], rows[name] = epochs_from(name, epoch), np.int32(row)
        state, metrics = compiled(
            state, devices, (data, epochs, rows, np.int32(count), feed.shared)
        )
        return state, {name: values[:count] for name, values in metrics.items()}

    return advance


def host_steps(feed: StepInputs) -> Advance:
    """One step a dispatch, on batches that a thread of the host has made ahead."""
    compiled = sharding.compile_step(feed.step, feed.mesh, feed.parallel, keep_placed)
    threads = concurrent.futures.ThreadPoolExecutor(2)
    coming: dict[int, concurrent.futures.Future[dict[str, Batch]]] = {}

    def make(number: int) -> dict[str, Batch]:
        made = {}
        for name, (batches, rows_divide_by) in feed.sources.items():
            epoch, row = divmod(number * batches.rows, batches.packing.rows)
            if row < batches.rows:  # the first batch of an epoch: time to plan the next one
                threads.submit(batches.epoch_plan, feed.seed, epoch + 1)
            rows = feed.sources[name].rows
            own = sharding.own_rows(feed.mesh, rows)
            batch = batches.batch(feed.seed, number, rows_divide_by, own)
            made[name] = sharding.split_rows(batch, feed.mesh, rows)
        return made

    def advance(state: State, first: int, count: int) -> tuple[State, Metrics]:
        if count != 1:
            raise ValueError(f"{count} steps at once of batches that the host makes one by one.")
        if first not in coming:  # the beginning, or a jump
            coming.clear()
        for number in range(first, first + 1 + AHEAD):
            if number not in coming:
                coming[number] = threads.submit(make, number)
        state, metrics = compiled(state, coming.pop(first).result(), feed.shared)
        return state, {name: value[None] for name, value in metrics.items()}

    return advance
