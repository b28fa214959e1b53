"""Save, resume, transfer: orbax checkpoints of a run.

`checkpoints/last` has what it takes to go on, `checkpoints/best` the parameters of the best
validation so far.
"""

import contextlib
import errno
import json
import logging
import pathlib
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import Array, UInt32

from clickflax.runtime import processes
from clickflax.runtime.params import by_name, matching, tree_of

CHECKSUMS = "checksums"  # of the trees and of the progress, kept with it
# Orbax tells every step of a save at INFO, warns of items that nobody asked it to restore, and logs
# the trace of every error that it raises as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def manager(folder: pathlib.Path, alone: bool = False) -> ocp.CheckpointManager:
    """Keeps the newest two checkpoints in `folder`; a save has ended when it returns. Of several
    processes all take part, or this one `alone` reads.
    """
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "progress": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    if alone:
        here = jax.process_index()
        options.create = False
        options.multiprocessing_options = ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=str(here)
        )
    return ocp.CheckpointManager(folder.absolute(), item_handlers=handlers, options=options)


@contextlib.contextmanager
def naming_a_full_disk(folder: pathlib.Path) -> Iterator[None]:
    """Turns what the storage library says of a full disk into a clear sentence."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error):
            # The other writers of the same checkpoint failed too, and would each leave a trace.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            raise OSError(
                f"cannot save a checkpoint in {folder}: the disk is full. The one before is whole: "
                "free some space and give the same command again."
            ) from error
        raise


@jax.jit
def checksum(tree: Any) -> UInt32[Array, ""]:
    """A number that changes with any bit of the arrays; the same wherever and however they lie.

    Each word counts with an odd factor of its place. Zeros count nothing, so that it does not
    matter how many fill up a table.
    """
    total = jnp.zeros((), jnp.uint32)
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
        word = jnp.dtype(f"uint{8 * min(leaf.dtype.itemsize, 4)}")
        words = jax.lax.bitcast_convert_type(leaf, word).astype(jnp.uint32).ravel()
        place = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(2654435762)
        total += (words * (place + jnp.uint32(2 * i + 1))).sum(dtype=jnp.uint32)
    return total


def checksum_of_json(values: Mapping[str, Any]) -> int:
    """The same for what JSON can tell, whatever the order of its keys."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def save(folder: pathlib.Path, step: int, progress: dict, **trees: Any) -> None:
    """Writes a checkpoint, then removes all but the newest two, of which one may be damaged. One of
    the same or a later step, which a run that was killed may have left, gives way.
    """
    sums = {name: int(checksum(tree)) for name, tree in trees.items()}
    sums["progress"] = checksum_of_json(progress)
    with naming_a_full_disk(folder), manager(folder) as checkpoints:
        for stale in [s for s in checkpoints.all_steps() if s >= step]:
            checkpoints.delete(stale)
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        progress_item = ocp.args.JsonSave(progress | {CHECKSUMS: sums})
        checkpoints.save(step, args=ocp.args.Composite(progress=progress_item, **items))


def newest(folder: pathlib.Path) -> int | None:
    """Step of the checkpoint in `folder`, if there is one: of several processes, as the first sees
    it, as a folder that they share may look older to another one.
    """
    step = None
    if processes.is_first() and folder.is_dir():
        with manager(folder, alone=True) as checkpoints:
            step = checkpoints.latest_step()
    found = processes.broadcast(-1 if step is None else step)
    return None if found < 0 else found


def restore_one(
    checkpoints: ocp.CheckpointManager, step: int, trees: Mapping[str, Any]
) -> tuple[dict, dict[str, Any]]:
    """Progress and trees of a checkpoint, which must be as they were saved.

    On other devices tables are filled up with other numbers of zeros: not strict, what is saved is
    cut, or filled up with zeros.
    """
    items = {name: ocp.args.StandardRestore(tree, strict=False) for name, tree in trees.items()}
    progress = ocp.args.JsonRestore()
    found = checkpoints.restore(step, args=ocp.args.Composite(progress=progress, **items))
    sums = found["progress"].pop(CHECKSUMS, {})  # older ones have none
    told = {name: int(checksum(found[name])) for name in trees}
    told["progress"] = checksum_of_json(found["progress"])
    wrong = [name for name in told if name in sums and sums[name] != told[name]]
    if wrong:
        raise ValueError(f"{' and '.join(wrong)}: not the numbers that were saved")
    return found["progress"], {name: found[name] for name in trees}


