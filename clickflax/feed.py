"""How batches reach the devices: made by the host, or picked on the devices from resident data.

Both give the same batches, `TrainingBatches.batch(seed, step)`. Where the data set and the plan of
its rows fit, they stay on the devices and many steps are one dispatch: the host sends nothing but
the order of each epoch. Otherwise a thread of the host makes batches ahead of their use.
"""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, Shaped

from clickflax.data.batches import TrainingBatches, epoch_plan, lay_out
from clickflax.events import PAD, Batch
from clickflax.runtime import sharding
from clickflax.step import State

AHEAD = 2  # batches that the host makes before they are asked for

Metrics = dict[str, Shaped[Array, " K"]]  # of each of the steps that were taken
Step = Callable[[State, Batch, Key[Array, ""]], tuple[State, dict[str, Array]]]
Advance = Callable[[State, int, int], tuple[State, Metrics]]  # from a step on, so many steps


class Feed(NamedTuple):
    """A step, and what it is taken on."""

    step: Step
    batches: TrainingBatches
    mesh: jax.sharding.Mesh
    key: Key[Array, ""]  # of masks and dropout
    seed: int  # of the order of the data
    parallel: str
    rows_divide_by: int  # a multiple of the devices: empty rows fill up a batch


class Resident(NamedTuple):
    """What stays on the devices: the events, and what every epoch's rows have in common."""

    columns: dict[str, Int[Any, " E"]]
    slot: Int[Any, "R L"]  # the slot of each place of a row; -1: nothing
    place: Int[Any, "R L"]  # of an event in its sequence
    length: Int[Any, " W"]  # of the window of each slot
    first: Int[Any, " R"]  # slot of each row


class Epochs(NamedTuple):
    """What the coming epochs differ in: where the window of each slot begins, and the row order."""

    start: Int[Any, "P W"]
    order: Int[Any, "P R"]


def resident(batches: TrainingBatches) -> Resident:
    """The arrays of a training, still on the host."""
    packing, events = batches.packing, len(batches.columns["item"])
    if events > np.iinfo(np.int32).max:
        raise ValueError(
            f"{events:,} events are too many for the devices to count: set train.steps_at_once=1."
        )
    slot, place = lay_out(packing, batches.row_length)
    columns = {name: np.asarray(column, np.int32) for name, column in batches.columns.items()}
    return Resident(
        columns,
        slot,
        place,
        packing.length.astype(np.int32),
        packing.offsets[:-1].astype(np.int32),
    )


def resident_bytes(batches: TrainingBatches) -> int:
    """What `resident` takes on each device, and the plans of two epochs."""
    packing, events = batches.packing, len(batches.columns["item"])
    cells = packing.rows * batches.row_length
    plans = 2 * (len(packing.length) + packing.rows)
    common = 2 * cells + len(packing.length) + packing.rows
    return 4 * (len(batches.columns) * events + common + plans)


def pick(
    data: Resident,
    epochs: Epochs,
    wanted: Int[Array, " B"],
    there: Bool[Array, " B"],
    *,
    position_from: str,
    follow: bool,
) -> Batch:
    """The rows number `wanted`, counted from the first of `epochs`; empty where not `there`."""
    rows = data.first.shape[0]
    epoch = (wanted // rows)[:, None]
    row = epochs.order[epoch[:, 0], wanted % rows]
    slot = jnp.where(there[:, None], data.slot[row], -1)
    inside = slot >= 0
    place = data.place[row]
    source = jnp.where(inside, epochs.start[epoch, slot] + place, 0)

    def spread(values: Int[Array, "B L"], empty: int = 0) -> Int[Array, "B L"]:
        return jnp.where(inside, values, empty)

    position = data.length[slot] - 1 - place if position_from == "end" else place
    return Batch(
        {name: spread(column[source], PAD) for name, column in data.columns.items()},
        spread(slot - data.first[row][:, None] + 1),
        spread(position),
        {"next_item": spread(data.columns["item"][source + 1], PAD)} if follow else {},
    )


def many_at_once(feed: Feed, at_once: int) -> Advance:
    """Up to `at_once` steps in one dispatch, on rows that the devices pick themselves."""
    batches, mesh = feed.batches, feed.mesh
    rows, epoch_rows = batches.rows, batches.packing.rows
    rows_each = -(-rows // feed.rows_divide_by) * feed.rows_divide_by // mesh.size
    spanned = (rows * at_once - 2) // epoch_rows + 2  # epochs of one dispatch, at most

    def many(state: State, device: Int[Array, " 1"], shared: Any) -> tuple[State, Metrics]:
        data, epochs, first, count, key = shared
        place = device[0] * rows_each + jnp.arange(rows_each)

        def batch_of(i: Int[Array, ""]) -> Batch:
            wanted = first + i * rows + place
            return pick(
                data,
                epochs,
                wanted,
                place < rows,
                position_from=batches.position_from,
                follow=batches.follow,
            )

        def one(i: Int[Array, ""], carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, found = feed.step(carry[0], batch_of(i), key)
            return state, {name: values.at[i].set(found[name]) for name, values in carry[1].items()}

        _, found = jax.eval_shape(lambda: feed.step(state, batch_of(jnp.int32(0)), key))
        nothing = {name: jnp.zeros(at_once, value.dtype) for name, value in found.items()}
        return jax.lax.fori_loop(0, count, one, (state, nothing))

    compiled = sharding.compile_step(many, mesh, feed.parallel)
    data = sharding.replicate(resident(batches), mesh)
    devices = sharding.split_rows(np.arange(mesh.size, dtype=np.int32), mesh)

    @functools.lru_cache(maxsize=1)
    def epochs_from(epoch: int) -> Epochs:
        plans = [epoch_plan(batches, feed.seed, epoch + i) for i in range(spanned)]
        start = np.stack([windows.start for windows, _ in plans]).astype(np.int32)
        order = np.stack([order for _, order in plans]).astype(np.int32)
        return sharding.replicate(Epochs(start, order), mesh)

    def advance(state: State, first: int, count: int) -> tuple[State, Metrics]:
        epoch, row = divmod(first * rows, epoch_rows)
        shared = (data, epochs_from(epoch), np.int32(row), np.int32(count), feed.key)
        state, metrics = compiled(state, devices, shared)
        return state, {name: values[:count] for name, values in metrics.items()}

    return advance


def one_by_one(feed: Feed) -> Advance:
    """One step a dispatch, on a batch that a thread of the host has made ahead."""
    batches = feed.batches
    compiled = sharding.compile_step(feed.step, feed.mesh, feed.parallel)
    threads = concurrent.futures.ThreadPoolExecutor(2)
    coming: dict[int, concurrent.futures.Future[Batch]] = {}

    def make(number: int) -> Batch:
        epoch, row = divmod(number * batches.rows, batches.packing.rows)
        if row < batches.rows:  # the first batch of an epoch: time to plan the next one
            threads.submit(epoch_plan, batches, feed.seed, epoch + 1)
        batch = batches.batch(feed.seed, number, feed.rows_divide_by)
        return sharding.split_rows(batch, feed.mesh)

    def advance(state: State, first: int, count: int) -> tuple[State, Metrics]:
        if count != 1:
            raise ValueError(f"{count} steps at once of batches that the host makes one by one.")
        if first not in coming:  # the beginning, or a jump
            coming.clear()
        for number in range(first, first + 1 + AHEAD):
            if number not in coming:
                coming[number] = threads.submit(make, number)
        state, metrics = compiled(state, coming.pop(first).result(), feed.key)
        return state, {name: value[None] for name, value in metrics.items()}

    return advance
