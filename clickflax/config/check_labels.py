"""Whether the values of a config make sense for the labels that it asks for."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from clickflax.config.default import default
from clickflax.model.embedder import ADDED
from clickflax.tasks.losses import LABEL_LOSSES
from clickflax.tasks.task import BASKET, LABELS, LABELS_AT, Task

# The tasks that a knob of `config.label` is about, where these are not all that tell labels.
ABOUT = {
    "buy": ("purchase", "returns"),
    "back": ("returns",),
    "after": ("purchase",),
    "path": ("label",),
    "kind": ("label",),
    "classes": ("label",),
}


def check_labels(config: ConfigDict, tasks: Mapping[str, Task]) -> None:
    """Refuses labels that could be told from what comes after them, and knobs without a label."""
    check_label_knobs(config, tasks)
    whole = [name for name in tasks if name in LABELS and name != "label"]
    once = whole == ["purchase"] and config.label.after and not config.data.chain
    if whole and not config.label.causal and not once:
        raise ValueError(
            f"{whole[-1]}: config.label.causal=False would read what comes after a label; only a "
            "purchase that is asked once a sequence (config.label.after, and no config.data.chain) "
            "and labels of a file can be so."
        )
    if config.label.at == "cls" and (config.label.causal or not config.data.cls):
        raise ValueError(
            "config.label.at='cls' asks at the CLS before all events: set config.data.cls=True, and"
            " config.label.causal=False, as a causal model sees nothing there."
        )
    if config.label.at == "cls" and config.data.window != "last":
        raise ValueError(
            f"config.data.window={config.data.window!r}: CLS has the label of the last event of a "
            "window. Set config.data.window='last', or config.label.at='event'."
        )
    if config.data.position_from == "end" and config.model.positions in ADDED:
        for name, task in tasks.items():
            if (name in LABELS and task.causal) or name == BASKET:
                raise ValueError(
                    f"{name}: positions that are counted from the end tell how much is to come. "
                    "Set config.data.position_from='start', or config.label.causal=False."
                )
    if config.data.validation_users != -1 and not tasks.keys() - set(LABELS):
        raise ValueError(
            f"config.data.validation_users={config.data.validation_users} is for items; the "
            "validation of labels is that of their period or part. Leave it at -1."
        )


def check_label_knobs(config: ConfigDict, tasks: Mapping[str, Task]) -> None:
    """Refuses what is said of labels that nothing asks for, or of another kind of them."""
    label, plain = config.label, default().label
    for name, choices in (("kind", sorted(LABEL_LOSSES)), ("at", LABELS_AT)):
        if label[name] not in choices:
            raise ValueError(f"config.label.{name}={label[name]!r} is not one of {choices}.")
    for name in label:
        about = ABOUT.get(name, LABELS)
        if label[name] != plain[name] and not tasks.keys() & set(about):
            raise ValueError(
                f"config.label.{name}={label[name]!r} is about {', '.join(about)}, and config."
                f"tasks={tuple(tasks)} has none of these."
            )
    kinds = {label.kind if name == "label" else "binary" for name in tasks if name in LABELS}
    for name, kind in (("positive", "binary"), ("classes", "classes")):
        if label[name] != plain[name] and kind not in kinds:
            raise ValueError(
                f"config.label.{name}={label[name]!r} is about labels of the kind {kind!r}, and "
                f"here is config.label.kind={label.kind!r}."
            )