def restore(
    checkpoints: ocp.CheckpointManager,
    folder: pathlib.Path,
    steps: Sequence[int],
    trees: Callable[[int], Mapping[str, Any]],
) -> tuple[dict, dict[str, Any]]:
    """The first of these checkpoints that is whole; what was damaged is told.

    Raises ValueError where none is.
    """
    damaged = []
    for step in steps:
        try:
            found = restore_one(checkpoints, step, trees(step))
        except (PermissionError, MemoryError, jax.errors.JaxRuntimeError):
            raise  # they tell nothing of the file
        except Exception as error:  # storage libraries have many for a file that is cut or changed
            damaged.append(f"step {step} ({next(iter(str(error).splitlines()), '')[:200]})")
            continue
        if damaged:
            told = ", ".join(damaged)
            print(f"{folder}: damaged: {told}; that of step {step} is used", file=sys.stderr)
        return found
    raise ValueError(
        f"{folder}: no checkpoint can be read: {', '.join(damaged)}. Copy it from a backup, or "
        "begin the run anew in another folder."
    )


def check_shapes(
    checkpoints: ocp.CheckpointManager, step: int, params: Any, in_rows: Callable[[str], bool]
) -> None:
    """Refuses parameters of other shapes than those that are saved, but for the number of rows of
    those `in_rows`.
    """
    try:
        stored = by_name(dict(checkpoints.item_metadata(step)["params"].tree))
    except Exception:  # it is damaged, which `restore` tells
        return
    for name, value in by_name(params).items():
        ours, theirs = value.shape, stored[name].shape if name in stored else None
        if ours != theirs and not (theirs and in_rows(name) and ours[1:] == theirs[1:]):
            raise ValueError(
                f"{name} is {ours}, and {theirs or 'not there'} in the checkpoint of step {step}: "
                "it is of another version of clickflax. Use that one, or begin the run anew."
            )


def restore_training(
    folder: pathlib.Path, in_rows: Callable[[str], bool], params: Any, optimizer: Any
) -> tuple[dict, dict[str, Any]]:
    """Progress and trees of the newest checkpoint, placed as these arrays are; where it is damaged,
    of the one before. Parameters `in_rows`, by name, may be filled up with other numbers of rows.
    """
    like, last = {"params": params, "optimizer": optimizer}, newest(folder)
    with manager(folder) as checkpoints:
        steps = sorted((s for s in checkpoints.all_steps() if s <= (last or 0)), reverse=True)
        check_shapes(checkpoints, steps[0], params, in_rows)
        return restore(checkpoints, folder, steps, lambda _: like)


def on_host() -> jax.sharding.Sharding:
    """The memory of the host: a table may be too large for one device. Where JAX has been started
    without its CPU (JAX_PLATFORMS=cuda), the first device that is here.
    """
    try:
        (device, *_) = jax.local_devices(backend="cpu")
    except RuntimeError:
        (device, *_) = jax.local_devices()
    return jax.sharding.SingleDeviceSharding(device)


def load_params(
    folder: pathlib.Path, sharding: jax.sharding.Sharding, step: int | None = None
) -> tuple[dict, Any]:
    """Progress and parameters of a checkpoint of any run, the newest one by default, placed here;
    where it is damaged, of the one before.

    Without a target orbax would ask for the devices that saved it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} holds no checkpoint: has the run got that far?")
    with manager(folder, alone=True) as checkpoints:
        steps = sorted(checkpoints.all_steps(), reverse=True)
        step = next(iter(steps), None) if step is None else step
        if step not in steps:
            raise FileNotFoundError(f"{folder} holds no checkpoint: has the run got that far?")

        def here(step: int) -> dict[str, Any]:
            stored = checkpoints.item_metadata(step)["params"].tree
            return {
                "params": jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                    dict(stored),
                )
            }

        usable = steps[steps.index(step) :]
        progress, found = restore(checkpoints, folder, usable, here)
    return progress, found["params"]


def transfer(fresh: Any, stored: Any, skip: Sequence[str], source: str) -> Any:
    """The stored parameters in the place of the fresh ones, but for those that `skip` names.

    Raises ValueError with all that does not fit, on either side.
    """
    new, old = by_name(fresh), by_name(stored)
    skipped = matching("init.skip", skip, sorted(new.keys() | old))
    there, here = old.keys() - skipped, new.keys() - skipped
    wrong = [f"{name}: in the model, not in the checkpoint" for name in sorted(here - there)]
    wrong += [f"{name}: in the checkpoint, not in the model" for name in sorted(there - here)]
    wrong += [
        f"{name}: {new[name].shape} in the model, {old[name].shape} in the checkpoint"
        for name in sorted(here & there)
        if new[name].shape != old[name].shape
    ]
    if wrong:
        raise ValueError(
            f"cannot start from {source}. Name these in init.skip, or change the model:\n  "
            + "\n  ".join(wrong)
        )
    return tree_of(new | {name: old[name] for name in here})
