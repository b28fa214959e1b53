"""Several processes, on one machine or on many, that run one training or evaluation together.

JAX is what they talk through: `jax.distributed`. Each has some of the devices, reads the rows of
these, and runs the same program; the first one writes. All see the same work folder.
"""

import os
import platform
import sys
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process that is gone is noticed by the others after so many seconds, and ends them.
HEARTBEAT = 30
START_SECONDS = 300  # seconds in which all must have come
PATIENCE = 30  # seconds after which it is said that some have not


def start_processes(coordinator: str, processes: str, process: int | None, devices: int) -> None:
    """Joins the others: before anything has been computed.

    `processes` is their number, with the HOST:PORT of the first one and which one this is; or
    "auto", which asks the environment of Slurm, a TPU VM, GKE or Open MPI; or "" for one alone.
    Raises ValueError when they, or so many `devices` in all, are not there.
    """
    if processes:
        _check(coordinator, processes, process)
        _join(coordinator, processes, process)
    elif coordinator or process is not None:
        raise ValueError("--coordinator and --process are about several processes: --processes=N.")
    if devices and jax.device_count() != devices:
        raise ValueError(
            f"--devices={devices}, but {jax.device_count()} {jax.default_backend()} devices are "
            f"here, {jax.local_device_count()} of them on {platform.node()}: is one taken by "
            "another program, or missing its driver?"
        )
    if several():
        print(
            f"process {jax.process_index()} of {jax.process_count()} on {platform.node()}, "
            f"{os.getpid()}: {jax.local_device_count()} of {jax.device_count()} "
            f"{jax.default_backend()} devices",
            file=sys.stderr,
        )


def _check(coordinator: str, processes: str, process: int | None) -> None:
    """Refuses flags that do not say who the others are."""
    if processes == "auto":
        return
    number = processes.isdigit() and processes != "0"
    if not (number and coordinator and process is not None):
        raise ValueError(
            f"--processes={processes}: say --processes=auto, or how many there are, where the "
            f"first one listens (--coordinator=HOST:PORT, here {coordinator!r}) and which one "
            f"this is (--process, here {process})."
        )
    if not 0 <= process < int(processes):
        raise ValueError(f"--process={process} is not one of 0 to {int(processes) - 1}.")


def _join(coordinator: str, processes: str, process: int | None) -> None:
    """Waits until all processes are there."""
    auto = processes == "auto"
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    waiting = threading.Timer(PATIENCE, _say_that_it_waits, (coordinator, processes))
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
        way = "there is neither Slurm nor a TPU VM, GKE or Open MPI here: say --processes=N"
        reason = f"{way} --coordinator=HOST:PORT --process=I" if auto else "no one to join"
        raise ValueError(f"--processes={processes}: {reason} ({error}).") from None
    finally:
        waiting.cancel()


def _say_that_it_waits(coordinator: str, processes: str) -> None:
    """Says why nothing happens: JAX itself ends the process, with more lines than anyone reads."""
    where = f" at {coordinator}" if coordinator else ""
    print(
        f"{PATIENCE} s have gone, and not all processes (--processes={processes}) "
        f"have come together{where}: have all been started, and can they reach each other? "
        f"{START_SECONDS - PATIENCE} s more, and this one ends.",
        file=sys.stderr,
        flush=True,
    )


def several() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def broadcast(number: int) -> int:
    """The number that the first process has, in all."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number))) if several() else number


def wait_for_all(what: str) -> None:
    """Goes on when all processes have come here."""
    if several():
        multihost_utils.sync_global_devices(what)


def agree_to_stop(asked: bool, call: int) -> bool:
    """Whether to end now, alike in all processes: where there are several, SIGTERM to one of them
    asks all, which then agree on a call that none has passed.

    Calls are counted from 1 at each start: the one that is agreed on is the next of some process.
    """
    return multihost_utils.reached_preemption_sync_point(call) if several() else asked


def put_everywhere(x: Any, sharding: jax.sharding.Sharding) -> Any:
    """An array that all processes have, on the devices of all."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put_everywhere(jax.random.key_data(x), sharding))
    whole = jax.device_get(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
