"""Validation of the values of a config, alone and together, before anything is opened."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from clickflax.config.check_labels import check_labels
from clickflax.config.check_numbers import check_numbers
from clickflax.config.default import default, differences, knobs
from clickflax.config.resolve import tasks_of
from clickflax.model.blocks.registry import BLOCKS
from clickflax.model.kernels import KERNELS
from clickflax.tasks.cloze import REPLACE
from clickflax.tasks.losses import CATALOG_LOSSES
from clickflax.tasks.negatives import AVOID, DRAWN
from clickflax.tasks.sampled_losses import SAMPLED_LOSSES
from clickflax.tasks.task import Task, qualify

ITEM_KNOBS = ("config.model.cosine", "config.model.temperature")  # of the scores of items

Tasks = Mapping[str, Task]


def check_config(config: ConfigDict) -> None:
    """Raises ValueError for values that make no sense, or that contradict each other."""
    check_numbers(config)
    tasks = tasks_of(config)
    check_tasks(config, tasks)
    check_devices(config)
    check_model_knobs(config)
    check_split(config)
    check_mask(config, tasks)
    check_loss(config, tasks)
    check_candidates(config, tasks)
    check_conditions(config, tasks)
    check_labels(config, tasks)
    check_init(config)
    check_choices(config, tasks)


def check_choices(config: ConfigDict, tasks: Tasks) -> None:
    """Raises ValueError, with the choices, for a word that is not one of them."""
    losses = SAMPLED_LOSSES if config.loss.negatives else {*SAMPLED_LOSSES, *CATALOG_LOSSES}
    values = knobs(config)
    for name, choices in {
        "config.train.monitor": validation_metrics(config, tasks),
        "config.mask.replace": sorted(REPLACE),
        "config.loss.name": sorted(losses),
        "config.loss.drawn": DRAWN,
        "config.loss.avoid": AVOID,
        "config.eval.drawn": ["popularity", "uniform"],
        "config.data.position_from": ["end", "start"],
        "config.init.vocab": ["remap", "same"],
    }.items():
        if values[name] not in choices:
            cutoffs = f" (config.eval.cutoffs={config.eval.cutoffs})" if "monitor" in name else ""
            raise ValueError(f"{name}={values[name]!r} is not one of {choices}{cutoffs}.")


def check_tasks(config: ConfigDict, tasks: Tasks) -> None:
    """Raises ValueError for tasks that do not go with their weights, the data or the model."""
    if len(config.task_weights) not in (1, len(tasks)):
        raise ValueError(
            f"config.task_weights={config.task_weights} must be one number, or one for "
            f"each of config.tasks={tuple(tasks)}."
        )
    if len(config.task_where) not in (1, len(tasks)):
        raise ValueError(
            f"config.task_where={config.task_where} must be one condition, or one for each of "
            f"config.tasks={tuple(tasks)}."
        )
    for name, task in tasks.items():
        if task.baskets and not config.data.chain:
            raise ValueError(
                f"config.tasks={tuple(tasks)}: {name} needs config.data.chain, which says where a "
                "basket begins: a variable such as invoice, or a pause such as 30m."
            )
    if config.model.repeat and "item" not in {task.head for task in tasks.values()}:
        raise ValueError(
            f"config.model.repeat=True changes the scores of items, which no task of config.tasks="
            f"{tuple(tasks)} predicts."
        )
    block = BLOCKS.find(config.model.block, "config.model.block")
    both_ways = [name for name, task in tasks.items() if not task.causal]
    if block.causal_only and both_ways:
        raise ValueError(
            f"config.model.block={config.model.block!r} sees earlier events only, and the task "
            f"{both_ways[0]!r} needs later ones too: take causal tasks such as next_item, or "
            "another block."
        )


def check_devices(config: ConfigDict) -> None:
    """Raises ValueError for knobs that do not go with tables that devices share."""
    train = config.train
    if train.model_devices > 1 and (train.parallel == "pmap" or train.softmax_chunk):
        raise ValueError(
            f"config.train.parallel={train.parallel!r} and config.train.softmax_chunk="
            f"{train.softmax_chunk} must be 'jit' and 0 if config.train.model_devices="
            f"{train.model_devices} devices share a table."
        )


def check_model_knobs(config: ConfigDict) -> None:
    """Raises ValueError for knobs of the model that contradict others."""
    model = config.model
    if model.initializer == "xavier" and model.init_stddev != default().model.init_stddev:
        raise ValueError(
            f"config.model.init_stddev={model.init_stddev} is for a normal distribution; "
            "config.model.initializer='xavier' derives it from sizes."
        )
    kernel = KERNELS.get(model.attention)
    if kernel and not kernel.packed and config.data.packing:
        raise ValueError(
            f"config.model.attention={model.attention!r} needs one sequence per row: set "
            "config.data.packing=False, or config.model.attention='auto'."
        )


def check_split(config: ConfigDict) -> None:
    """Raises ValueError for knobs of another split, or of other windows."""
    plain = default().data
    data = config.data
    for names, needed, satisfied in (
        (("validation_from", "test_from", "test_until"), "a split by time", "time" in data.split),
        (("validation_share", "test_share"), "a split by ratio", "ratio" in data.split),
        (("stride",), "config.data.window='sliding'", data.window == "sliding"),
    ):
        for name in names:
            if data[name] != plain[name] and not satisfied:
                raise ValueError(
                    f"config.data.{name}={data[name]!r} needs {needed}; now config.data.split="
                    f"{data.split!r} and config.data.window={data.window!r}."
                )


def check_mask(config: ConfigDict, tasks: Tasks) -> None:
    """Raises ValueError for knobs of masking if no task masks events."""
    plain = default().mask
    for name in ("ratio", "replace", "last"):
        if config.mask[name] != plain[name] and not any(task.masks for task in tasks.values()):
            raise ValueError(
                f"config.mask.{name}={config.mask[name]!r} is for tasks that mask events, such as "
                f"masked_item; config.tasks={tuple(tasks)} mask none."
            )


def check_conditions(config: ConfigDict, tasks: Tasks) -> None:
    """Raises ValueError for conditions that are not variables or that the model cannot use."""
    choices = [name for name in config.data.variables if name != "item" and "." not in name]
    wrong = [name for name in config.data.given if name not in choices]
    if wrong:
        raise ValueError(f"config.data.given names {wrong[0]!r}; it may name {choices}.")
    heads = {task.head for task in tasks.values() if task.conditional}
    if config.data.given and not any(heads - {name} for name in config.data.given):
        raise ValueError(
            f"config.data.given={tuple(config.data.given)}: no task of config.tasks={tuple(tasks)} "
            "predicts another variable, which these could condition."
        )
    names = [pair.partition("=")[0] for pair in config.eval.given]
    if len(set(names)) < len(names):
        raise ValueError(f"config.eval.given={tuple(config.eval.given)} names a variable twice.")
    for pair in config.eval.given:
        name, equals, _ = pair.partition("=")
        if not equals or name not in config.data.given:
            raise ValueError(
                f"config.eval.given: {pair!r} is not of the form action=buy with a variable of "
                f"config.data.given={tuple(config.data.given)}."
            )


def check_loss(config: ConfigDict, tasks: Tasks) -> None:
    """Raises ValueError for knobs of losses that nothing uses."""
    if not any(task.ranks for task in tasks.values()):
        _no_item_knobs(config, tasks)
    if not config.loss.negatives:
        _no_negative_knobs(config)
    elif config.train.softmax_chunk:
        raise ValueError(
            f"config.train.softmax_chunk={config.train.softmax_chunk} is for losses over the whole "
            f"catalog; config.loss.negatives={config.loss.negatives}."
        )
    _check_loss_name(config.loss)


def _no_item_knobs(config: ConfigDict, tasks: Tasks) -> None:
    """Raises ValueError for a knob of the scores of items that is not at its default."""
    changed = differences(default(), config)
    for name, (_, value) in changed.items():
        if name.startswith("config.loss.") or name in ITEM_KNOBS:
            raise ValueError(
                f"{name}={value!r} is for tasks that rank items; config.tasks={tuple(tasks)} "
                "predict labels."
            )


def _no_negative_knobs(config: ConfigDict) -> None:
    """Raises ValueError for a loss or a knob that needs negatives."""
    loss = config.loss
    plain = default().loss
    if loss.name in SAMPLED_LOSSES and loss.name not in CATALOG_LOSSES:
        raise ValueError(f"config.loss.name={loss.name!r} needs config.loss.negatives.")
    for name in ("drawn", "shared", "avoid", "log_q"):
        if loss[name] != plain[name]:
            raise ValueError(
                f"config.loss.{name}={loss[name]!r} needs config.loss.negatives: set both, or none."
            )


def _check_loss_name(loss: ConfigDict) -> None:
    """Raises ValueError for knobs of another loss."""
    if loss.log_q and (loss.name != "softmax" or loss.avoid == "nothing"):
        raise ValueError(
            "config.loss.log_q=True needs config.loss.name='softmax' and config.loss.avoid="
            f"'target' or 'history', not {loss.name!r} and {loss.avoid!r}."
        )
    if loss.calibration != default().loss.calibration and loss.name != "gbce":
        raise ValueError(
            f"config.loss.calibration={loss.calibration} is for config.loss.name='gbce', not "
            f"{loss.name!r}."
        )
    if loss.smoothing and loss.negatives:
        raise ValueError(
            f"config.loss.smoothing={loss.smoothing} is for losses over the whole catalog; "
            f"config.loss.negatives={loss.negatives}."
        )


def check_candidates(config: ConfigDict, tasks: Tasks) -> None:
    """Raises ValueError for knobs of candidates that nothing uses."""
    evaluation = config.eval
    if evaluation.negatives and not any(task.ranks for task in tasks.values()):
        raise ValueError(
            f"config.eval.negatives={evaluation.negatives} is for tasks that rank items; "
            f"config.tasks={tuple(tasks)} predict labels."
        )
    if not evaluation.unseen and not (evaluation.negatives and evaluation.filter_seen):
        raise ValueError(
            "config.eval.unseen=False needs config.eval.negatives and config.eval.filter_seen="
            "True, as it says how seen items are left out of the candidates."
        )
    if evaluation.drawn != default().eval.drawn and not evaluation.negatives:
        raise ValueError(
            f"config.eval.drawn={evaluation.drawn!r} needs config.eval.negatives, the number of "
            "candidates to draw."
        )


def check_init(config: ConfigDict) -> None:
    """Raises ValueError for knobs of a transfer or of thawing without what they refer to."""
    init = config.init
    if not init.run and (init.skip or init.vocab == "remap"):
        raise ValueError(
            f"config.init.skip={init.skip} and config.init.vocab={init.vocab!r} need "
            "config.init.run, the run to start from."
        )
    if init.thaw and not init.freeze:
        raise ValueError(
            f"config.init.thaw={init.thaw} needs config.init.freeze, the parameters to thaw."
        )


def validation_metrics(config: ConfigDict, tasks: Tasks) -> list[str]:
    """Names of the metrics that a validation has, as `config.train.monitor` may name them."""
    names: dict[str, Any] = {}
    for name, task in tasks.items():
        own = dict.fromkeys(task.metrics(tuple(config.eval.cutoffs)))
        names |= qualify(name, own, len(tasks) > 1)
    return list(names)
