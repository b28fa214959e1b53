"""Save, resume, transfer: orbax checkpoints of a run.

`checkpoints/last` has what it takes to go on, `checkpoints/best` the parameters of the best
validation so far.
"""

import contextlib
import errno
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from clickflax.runtime.params import by_name, matching, tree_of

# Orbax tells every step of a save at INFO, and warns of items that nobody asked it to restore.
logging.getLogger("absl").setLevel(logging.ERROR)


def manager(folder: pathlib.Path, keep: int = 1, alone: bool = False) -> ocp.CheckpointManager:
    """Keeps the newest checkpoints in `folder`; a save has ended when it returns. Of several
    processes all take part, or this one `alone` reads.
    """
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "progress": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    if alone and jax.process_count() > 1:
        here = jax.process_index()
        options.multiprocessing_options = ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=str(here)
        )
        options.create = False
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


def save(folder: pathlib.Path, step: int, progress: dict, keep: int = 1, **trees: Any) -> None:
    """Writes a checkpoint, then removes all but the newest `keep`. One of the same or a later
    step, which a run that was killed may have left, gives way.
    """
    with naming_a_full_disk(folder), manager(folder, keep) as checkpoints:
        for stale in [s for s in checkpoints.all_steps() if s >= step]:
            checkpoints.delete(stale)
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        progress_item = ocp.args.JsonSave(progress)
        checkpoints.save(step, args=ocp.args.Composite(progress=progress_item, **items))


def newest(folder: pathlib.Path) -> int | None:
    """Step of the checkpoint in `folder`, if there is one."""
    if not folder.is_dir():
        return None
    with manager(folder) as checkpoints:
        return checkpoints.latest_step()


def resume(folder: pathlib.Path, **like: Any) -> tuple[dict, dict[str, Any]]:
    """Progress and trees of the newest checkpoint, placed as the arrays of `like` are.

    On other devices tables are filled up with other numbers of zeros: not strict, what is saved is
    cut, or filled up with zeros.
    """
    with manager(folder) as checkpoints:
        items = {name: ocp.args.StandardRestore(tree, strict=False) for name, tree in like.items()}
        found = checkpoints.restore(
            checkpoints.latest_step(),
            args=ocp.args.Composite(progress=ocp.args.JsonRestore(), **items),
        )
    return found["progress"], {name: found[name] for name in like}


def load_params(
    folder: pathlib.Path, sharding: jax.sharding.Sharding, step: int | None = None
) -> tuple[dict, Any]:
    """Progress and parameters of a checkpoint of any run, the newest one by default, placed here.

    Without a target orbax would ask for the devices that saved it.
    """
    with manager(folder, alone=True) as checkpoints:
        step = checkpoints.latest_step() if step is None else step
        if step not in checkpoints.all_steps():
            raise FileNotFoundError(f"{folder} holds no checkpoint: has the run got that far?")
        stored = checkpoints.item_metadata(step)["params"].tree
        here = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), dict(stored)
        )
        found = checkpoints.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(here), progress=ocp.args.JsonRestore()
            ),
        )
    return found["progress"], found["params"]


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
