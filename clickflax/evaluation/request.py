"""What an evaluation asks that differs from its run's config."""

import dataclasses
import difflib
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from clickflax.config.check import check_candidates, check_conditions
from clickflax.config.default import override
from clickflax.config.resolve import tasks_of

# Schema of the settings of an evaluation in a JSON file.
REQUEST = {
    "data?": (str, None),
    "checkpoint?": str,
    "where?": (str, None),
    "given?": ([str], str, None),
    "labels?": (str, None),
    "filter_seen?": (bool, None),
    "cutoffs?": ([range(1, 1 << 31)], None),
    "negatives?": (range(1 << 31), None),
    "drawn?": (str, None),
    "unseen?": (bool, None),
    "lists?": bool,
    "features?": [str],
    "reference?": str,
    "groups?": bool,
}


@dataclasses.dataclass(frozen=True)
class EvalRequest:
    """Settings of an evaluation; None leaves a setting as the run's config has it."""

    data: str | None = None  # another prepared data set with the same vocabularies
    checkpoint: str = "best"
    where: str | None = None  # condition on the events that are predicted, such as action=buy
    given: tuple[str, ...] | None = None  # conditions on the target's event
    labels: str | None = None  # another file of labels
    filter_seen: bool | None = None
    cutoffs: tuple[int, ...] | None = None
    negatives: int | None = None  # candidates for each target; 0: all items
    drawn: str | None = None
    unseen: bool | None = None
    lists: bool = False  # keep top-k lists, and measure coverage, novelty, ...
    features: tuple[str, ...] = ()  # of the catalog, by which lists are diverse
    reference: str = ""  # folder of a run whose lists they are compared with
    groups: bool = False  # metrics by group of targets, too

    def __post_init__(self) -> None:
        if (self.features or self.reference) and not self.lists:
            raise ValueError("--features and --reference are about lists: add --lists.")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = "") -> "EvalRequest":
        """The request of a dictionary; an error begins with `where` the dictionary stands."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"settings are {known}."
                raise ValueError(f"{where}{name!r} is not a setting of an evaluation; {hint}")
        lists = {name: tuple(one) for name, one in values.items() if isinstance(one, list)}
        return cls(**{**values, **lists})

    def to_json(self) -> dict[str, Any]:
        """The settings that are not at their default."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    def apply(self, config: ConfigDict) -> ConfigDict:
        """The config of the run with the settings of this request."""
        values: dict[str, Any] = {
            "task_where": None if self.where is None else (self.where,),
            "label.path": self.labels,
            **{f"eval.{name}": getattr(self, name) for name in ("given", "filter_seen", "cutoffs")},
            **{f"eval.{name}": getattr(self, name) for name in ("negatives", "drawn", "unseen")},
        }
        if self.negatives == 0:
            # If all items are ranked, it does not matter how the run drew candidates.
            values["eval.drawn"] = self.drawn or "uniform"
            values["eval.unseen"] = self.unseen is not False
        changes = [f"config.{name}={value}" for name, value in values.items() if value is not None]
        config = override(config, changes)
        self.check(config)
        return config

    def check(self, config: ConfigDict) -> None:
        """Raises ValueError for a setting that the tasks of the run do not use."""
        tasks = tasks_of(config)
        check_conditions(config, tasks)
        check_candidates(config, tasks)
        names = tuple(tasks)
        if self.labels is not None and not any("path" in t.label_knobs for t in tasks.values()):
            raise ValueError(
                f"--labels={self.labels} needs a task with labels of a file, such as label; "
                f"config.tasks is {names}."
            )
        if not any(task.ranks for task in tasks.values()):
            for name in ("filter_seen", "cutoffs", "groups"):
                if getattr(self, name) not in (None, False):
                    raise ValueError(
                        f"--{name.replace('_', '-')} applies to ranking tasks only; config.tasks "
                        f"is {names}."
                    )
        if self.lists and not any(task.head == "item" for task in tasks.values()):
            raise ValueError(f"--lists needs a task that ranks items; config.tasks is {names}.")
        if not config.eval.negatives and (self.drawn, self.unseen) != (None, None):
            raise ValueError("--drawn and --unseen are about candidates: add --negatives.")

    def suffix(self, with_checkpoint: bool = True) -> str:
        """File-name suffix: every setting that changes numbers and differs from the run's config.

        It begins with a dot, as in ".negatives.100"; "" if nothing differs. Cut-offs are not in it.
        """
        parts = {
            "where": self.where,
            "given": None if self.given is None else ",".join(self.given),
            "negatives": self.negatives,
        }
        words = [f"{name}.{value}" for name, value in parts.items() if value is not None]
        if self.drawn is not None:
            words.append(self.drawn)
        if self.unseen is not None:
            words.append("unseen" if self.unseen else "all")
        if self.filter_seen is not None:
            words.append("filter-seen" if self.filter_seen else "no-filter-seen")
        for name in ("data", "labels"):
            path = getattr(self, name)
            if path is not None:
                words.append(f"{name}.{short_name(path)}")
        if with_checkpoint and self.checkpoint != "best":
            words.append(self.checkpoint)
        return "".join(f".{word}".replace("|", "+").replace("/", "_") for word in words)


def short_name(path: str) -> str:
    """The last part of a path, with a hash that tells it from others of that name."""
    return f"{pathlib.PurePath(path).name[:80]}.{hashlib.sha256(path.encode()).hexdigest()[:6]}"
