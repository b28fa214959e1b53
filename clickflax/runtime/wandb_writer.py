"""Metrics of a run at Weights & Biases, under the same names as in metrics.jsonl."""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from clickflax.runtime.files import read_json, write_json
from clickflax.runtime.redact import without_secrets


class WandbWriter:
    """Writes metrics to a project of Weights & Biases; WANDB_MODE and other variables apply.

    The id of the run is kept in its folder, so that a resumed run continues the same one if the
    project is the same. W&B ignores steps that it already has, which a resumed run repeats exactly.
    Raises ValueError without the extra `wandb` or a login.
    """

    def __init__(self, project: str, folder: pathlib.Path, hparams: Mapping[str, Any]):
        try:
            import wandb
            import wandb.errors
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{error}: config.train.wandb={project!r} needs the extra `wandb`: "
                "pip install 'clickflax[wandb]'."
            ) from error
        secret = any(without_secrets(word) != word for word in sys.argv)  # W&B keeps the command
        kept = folder / "wandb.json"
        known = read_json(kept, {"project": str, "id": str}) if kept.is_file() else {}
        try:
            self._run = wandb.init(
                project=project,
                id=known.get("id") if known.get("project") == project else None,
                name=folder.resolve().name,
                dir=folder,
                config=dict(hparams),
                resume="allow",
                # Its messages would break the progress line.
                settings=wandb.Settings(silent=True, console="off", x_disable_meta=secret),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"Weights & Biases: {error}. Try `wandb login`, or WANDB_MODE=offline."
            ) from error
        write_json(kept, {"project": project, "id": self._run.id})

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def close(self, failed: bool) -> None:
        """Sends what is left, or writes it to the folder if offline."""
        self._run.finish(exit_code=int(failed))
