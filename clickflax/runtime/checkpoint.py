"""Orbax checkpoints of a run: save, resume, transfer.

`checkpoints/last` has the full state, to resume from; `checkpoints/best` has the parameters of the
best validation so far.
"""

import contextlib
import errno
import json
import logging
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import Array, UInt32

from clickflax.runtime import processes
from clickflax.runtime.params import by_name, matching, tree_of
from clickflax.runtime.terminal import say

CHECKSUMS = "checksums"  # key in the progress: checksums of the trees and of the progress
# Orbax logs every step of a save at INFO, warns of items that are not restored, and logs the trace
# of every error in addition to raising it.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def check_path(folder: pathlib.Path) -> None:
    """Raises ValueError for a folder in which Orbax would not find its own checkpoints."""
    pattern = sorted(set("[]*?\\") & set(str(folder.absolute())))
    if pattern:
        raise ValueError(
            f"{folder}: checkpoints cannot be kept below a folder with {' '.join(pattern)} in its "
            "path, as Orbax reads it as a pattern. Name another folder."
        )


def manager(folder: pathlib.Path, alone: bool = False) -> ocp.CheckpointManager:
    """A manager that keeps the newest two checkpoints in `folder` and saves synchronously.

    With several processes all take part, unless this one reads `alone`.
    """
    check_path(folder)
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "progress": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    if alone:
        process = jax.process_index()
        options.create = False
        options.multiprocessing_options = ocp.options.MultiprocessingOptions(
            primary_host=process,
            active_processes={process},
            barrier_sync_key_prefix=str(process),
        )
    return ocp.CheckpointManager(folder.absolute(), item_handlers=handlers, options=options)


@contextlib.contextmanager
def explain_full_disk(folder: pathlib.Path) -> Iterator[None]:
    """A context that turns the storage library's errors about a full disk into a clear message."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error):
            # The other writers of this checkpoint fail too, and would each log a trace.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            raise OSError(
                f"cannot save a checkpoint in {folder}: the disk is full. The previous one is "
                "intact: free some space and run the same command again."
            ) from error
        raise


@jax.jit
def checksum(tree: Any) -> UInt32[Array, ""]:
    """A checksum that changes with any bit of the arrays, and does not depend on their placement.

    Each word is multiplied by an odd number that depends on its index. Zeros add nothing, so the
    padding of sharded tables does not matter.
    """
    total = jnp.zeros((), jnp.uint32)
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
        word = jnp.dtype(f"uint{8 * min(leaf.dtype.itemsize, 4)}")
        words = jax.lax.bitcast_convert_type(leaf, word).astype(jnp.uint32).ravel()
        factor = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(2654435762)
        total += (words * (factor + jnp.uint32(2 * i + 1))).sum(dtype=jnp.uint32)
    return total


def checksum_of_json(values: Mapping[str, Any]) -> int:
    """A checksum of JSON values that does not depend on the order of keys."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def save(folder: pathlib.Path, step: int, progress: dict, **trees: Any) -> None:
    """Writes a checkpoint, then removes all but the newest two: one of them may be damaged.

    Checkpoints of the same or a later step, which a killed run may have left, are replaced.
    """
    sums = {name: int(checksum(tree)) for name, tree in trees.items()}
    sums["progress"] = checksum_of_json(progress)
    with explain_full_disk(folder), manager(folder) as checkpoints:
        for stale in [s for s in checkpoints.all_steps() if s >= step]:
            checkpoints.delete(stale)
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        progress_item = ocp.args.JsonSave(progress | {CHECKSUMS: sums})
        checkpoints.save(step, args=ocp.args.Composite(progress=progress_item, **items))


def newest(folder: pathlib.Path) -> int | None:
    """Step of the newest checkpoint in `folder`, or None.

    With several processes it is what the first one sees: a shared folder may look older to others.
    """
    step = None
    if processes.is_first() and folder.is_dir():
        with manager(folder, alone=True) as checkpoints:
            step = checkpoints.latest_step()
    common = processes.broadcast(-1 if step is None else step)
    return None if common < 0 else common


def restore_one(
    checkpoints: ocp.CheckpointManager, step: int, trees: Mapping[str, Any]
) -> tuple[dict, dict[str, Any]]:
    """Progress and trees of a checkpoint; raises ValueError if a checksum differs.

    On other devices, sharded tables are padded with other numbers of zero rows. So the restore is
    not strict: it cuts or pads the saved tables.
    """
    items = {name: ocp.args.StandardRestore(tree, strict=False) for name, tree in trees.items()}
    progress = ocp.args.JsonRestore()
    restored = checkpoints.restore(step, args=ocp.args.Composite(progress=progress, **items))
    expected = restored["progress"].pop(CHECKSUMS, {})  # older checkpoints have none
    sums = {name: int(checksum(restored[name])) for name in trees}
    sums["progress"] = checksum_of_json(restored["progress"])
    wrong = [name for name in sums if name in expected and expected[name] != sums[name]]
    if wrong:
        raise ValueError(f"{' and '.join(wrong)}: checksum mismatch")
    return restored["progress"], {name: restored[name] for name in trees}


