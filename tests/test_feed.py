"""The batches that devices pick are those that the host makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clickflax.data.batches import Windows, epoch_plan, training_batches
from clickflax.events import RESERVED
from clickflax.feed import Epochs, pick, resident, resident_bytes


def batches_of(lengths, **changed):
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    chance = np.random.default_rng(0)
    columns = {
        "item": chance.integers(RESERVED, 30, bounds[-1]).astype(np.int32),
        "action": chance.integers(RESERVED, 9, bounds[-1]).astype(np.int32),
    }
    options = {
        "max_len": 8,
        "window": "last",
        "stride": 3,
        "packing": True,
        "batch_size": 5,
        "position_from": "end",
        "follow": False,
    }
    return training_batches(columns, Windows(bounds[:-1], bounds[1:]), **(options | changed))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"follow": True},
        {"position_from": "start"},
        {"packing": False, "follow": True},
        {"window": "sliding"},
        {"window": "random", "follow": True},
    ],
)
def test_the_rows_that_devices_pick_are_those_of_the_host_in_every_epoch(changed):
    batches = batches_of([3, 12, 5, 8, 2, 9, 4, 4, 6, 2, 7], **changed)
    plans = [epoch_plan(batches, 7, epoch) for epoch in range(4)]
    epochs = Epochs(
        np.stack([windows.start for windows, _ in plans]), np.stack([order for _, order in plans])
    )
    data, epochs = jax.tree.map(lambda x: jnp.asarray(x, jnp.int32), (resident(batches), epochs))
    steps = 3 * batches.packing.rows // batches.rows
    assert steps * batches.rows % batches.packing.rows or steps > 3  # some batch spans two epochs
    for step in range(steps):
        place = jnp.arange(batches.rows + 2)
        picked = pick(
            data,
            epochs,
            step * batches.rows + place,
            place < batches.rows,
            position_from=batches.position_from,
            follow=batches.follow,
        )
        made = batches.batch(7, step, batches.rows + 2)
        jax.tree.map(np.testing.assert_array_equal, picked, made)


def test_the_bytes_of_what_stays_on_the_devices_are_counted():
    batches = batches_of([3, 12, 5, 8])
    plan = Epochs(*(np.zeros((2, n), np.int32) for n in (4, batches.packing.rows)))
    there = sum(x.nbytes for x in jax.tree.leaves((resident(batches), plan)))
    assert there - 3 * 4 * batches.packing.rows <= resident_bytes(batches) <= there + 4 * 4
