"""The mesh of devices, placement of arrays on it, and functions compiled for all devices."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clickflax.runtime import processes

DATA = "data"  # mesh axis of the rows of a batch
MODEL = "model"  # mesh axis of the rows of large tables

# Tokens of one gradient on CPU, so that their attention matrices stay in the second-level cache:
# `experiments/speed.py ... config.train.micro_rows=N` measures other sizes.
CPU_TOKENS = 800

# Maximal bytes of scores that are computed at once, and bytes of a chunk of larger ones. On an
# accelerator the limit is memory; on CPU, scores that stay in the second-level cache save more time
# than computing them twice costs.
WHOLE_SCORES = {"cpu": 2**24, "accelerator": 2**30}
CHUNK_SCORES = {"cpu": 2**20, "accelerator": 2**28}

# Steps of one dispatch on an accelerator, where a step takes a millisecond or two and the host
# would not keep up. On CPU, a dispatch costs little compared with a step.
ACCELERATOR_STEPS = 50
RESIDENT_BYTES = 2**31  # maximal size of a data set that is kept on an accelerator


def cores() -> int:
    """The number of cores that this process may use; in a container, maybe not all."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_bytes() -> int | None:
    """Bytes of memory that a device has, or of this machine on CPU; None if it does not say."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if jax.default_backend() == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def use_devices(cpu_devices: int) -> None:
    """Splits the CPU into devices, 0 for one per core; call it before the first computation."""
    try:
        jax.config.update("jax_num_cpu_devices", cpu_devices or cores())
    except RuntimeError:  # JAX has started already
        current = jax.local_device_count()
        if cpu_devices and jax.default_backend() == "cpu" and current != cpu_devices:
            raise ValueError(
                f"config.train.cpu_devices={cpu_devices}, but JAX has started with {current}. "
                "Set it before the first computation of the process, or leave it at 0."
            ) from None


def make_mesh(model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of all devices, or of these.

    Tables are sharded over `model` devices, and the rows of a batch over the groups of that many.
    Raises ValueError if `model` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % model:
        raise ValueError(
            f"config.train.model_devices={model} does not divide the {len(devices)} devices of "
            "this run."
        )
    # The devices of a process are adjacent, and so are the rows that it reads.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(ordered).reshape(-1, model)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def groups(mesh: Mesh) -> int:
    """The number of groups of devices over which the rows of a batch are split."""
    return mesh.shape[DATA]


def manual_axes(mesh: Mesh) -> set[str]:
    """The mesh axes that `shard_map` handles; the compiler handles the rest.

    It distributes sharded tables over the axis MODEL, as it knows which rows an item needs.
    """
    return {DATA} if mesh.shape[MODEL] > 1 else {DATA, MODEL}


def micro_rows(wanted: int, row_length: int, rows: int, row_bytes: int = 0) -> int:
    """Rows of one gradient, of the `rows` of a device; `wanted=0` chooses by the backend.

    An accelerator takes all rows, or as many as it can hold scores of, `row_bytes` each. The CPU
    takes what fits in its cache, or slightly fewer to have fewer empty rows. The number changes
    results only by the order of sums.
    """
    if wanted or jax.default_backend() != "cpu":
        fit = max(1, WHOLE_SCORES["accelerator"] // max(row_bytes, 1))
        return min(wanted or fit, rows)
    most = min(rows, max(1, CPU_TOKENS // row_length))
    return min(range(most, most // 2, -1), key=lambda size: -(-rows // size) * size)


def steps_at_once(wanted: int, resident_bytes: int) -> int:
    """Steps of one dispatch; `wanted=0` chooses by the backend and the size of the data."""
    if wanted:
        return wanted
    if jax.default_backend() == "cpu" or resident_bytes > RESIDENT_BYTES:
        return 1
    return ACCELERATOR_STEPS


def chunk_items(wanted: int, targets: int, items: int, shares: int = 1) -> int:
    """Items whose float32 scores for `targets` are in memory at once; `wanted=0` chooses by size.

    All of them if the table is sharded, as each device has only the scores of its own items.
    """
    if shares > 1:
        return items
    backend = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    if wanted or 4 * targets * items <= WHOLE_SCORES[backend]:
        return min(wanted or items, items)
    return max(1, CHUNK_SCORES[backend] // (4 * targets))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts the same arrays on every device."""
    return jax.tree.map(lambda x: processes.put_everywhere(x, NamedSharding(mesh, P())), tree)


