"""The mesh, where things live on it, and one step for all of its devices."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clickflax.runtime import processes

DATA = "data"  # the axis over which the rows of a batch are split
MODEL = "model"  # the axis over which the rows of large tables are split

# On CPU a gradient is taken of so many tokens at a time, so that their attention matrices stay in
# the second-level cache: `experiments/speed.py ... config.train.micro_rows=N` measures another N.
CPU_TOKENS = 800

# The most bytes of scores that are made whole, and of a chunk of them where they are not: memory
# on an accelerator; on CPU what stays in the second-level cache pays for computing scores twice.
WHOLE_SCORES = {"cpu": 2**24, "accelerator": 2**30}
CHUNK_SCORES = {"cpu": 2**20, "accelerator": 2**28}


# Where a step takes a millisecond or two, the host would not keep up with it; on CPU a dispatch
# costs little beside a step.
ACCELERATOR_STEPS = 50
RESIDENT_BYTES = 2**31  # of a data set that stays on an accelerator, at most


def cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_devices(cpu_devices: int) -> None:
    """Splits the CPU into devices, one a core for 0: before anything has been computed."""
    wanted = cpu_devices or cores()
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:  # too late to choose
        here = jax.local_device_count()
        if cpu_devices and jax.default_backend() == "cpu" and here != cpu_devices:
            raise ValueError(
                f"train.cpu_devices={cpu_devices}, but JAX has started with {here}. "
                "Set it before the first computation of the process, or leave it at 0."
            ) from None


def make_mesh(model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices, or these: so many share each table, and as many as there are such groups share
    the rows of a batch.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % model:
        raise ValueError(
            f"train.model_devices={model} does not divide the {len(devices)} devices that are here."
        )
    # Those of a process stand beside each other, and so do the rows that it reads.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(ordered).reshape(-1, model)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def groups(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return mesh.shape[DATA]


def by_hand(mesh: Mesh) -> set[str]:
    """The axes over which our own code says what each device does. How a table is shared is left to
    the compiler, which then knows what to fetch for an item; where it is not shared, nothing is.
    """
    return {DATA} if mesh.shape[MODEL] > 1 else {DATA, MODEL}


def micro_rows(wanted: int, row_length: int, rows: int, row_bytes: int = 0) -> int:
    """Rows that a device works on at once, of the `rows` that it has; 0 leaves it to the backend.

    An accelerator takes all, or as many as it holds the scores of, `row_bytes` each. The CPU takes
    what stays in its cache, and rather a few less than to add many empty rows. Results do not
    depend on it, but for the order of sums.
    """
    if wanted or jax.default_backend() != "cpu":
        fit = max(1, WHOLE_SCORES["accelerator"] // max(row_bytes, 1))
        return min(wanted or fit, rows)
    most = min(rows, max(1, CPU_TOKENS // row_length))
    return min(range(most, most // 2, -1), key=lambda size: -(-rows // size) * size)


def steps_at_once(wanted: int, resident_bytes: int) -> int:
    """Steps of one dispatch; 0 leaves it to the backend, and to the memory that the data takes."""
    if wanted:
        return wanted
    if jax.default_backend() == "cpu" or resident_bytes > RESIDENT_BYTES:
        return 1
    return ACCELERATOR_STEPS


def chunk_items(wanted: int, targets: int, items: int, shares: int = 1) -> int:
    """Items whose float32 scores for `targets` are held at once; 0 leaves it to their size. Where
    devices share the table, each has the scores of its own items.
    """
    if shares > 1:
        return items
    backend = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    if wanted or 4 * targets * items <= WHOLE_SCORES[backend]:
        return min(wanted or items, items)
    return max(1, CHUNK_SCORES[backend] // (4 * targets))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same arrays on every device."""
    return jax.tree.map(lambda x: processes.put_everywhere(x, NamedSharding(mesh, P())), tree)


def own_rows(mesh: Mesh, rows: int) -> slice:
    """The rows of a batch that the devices of this process have."""
    there = NamedSharding(mesh, P(DATA)).addressable_devices_indices_map((rows,))
    ends = [index[0].indices(rows)[:2] for index in there.values() if index]
    return slice(min(start for start, _ in ends), max(stop for _, stop in ends))


