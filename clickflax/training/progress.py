"""How far a training has come, and what of it is saved, also when a signal ends it."""

import contextlib
import pathlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from clickflax.model.names import table_rows
from clickflax.run.folder import check_progress, last_checkpoint
from clickflax.runtime import checkpoint, processes, sharding
from clickflax.runtime.errors import user_message
from clickflax.runtime.signals import name_of
from clickflax.training.setup import TrainContext
from clickflax.training.step import State


class Progress(NamedTuple):
    """How far a run has come, besides its state; kept with every checkpoint."""

    step: int = 0
    seconds: float = 0.0  # up to this step, over all starts of the run; validation included
    best: float | None = None
    best_step: int = 0
    evaluations_since: int = 0  # without a new best
    losses: tuple[float, ...] = ()  # of the last steps, whose mean has not been written
    unvalidated: bool = False  # whether the validation of this step is still to come


def resume_training(context: TrainContext, state: State) -> tuple[State, Progress]:
    """The newest checkpoint of the run; without one, the beginning."""
    last = last_checkpoint(context.folder)
    if checkpoint.newest(last) is None:
        return state, Progress()
    stored, trees = checkpoint.restore_training(
        last, lambda name: table_rows(name) is not None, state.params, state.optimizer
    )
    check_progress(context.folder, stored)
    step = sharding.replicate(np.asarray(stored["step"], np.int32), context.mesh)
    progress = Progress(**{**stored, "losses": tuple(stored["losses"])})
    return State(step, trees["params"], trees["optimizer"]), progress


def save_last(context: TrainContext, state: State, progress: Progress) -> None:
    """Saves the checkpoint from which a run resumes."""
    trees = {"params": state.params, "optimizer": state.optimizer}
    checkpoint.save(last_checkpoint(context.folder), progress.step, progress._asdict(), **trees)


class Reached:
    """What of a training is saved, and what can be saved from another thread.

    While a validation is under way, the state after the last step can be; while a step is, its
    arrays belong to the devices.
    """

    def __init__(self, context: TrainContext, step: int):
        self.context = context
        self.kept = step  # of the newest checkpoint
        self.sent = False  # whether steps have been sent since
        self._lock = threading.Lock()
        self._reached: tuple[State, Progress] | None = None

    @contextlib.contextmanager
    def at(self, state: State, progress: Progress) -> Iterator[None]:
        """A context in which this state can be saved from another thread."""
        self._reached = state, progress
        try:
            yield
        finally:
            with self._lock:  # another thread that saves it ends the process
                self._reached = None

    def save(self, state: State, progress: Progress) -> None:
        """Saves the checkpoint from which a run resumes."""
        save_last(self.context, state, progress)
        self.kept, self.sent = progress.step, False

    def last_words(self, number: int) -> str | None:
        """Saves what was reached, for a process that is about to end; what it says then.

        None if it must wait for the steps that are under way, or for the end of a save.
        """
        self._lock.acquire()
        ended = f"ended by {name_of(number)}"
        if self._reached is not None:
            try:
                self.save(*self._reached)
            except (OSError, ValueError, RuntimeError) as error:
                ended += f", and the last steps are not saved: {user_message(error)}"
            return ended + saved_at(self.kept)
        self._lock.release()
        if self.sent or processes.several():
            return None
        return ended + saved_at(self.kept)


def saved_at(step: int) -> str:
    """The end of a message about a training that has ended; 0 if it has no checkpoint."""
    if step:
        return f" at step {step:,}; the same command goes on from there"
    return " before the first step was done; nothing was saved yet"


def last_saved(folder: pathlib.Path) -> int:
    """The step of the newest checkpoint of a run; 0 if it has none."""
    names = [path.name for path in last_checkpoint(folder).glob("[0-9]*")]
    return max((int(name) for name in names if name.isdigit()), default=0)
