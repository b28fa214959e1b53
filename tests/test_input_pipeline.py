"""The batches that devices pick are those that the host makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import layout

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows, shift_left, training_batches
from clickflax.runtime import sharding
from clickflax.training.input_pipeline import (
    Epochs,
    HostSteps,
    RowSource,
    StepInputs,
    gather_rows,
    make_resident,
    resident_bytes,
)
from clickflax.training.step import State


def batches_of(lengths, **changed):
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    chance = np.random.default_rng(0)
    columns = {
        "item": chance.integers(RESERVED, 30, bounds[-1]).astype(np.int32),
        "price": chance.random(bounds[-1]).astype(np.float32),
        "tags": chance.integers(RESERVED, 30, (bounds[-1], 3)).astype(np.int32),
    }
    options = {"window": "last", "stride": 3, "batch_size": 7, "shifted": False}
    rows = layout(**{name: changed.pop(name) for name in list(changed) if name not in options})
    labels = {"next_item": shift_left(columns["item"]), "price": columns["price"][::-1]}
    ranges = Windows(bounds[:-1], bounds[1:])
    return training_batches(columns, labels, ranges, rows, **options | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"shifted": True},
        {"position_from": "start"},
        {"packing": False, "shifted": True},
        {"window": "sliding", "batch_size": 4},
        {"window": "random", "shifted": True},
        {"cls": True},
        {"cls": True, "shifted": True, "window": "random"},
    ],
)
def test_the_rows_that_devices_pick_are_those_of_the_host_in_every_epoch(changed):
    batches = batches_of([3, 12, 5, 8, 2, 9, 4, 4, 6, 2, 7], **changed)
    plans = [batches.epoch_plan(7, epoch) for epoch in range(4)]
    epochs = Epochs(
        np.stack([windows.start for windows, _ in plans]), np.stack([order for _, order in plans])
    )
    epochs = jax.tree.map(lambda x: x.astype(np.int32), epochs)
    data, epochs = jax.tree.map(jnp.asarray, (make_resident(batches), epochs))
    rows = batches.packing.rows
    steps = 3 * rows // batches.rows
    ends = [(step * batches.rows, (step + 1) * batches.rows - 1) for step in range(steps)]
    assert any(first // rows != last // rows for first, last in ends)  # a batch of two epochs
    for step in range(steps):
        place = jnp.arange(batches.rows + 2)
        picked = gather_rows(
            data,
            epochs,
            step * batches.rows + place,
            place < batches.rows,
            position_from=batches.layout.position_from,
            cls=batches.layout.cls,
        )
        made = batches.batch(7, step, batches.rows + 2)
        jax.tree.map(np.testing.assert_array_equal, picked, made)


def test_the_bytes_of_what_stays_on_the_devices_are_counted():
    batches = batches_of([3, 12, 5, 8])
    plan = Epochs(*(np.zeros((2, n), np.int32) for n in (4, batches.packing.rows)))
    there = sum(x.nbytes for x in jax.tree.leaves((make_resident(batches), plan)))
    assert resident_bytes(batches) == there


def test_the_host_makes_batches_ahead_and_finds_the_place_after_a_jump():
    batches = batches_of([3, 12, 5, 8, 2, 9, 4, 4, 6, 2, 7])
    mesh = sharding.make_mesh(devices=jax.devices()[:1])

    def told(items):
        """A number that tells these items, in this order, from others."""
        return (items * jnp.arange(1, items.size + 1).reshape(items.shape)).sum()

    def step(state, batches, shared):
        return state, {name: told(batch.variables["item"]) for name, batch in batches.items()}

    other = batches_of([2, 2, 6, 3], batch_size=2)
    sources = {"one": RowSource(batches, 1), "two": RowSource(other, 1)}
    advance = HostSteps(StepInputs(step, sources, mesh, (), 7, "jit"))
    state = State(jnp.zeros((), int), {}, ())
    for number in (0, 1, 2, 9, 10, 3):
        state, found = advance(state, number, 1)
        for name, (made, _) in sources.items():
            assert int(found[name][0]) == int(told(made.batch(7, number).variables["item"]))
    with pytest.raises(ValueError, match="2 steps at once"):
        advance(state, 4, 2)
