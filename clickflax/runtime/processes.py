"""Training or evaluation by several processes, on one or many machines.

The processes are connected by `jax.distributed`. Each has some of the devices, reads the rows of
its devices, and runs the same program. The first one writes. All must see the same work folder.
"""

import os
import platform
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from clickflax.runtime.terminal import say

HEARTBEAT = 30  # seconds after which the others notice a lost process, and end
START_SECONDS = 300  # in which all processes must connect
PATIENCE = 30  # seconds until a message that some processes have not connected


def start_processes(coordinator: str, processes: str, process: int | None, devices: int) -> None:
    """Connects this process with the others; call it before the first computation.

    `processes` is their number, with the HOST:PORT of the first one as `coordinator` and the index
    of this one as `process`; or "auto" to read these from the environment of Slurm, a TPU VM, GKE
    or Open MPI; or "" for a single process. Raises ValueError if they do not connect, or if the
    total number of devices is not `devices`.
    """
    if processes:
        _check(coordinator, processes, process)
        _join(coordinator, processes, process)
    elif coordinator or process is not None:
        raise ValueError("--coordinator and --process need several processes: --processes=N.")
    if devices and jax.device_count() != devices:
        raise ValueError(
            f"--devices={devices}, but JAX has {jax.device_count()} {jax.default_backend()} "
            f"devices, {jax.local_device_count()} of them on {platform.node()}: is one in use by "
            "another program, or is its driver missing?"
        )
    if several():
        say(
            f"process {jax.process_index()} of {jax.process_count()} on {platform.node()}, "
            f"{os.getpid()}: {jax.local_device_count()} of {jax.device_count()} "
            f"{jax.default_backend()} devices",
            error=True,
        )


def _check(coordinator: str, processes: str, process: int | None) -> None:
    """Raises ValueError for flags that do not describe the processes."""
    if processes == "auto":
        return
    number = processes.isdigit() and processes != "0"
    if not (number and coordinator and process is not None):
        raise ValueError(
            f"--processes={processes}: use --processes=auto, or give the number of processes, the "
            f"address of the first one (--coordinator=HOST:PORT, here {coordinator!r}) and the "
            f"index of this one (--process, here {process})."
        )
    if not 0 <= process < int(processes):
        raise ValueError(f"--process={process} is not one of 0 to {int(processes) - 1}.")


def _join(coordinator: str, processes: str, process: int | None) -> None:
    """Waits until all processes are connected."""
    auto = processes == "auto"
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    waiting = threading.Timer(PATIENCE, _warn_of_waiting, (coordinator, processes))
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            coordinator or None,
            None if auto else int(processes),
            process,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        reason = (
            "found neither Slurm nor a TPU VM, GKE or Open MPI: use --processes=N "
            "--coordinator=HOST:PORT --process=I"
        )
        reason = reason if auto else "could not connect to the other processes"
        raise ValueError(f"--processes={processes}: {reason} ({error}).") from None
    finally:
        waiting.cancel()


def _warn_of_waiting(coordinator: str, processes: str) -> None:
    """Explains the wait, before JAX ends the process with a long error."""
    where = f" at {coordinator}" if coordinator else ""
    say(
        f"after {PATIENCE} s, not all processes (--processes={processes}) have connected{where}: "
        "have all been started, and can they reach each other? This process ends in "
        f"{START_SECONDS - PATIENCE} s.",
        error=True,
    )


def several() -> bool:
    """Whether this is one of several processes."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def broadcast(number: int) -> int:
    """Returns the number of the first process, in every process."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number))) if several() else number


def wait_for_all(name: str) -> None:
    """Waits until all processes have called this with the same name."""
    if several():
        multihost_utils.sync_global_devices(name)


def agree_to_stop(requested: bool, call: int) -> bool:
    """Whether to end now; the same in all processes.

    With several processes, SIGTERM to one of them is a request to all, which agree on a call that
    none has passed yet. Calls are counted from 1 at each start.
    """
    return multihost_utils.reached_preemption_sync_point(call) if several() else requested


def put_everywhere(x: Any, sharding: jax.sharding.Sharding) -> Any:
    """Puts an array that every process has on the devices of all of them."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put_everywhere(jax.random.key_data(x), sharding))
    whole = jax.device_get(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