def process_rows(mesh: Mesh, rows: int) -> slice:
    """The rows of a batch that are on the devices of this process."""
    slices = NamedSharding(mesh, P(DATA)).addressable_devices_indices_map((rows,))
    ends = [index[0].indices(rows)[:2] for index in slices.values() if index]
    return slice(min(start for start, _ in ends), max(stop for _, stop in ends))


def split_rows(tree: Any, mesh: Mesh, rows: int) -> Any:
    """Splits arrays by their first axis over the devices.

    With several processes, the arrays have the rows of this one (`process_rows`), and `rows` is the
    total number.
    """
    sharding = NamedSharding(mesh, P(DATA))

    def put(x: Any) -> Any:
        return jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:]))

    return jax.tree.map(put, tree) if processes.several() else jax.device_put(tree, sharding)


def sum_groups(tree: Any) -> Any:
    """In a step: the sum over all groups of devices."""
    # XLA refuses a sum over an axis of size 1 if the compiler handles another axis.
    return tree if jax.lax.axis_size(DATA) == 1 else jax.lax.psum(tree, DATA)


def gather_groups(tree: Any) -> Any:
    """In a step: the values of all groups of devices, stacked."""
    alone = jax.lax.axis_size(DATA) == 1
    return jax.tree.map(lambda x: x[None], tree) if alone else jax.lax.all_gather(tree, DATA)


def compile_step(
    step: Callable[..., Any], mesh: Mesh, parallel: str, keep: Callable[[Any, Mesh], Any]
) -> Callable[..., Any]:
    """Compiles `step(state, rows, shared)` of one device for all devices.

    Each device has its own rows, and the step itself sums over the axis DATA. `keep(state, mesh)`
    constrains the placement of the new state. Raises ValueError for an unknown `parallel`.
    """
    if parallel == "jit":
        mapped = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(P(), P(DATA), P()),
            out_specs=P(),
            axis_names=manual_axes(mesh),
            check_vma=False,
        )

        def placed(state: Any, rows: Any, shared: Any) -> Any:
            state, metrics = mapped(state, rows, shared)
            return keep(state, mesh), metrics

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
    raise ValueError(f"config.train.parallel={parallel!r} is not one of ['jit', 'pmap'].")


def find_top_k(mesh: Mesh) -> Callable[[Any, int], Any]:
    """In a compiled function: `jax.lax.top_k` of the rows of a matrix with sharded columns.

    Each device finds the top k of its own columns, and then the top k of these are found. The
    compiler alone would send all columns to all devices.
    """
    shares = mesh.shape[MODEL]
    if shares == 1:
        return jax.lax.top_k

    def top_k(scores: Any, k: int) -> Any:
        size = -(-scores.shape[1] // shares)
        fill = ((0, 0), (0, size * shares - scores.shape[1]))
        scores = jnp.pad(scores, fill, constant_values=-jnp.inf)

        def own_top_k(part: Any) -> Any:
            score, column = jax.lax.top_k(part, min(k, size))
            return score, column + size * jax.lax.axis_index(MODEL)

        lines = P(None, MODEL)
        score, column = jax.shard_map(
            own_top_k, in_specs=lines, out_specs=lines, axis_names={MODEL}, check_vma=False
        )(scores)
        score, index = jax.lax.top_k(score, k)
        return score, jnp.take_along_axis(column, index, axis=1)

    return top_k


def compile_groups(answer: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles `answer(params, group)`, mapped over groups of rows that are split over devices."""

    def on_device(params: Any, groups: Any) -> Any:
        return jax.lax.map(lambda group: answer(params, group), groups)

    mapped = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(P(), P(DATA)),
        out_specs=P(DATA),
        axis_names=manual_axes(mesh),
        check_vma=False,
    )
    # Every process needs all results, not only those of its own devices.
    everywhere = NamedSharding(mesh, P()) if processes.several() else None
    return jax.jit(mapped, out_shardings=everywhere)
