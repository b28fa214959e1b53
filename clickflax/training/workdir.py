"""The work folder of a training: made at its first start, checked at every other one."""

import contextlib
import hashlib
import pathlib

from ml_collections import ConfigDict

from clickflax.config.default import differences
from clickflax.config.resolve import tasks_of
from clickflax.data.store import Dataset
from clickflax.run.checksums import CHECKSUMS_FILE, write_config
from clickflax.run.folder import check_catalog, keep_variables, read_config, vocabularies_of
from clickflax.run.inputs import InputSchema
from clickflax.run.transfer import Transferred
from clickflax.runtime import processes
from clickflax.runtime.checkpoint import check_path
from clickflax.runtime.environment import ENVIRONMENT, add_start, environment
from clickflax.runtime.files import read_json, write_json
from clickflax.runtime.lock import hold

# Knobs that may change on resume: data location, devices and kernels, logging.
MAY_CHANGE = (
    "config.data.path",
    "config.model.attention",
    "config.train.cpu_devices",
    "config.train.model_devices",
    "config.train.wandb",
)


def lock_workdir(folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """A context in which no other process trains in a folder; of several, the first one locks.

    Raises Locked if one does, and ValueError for the folder of something else.
    """
    if not processes.is_first():
        return contextlib.nullcontext()
    check_folder(folder)
    return hold(folder / ".lock", f"the work folder {folder}")


def check_folder(folder: pathlib.Path) -> None:
    """Raises ValueError if a folder has other files than a run, or cannot have checkpoints."""
    check_path(folder)
    if (folder / "config.json").is_file():
        return
    # Of a start that was killed.
    ours = {"data", "vocab", "variables.json", "environment.json", CHECKSUMS_FILE}
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    others = [name for name in names if name not in ours and not name.startswith(".")]
    if others:
        raise ValueError(
            f"{folder} is not empty and not the folder of a run: {others[:5]}. Name another "
            "workdir."
        )


def labels_fingerprint(config: ConfigDict) -> str | None:
    """SHA-256 of the file of labels; None if no task reads one."""
    if not any("path" in task.label_knobs for task in tasks_of(config).values()):
        return None
    return hashlib.sha256(pathlib.Path(config.label.path).read_bytes()).hexdigest()


def open_workdir(
    config: ConfigDict,
    folder: pathlib.Path,
    dataset: Dataset,
    schema: InputSchema,
    transferred: Transferred | None,
) -> None:
    """Makes the folder of a run, or checks that it is the folder of this very run.

    Only the knobs of MAY_CHANGE may differ from those of the folder and, under a constant learning
    rate, the number of steps: such a run can be made longer.
    """
    if (folder / "config.json").is_file():
        check_workdir(config, folder, dataset)
    else:
        make_workdir(config, folder, dataset, schema, transferred)


def make_workdir(
    config: ConfigDict,
    folder: pathlib.Path,
    dataset: Dataset,
    schema: InputSchema,
    transferred: Transferred | None,
) -> None:
    """Makes the folder of a run. Raises ValueError if it has other files."""
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CHECKSUMS_FILE).unlink(missing_ok=True)
    keep_variables(dataset, folder, schema.variables, schema.features)
    origin = {
        "init_run": config.init.run or None,
        "init_vocab": transferred.tokens if transferred else None,
        "labels": labels_fingerprint(config),
    }
    write_json(folder / "environment.json", environment(dataset.fingerprint) | origin)
    write_config(folder, config)


def check_workdir(config: ConfigDict, folder: pathlib.Path, dataset: Dataset) -> None:
    """Checks that a folder is of this run, and adds this start to its environment."""
    changed = differences(read_config(folder), config)
    for name in MAY_CHANGE:
        changed.pop(name, None)
    if config.optim.schedule == "constant":
        changed.pop("config.train.steps", None)
    if changed:
        lines = [f"{name}: {old!r} there, {new!r} now" for name, (old, new) in changed.items()]
        raise ValueError(
            f"{folder} has the run of another config. Name another workdir, or use its values:\n  "
            + "\n  ".join(lines)
        )
    stored = read_json(folder / "environment.json", ENVIRONMENT)
    if stored["labels"] != labels_fingerprint(config):
        raise ValueError(f"{config.label.path} has changed since {folder} was begun.")
    if stored["data"] != dataset.fingerprint:
        check_catalog(vocabularies_of(folder), dataset.vocabularies, str(dataset.path))
        raise ValueError(f"{dataset.path} is not the data set that {folder} was trained on.")
    write_json(folder / "environment.json", add_start(stored))
    write_config(folder, config)
