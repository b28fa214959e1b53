"""The metrics of a run at Weights & Biases, under the names that they have in metrics.jsonl."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any


class Mirror:
    """Writes metrics to a project of Weights & Biases, as WANDB_MODE and its like say.

    The identity of the run is kept in its folder, so that a start that resumes it goes on with the
    same one, as long as the project is the same. W&B ignores the steps that it has already, which
    a resumed run repeats to the bit. Raises ValueError without the extra `wandb`, or a login.
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
        kept = folder / "wandb.json"
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        try:
            self._run = wandb.init(
                project=project,
                id=known.get("id") if known.get("project") == project else None,
                name=folder.resolve().name,
                dir=folder,
                config=dict(hparams),
                resume="allow",
                # its own words would break the line of progress
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"Weights & Biases: {error}. `wandb login`, or WANDB_MODE=offline, may help."
            ) from error
        told = {"project": project, "id": self._run.id}
        kept.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def close(self, failed: bool) -> None:
        """Sends, or keeps in the folder, what is left."""
        self._run.finish(exit_code=int(failed))
