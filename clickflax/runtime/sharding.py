"""The mesh, where things live on it, and one step for all of its devices."""

import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA = "data"  # the axis over which the rows of a batch are split

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
        if cpu_devices and jax.default_backend() == "cpu" and jax.device_count() != cpu_devices:
            raise ValueError(
                f"train.cpu_devices={cpu_devices}, but JAX has started with {jax.device_count()}. "
                "Set it before the first computation of the process, or leave it at 0."
            ) from None


def make_mesh() -> Mesh:
    """All devices in a line."""
    return jax.make_mesh((jax.device_count(),), (DATA,), axis_types=(AxisType.Auto,))


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


def chunk_items(wanted: int, targets: int, items: int) -> int:
    """Items whose float32 scores for `targets` are held at once; 0 leaves it to their size."""
    backend = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    if wanted or 4 * targets * items <= WHOLE_SCORES[backend]:
        return min(wanted or items, items)
    return max(1, CHUNK_SCORES[backend] // (4 * targets))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def split_rows(tree: Any, mesh: Mesh) -> Any:
    """Arrays whose first axis is split over the devices."""
    return jax.device_put(tree, NamedSharding(mesh, P(DATA)))


def compile_step(step: Callable[..., Any], mesh: Mesh, parallel: str) -> Callable[..., Any]:
    """`step(state, rows, shared)` of one device, made to run on all: each has its own rows.

    The step sums over the axis DATA itself; all but the rows is the same everywhere.
    """
    if parallel == "jit":
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=(P(), P(DATA), P()), out_specs=P(), check_vma=False
        )
        return jax.jit(mapped, donate_argnums=0)
    if parallel == "pmap":
        mapped = jax.pmap(
            step, DATA, in_axes=(None, 0, None), out_axes=None, devices=list(mesh.devices.flat)
        )

        def run(state: Any, rows: Any, shared: Any) -> Any:
            shape = (mesh.size, -1)
            rows = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), rows)
            return mapped(state, rows, shared)

        return run
    raise ValueError(f"train.parallel={parallel!r} is not one of ['jit', 'pmap'].")


def compile_groups(answer: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`answer(params, group)` of every group, one after the other, shared out over the devices."""

    def on_one(params: Any, groups: Any) -> Any:
        return jax.lax.map(lambda group: answer(params, group), groups)

    return jax.jit(
        jax.shard_map(
            on_one, mesh=mesh, in_specs=(P(), P(DATA)), out_specs=P(DATA), check_vma=False
        )
    )
