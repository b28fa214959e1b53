"""Validation of the values of a config that concern labels."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from clickflax.config.default import default
from clickflax.model.embedder import ADDED
from clickflax.tasks.find import find_task
from clickflax.tasks.kinds import LABEL_KINDS
from clickflax.tasks.task import LABELS_AT, TASKS, LabelSettings, Task


def check_labels(config: ConfigDict, tasks: Mapping[str, Task]) -> None:
    """Raises ValueError for labels that a model could infer from what comes after them, and for
    knobs that no label uses.
    """
    labels = [task for task in tasks.values() if task.labels]
    check_label_knobs(config, labels, tuple(tasks))
    for task in labels:
        sessions = bool(config.data.chain)
        if not (config.label.causal or task.may_look_ahead(config.label.after, sessions)):
            raise ValueError(
                f"config.label.causal=False: {task.name} would read what comes after a label. Only "
                "labels of a file, and a purchase that is predicted once a sequence "
                "(config.label.after, without config.data.chain), may be read from both sides."
            )
    if config.label.at == "cls":
        check_cls(config)
    if config.data.position_from == "end" and config.model.positions in ADDED:
        for task in tasks.values():
            if (task.labels and task.causal) or task.baskets:
                raise ValueError(
                    f"config.data.position_from='end': positions counted from the end would tell "
                    f"{task.name} how many events are to come. Set it to 'start', or set "
                    "config.label.causal=False."
                )
    if config.data.validation_users != -1 and len(labels) == len(tasks):
        raise ValueError(
            f"config.data.validation_users={config.data.validation_users} is for tasks that rank "
            "items. The validation of labels is a period or a file of its own: leave it at -1."
        )


def check_cls(config: ConfigDict) -> None:
    """Raises ValueError where labels at CLS cannot be learned."""
    if config.label.causal or not config.data.cls:
        raise ValueError(
            "config.label.at='cls' predicts at the CLS before all events: set config.data.cls=True "
            "and config.label.causal=False, as a causal model sees nothing there."
        )
    if config.data.window != "last":
        raise ValueError(
            f"config.data.window={config.data.window!r}: CLS has the label of the last event of a "
            "window. Set config.data.window='last', or config.label.at='event'."
        )


def check_label_knobs(config: ConfigDict, labels: list[Task], names: tuple[str, ...]) -> None:
    """Raises ValueError for knobs of `config.label` that no task among `labels` uses."""
    label = config.label
    plain = default().label
    for name, choices in (("kind", sorted(LABEL_KINDS)), ("at", LABELS_AT)):
        if label[name] not in choices:
            raise ValueError(f"config.label.{name}={label[name]!r} is not one of {choices}.")
    users = users_of_knobs(config)
    for name in label:
        users_of_this = users.get(name, tuple(dict.fromkeys(sum(users.values(), ()))))
        if label[name] != plain[name] and not set(users_of_this) & {task.name for task in labels}:
            raise ValueError(
                f"config.label.{name}={label[name]!r} is for {', '.join(users_of_this)}; "
                f"config.tasks={names} has none of these."
            )
    kinds = {task.kind.name for task in labels}
    for name, kind in (("positive", "binary"), ("classes", "classes")):
        if label[name] != plain[name] and kind not in kinds:
            raise ValueError(
                f"config.label.{name}={label[name]!r} is for labels of the kind {kind!r}; now "
                f"config.label.kind={label.kind!r}."
            )


def users_of_knobs(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """The tasks that use each knob of `config.label`, for knobs that not all labels use."""
    settings = LabelSettings(**{name: config.label[name] for name in LabelSettings._fields})
    labels = [find_task(name, settings) for name in TASKS if not name.endswith("*")]
    knobs = {knob for task in labels for knob in task.label_knobs}
    return {knob: tuple(task.name for task in labels if knob in task.label_knobs) for knob in knobs}