def restore(
    checkpoints: ocp.CheckpointManager,
    folder: pathlib.Path,
    steps: Sequence[int],
    trees: Callable[[int], Mapping[str, Any]],
) -> tuple[dict, dict[str, Any]]:
    """Progress and trees of the first of these checkpoints that is intact.

    Reports the damaged ones on standard error. Raises ValueError if all are damaged.
    """
    damaged = []
    for step in steps:
        try:
            restored = restore_one(checkpoints, step, trees(step))
        except (PermissionError, MemoryError, jax.errors.JaxRuntimeError):
            raise  # these do not mean that the file is damaged
        except Exception as error:  # storage libraries raise many kinds for a damaged file
            damaged.append(f"step {step} ({next(iter(str(error).splitlines()), '')[:200]})")
            continue
        if damaged:
            say(f"{folder}: damaged: {', '.join(damaged)}; using that of step {step}", error=True)
        return restored
    raise ValueError(
        f"{folder}: no checkpoint can be read: {', '.join(damaged)}. Restore it from a backup, or "
        "start the run again in another folder."
    )


def check_shapes(
    checkpoints: ocp.CheckpointManager, step: int, params: Any, in_rows: Callable[[str], bool]
) -> None:
    """Raises ValueError if saved parameters have other shapes than these.

    The number of rows may differ for parameters that are `in_rows`, by name.
    """
    try:
        stored = by_name(dict(checkpoints.item_metadata(step)["params"].tree))
    except Exception:  # it is damaged, which `restore` reports
        return
    for name, value in by_name(params).items():
        here = value.shape
        saved = stored[name].shape if name in stored else None
        if here != saved and not (saved and in_rows(name) and here[1:] == saved[1:]):
            raise ValueError(
                f"{name} is {here} in the model and {saved or 'missing'} in the checkpoint of step "
                f"{step}, which another version of clickflax has written. Use that version, or "
                "start the run again."
            )


def restore_training(
    folder: pathlib.Path, in_rows: Callable[[str], bool], params: Any, optimizer: Any
) -> tuple[dict, dict[str, Any]]:
    """Progress and trees of the newest intact checkpoint, placed as these arrays are.

    Parameters that are `in_rows`, by name, may be padded with other numbers of rows.
    """
    like = {"params": params, "optimizer": optimizer}
    last = newest(folder)
    with manager(folder) as checkpoints:
        steps = sorted((s for s in checkpoints.all_steps() if s <= (last or 0)), reverse=True)
        check_shapes(checkpoints, steps[0], params, in_rows)
        return restore(checkpoints, folder, steps, lambda _: like)


def on_host() -> jax.sharding.Sharding:
    """The memory of the host, as a table may be too large for one device.

    If JAX has no CPU backend (JAX_PLATFORMS=cuda), the first device.
    """
    try:
        (device, *_) = jax.local_devices(backend="cpu")
    except RuntimeError:
        (device, *_) = jax.local_devices()
    return jax.sharding.SingleDeviceSharding(device)


def load_params(
    folder: pathlib.Path, sharding: jax.sharding.Sharding, step: int | None = None
) -> tuple[dict, Any]:
    """Progress and parameters of the checkpoint of a step, by default the newest.

    If it is damaged, those of the one before it. Raises FileNotFoundError if it does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} has no checkpoint: has the run saved one yet?")
    with manager(folder, alone=True) as checkpoints:
        steps = sorted(checkpoints.all_steps(), reverse=True)
        step = next(iter(steps), None) if step is None else step
        if step not in steps:
            raise FileNotFoundError(f"{folder} has no checkpoint: has the run saved one yet?")

        # Without a target, orbax would need the devices that saved the checkpoint.
        def target(step: int) -> dict[str, Any]:
            stored = checkpoints.item_metadata(step)["params"].tree
            return {
                "params": jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                    dict(stored),
                )
            }

        usable = steps[steps.index(step) :]
        progress, trees = restore(checkpoints, folder, usable, target)
    return progress, trees["params"]


def transfer(fresh: Any, stored: Any, skip: Sequence[str], source: str) -> Any:
    """The fresh parameters, replaced by the stored ones except for those that `skip` names.

    Raises ValueError with all parameters that do not fit, on either side.
    """
    new = by_name(fresh)
    old = by_name(stored)
    skipped = matching("config.init.skip", skip, sorted(new.keys() | old))
    there = old.keys() - skipped
    here = new.keys() - skipped
    wrong = [f"{name}: in the model, not in the checkpoint" for name in sorted(here - there)]
    wrong += [f"{name}: in the checkpoint, not in the model" for name in sorted(there - here)]
    wrong += [
        f"{name}: {new[name].shape} in the model, {old[name].shape} in the checkpoint"
        for name in sorted(here & there)
        if new[name].shape != old[name].shape
    ]
    if wrong:
        raise ValueError(
            f"cannot start from {source}. Name these in config.init.skip, or change the model:\n  "
            + "\n  ".join(wrong)
        )
    return tree_of(new | {name: old[name] for name in here})