def split_rows(tree: Any, mesh: Mesh, rows: int) -> Any:
    """Arrays whose first axis is split over the devices; of `rows` in all, those that this process
    has (`own_rows`).
    """
    sharding = NamedSharding(mesh, P(DATA))

    def put(x: Any) -> Any:
        return jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:]))

    return jax.tree.map(put, tree) if processes.several() else jax.device_put(tree, sharding)


def summed(tree: Any) -> Any:
    """In a step: the sum over all groups."""
    # XLA refuses a sum over a group alone, beside an axis that is left to it.
    return tree if jax.lax.axis_size(DATA) == 1 else jax.lax.psum(tree, DATA)


def gathered(tree: Any) -> Any:
    """In a step: what each group has, one after the other."""
    alone = jax.lax.axis_size(DATA) == 1
    return jax.tree.map(lambda x: x[None], tree) if alone else jax.lax.all_gather(tree, DATA)


def compile_step(
    step: Callable[..., Any], mesh: Mesh, parallel: str, keep: Callable[[Any, Mesh], Any]
) -> Callable[..., Any]:
    """`step(state, rows, shared)` of one device, made to run on all: each has its own rows, and
    what comes of the state is placed by `keep`.

    The step sums over the axis DATA itself.
    """
    if parallel == "jit":
        mapped = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(P(), P(DATA), P()),
            out_specs=P(),
            axis_names=by_hand(mesh),
            check_vma=False,
        )

        def placed(state: Any, rows: Any, shared: Any) -> Any:
            state, found = mapped(state, rows, shared)
            return keep(state, mesh), found

        return jax.jit(placed, donate_argnums=0)
    if parallel == "pmap":
        mapped = jax.pmap(
            step, DATA, in_axes=(None, 0, None), out_axes=None, devices=list(mesh.devices.flat)
        )

        def run(state: Any, rows: Any, shared: Any) -> Any:
            shape = (groups(mesh), -1)
            rows = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), rows)
            return mapped(state, rows, shared)

        return run
    raise ValueError(f"train.parallel={parallel!r} is not one of ['jit', 'pmap'].")


def find_top_k(mesh: Mesh) -> Callable[[Any, int], Any]:
    """In a compiled function: `jax.lax.top_k` of the lines of a matrix whose columns devices share.

    Each finds the highest of its own, of which the highest are found: no device needs to know the
    columns of another one, which the compiler would otherwise have sent to all.
    """
    shares = mesh.shape[MODEL]
    if shares == 1:
        return jax.lax.top_k

    def top_k(scores: Any, k: int) -> Any:
        size = -(-scores.shape[1] // shares)
        fill = ((0, 0), (0, size * shares - scores.shape[1]))
        scores = jnp.pad(scores, fill, constant_values=-jnp.inf)

        def own(part: Any) -> Any:
            score, column = jax.lax.top_k(part, min(k, size))
            return score, column + size * jax.lax.axis_index(MODEL)

        lines = P(None, MODEL)
        score, column = jax.shard_map(
            own, in_specs=lines, out_specs=lines, axis_names={MODEL}, check_vma=False
        )(scores)
        score, place = jax.lax.top_k(score, k)
        return score, jnp.take_along_axis(column, place, axis=1)

    return top_k


def compile_groups(answer: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`answer(params, group)` of every group, one after the other, shared out over the devices."""

    def on_one(params: Any, groups: Any) -> Any:
        return jax.lax.map(lambda group: answer(params, group), groups)

    mapped = jax.shard_map(
        on_one,
        mesh=mesh,
        in_specs=(P(), P(DATA)),
        out_specs=P(DATA),
        axis_names=by_hand(mesh),
        check_vma=False,
    )
    # Every process wants to know what is found, not only what its own devices have found.
    everywhere = NamedSharding(mesh, P()) if processes.several() else None
    return jax.jit(mapped, out_shardings=everywhere)
