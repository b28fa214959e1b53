"""Whether the values of a config make sense, alone and together, before anything is opened."""

import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from clickflax.config.check_labels import check_labels
from clickflax.config.default import default, differences, knobs
from clickflax.tasks.label_metrics import LABEL_METRICS
from clickflax.tasks.losses import CATALOG_LOSSES
from clickflax.tasks.negatives import AVOID, DRAWN
from clickflax.tasks.ranking_metrics import RANKING_METRICS
from clickflax.tasks.sampled_losses import SAMPLED_LOSSES
from clickflax.tasks.task import (
    BASKET,
    LABELS,
    MASKED,
    NEXT,
    REPLACE,
    Task,
    find_tasks,
)

# The least and the most that a number may be.
RANGES = {
    "config.seed": (0, 2**31 - 1),
    "config.data.validation_users": (-1, math.inf),
    "config.mask.ratio": (0.001, 1),
    "config.mask.last": (0, 1),
    "config.mask.unknown": (0, 1),
    "config.loss.negatives": (0, math.inf),
    "config.loss.calibration": (0, 1),
    "config.loss.smoothing": (0, 0.999),
    "config.label.after": (-1, math.inf),
    "config.label.classes": (2, math.inf),
    "config.label.positive": (0, math.inf),
    "config.label.share": (1e-6, 1),
    "config.model.width": (1, math.inf),
    "config.model.layers": (1, math.inf),
    "config.model.heads": (1, math.inf),
    "config.model.max_len": (2, math.inf),
    "config.model.temperature": (1e-4, math.inf),
    "config.model.feed_forward": (1, math.inf),
    "config.model.init_stddev": (0, math.inf),
    "config.model.dropout": (0, 0.99),
    "config.model.attention_dropout": (0, 0.99),
    "config.optim.learning_rate": (0, math.inf),
    "config.optim.warmup_steps": (0, math.inf),
    "config.optim.b1": (0, 1),
    "config.optim.b2": (0, 1),
    "config.optim.eps": (0, math.inf),
    "config.optim.weight_decay": (0, math.inf),
    "config.optim.clip_norm": (0, math.inf),
    "config.optim.layer_decay": (0.001, 1),
    "config.train.steps": (1, math.inf),
    "config.train.batch_size": (1, math.inf),
    "config.train.micro_rows": (0, math.inf),
    "config.train.softmax_chunk": (0, math.inf),
    "config.train.steps_at_once": (0, math.inf),
    "config.train.cpu_devices": (0, math.inf),
    "config.train.model_devices": (1, math.inf),
    "config.train.log_every": (1, math.inf),
    "config.train.eval_every": (1, math.inf),
    "config.train.patience": (0, math.inf),
    "config.data.validation_share": (0, 0.9),
    "config.data.test_share": (1e-6, 0.9),
    "config.eval.negatives": (0, math.inf),
    "config.eval.batch_size": (1, math.inf),
    "config.init.thaw": (0, math.inf),
}


ABOUT_ITEMS = ("config.model.cosine", "config.model.temperature")


def check_config(config: ConfigDict) -> None:
    """Refuses values that make no sense and that no other part would notice."""
    values = knobs(config)
    for name, (least, most) in RANGES.items():
        if not least <= values[name] <= most:
            wanted = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise ValueError(f"{name}={values[name]} must be {wanted}.")
    if not config.eval.cutoffs or min(config.eval.cutoffs) < 1:
        raise ValueError(f"config.eval.cutoffs={config.eval.cutoffs} must be numbers from 1 on.")
    tasks = find_tasks(config.tasks, config.label.causal, config.label.at)
    check_tasks(config, tasks)
    train = config.train
    if train.model_devices > 1 and (train.parallel == "pmap" or train.softmax_chunk):
        raise ValueError(
            f"config.train.parallel={train.parallel!r}, softmax_chunk={train.softmax_chunk}: where "
            f"model_devices={train.model_devices} share a table, leave these at 'jit' and 0."
        )
    model = config.model
    if model.initializer == "xavier" and model.init_stddev != default().model.init_stddev:
        raise ValueError(
            f"config.model.init_stddev={model.init_stddev} is for a normal distribution; with "
            "config.model.initializer='xavier' sizes say how wide it is."
        )
    check_split(config)
    check_mask(config, tasks)
    check_loss(config, tasks)
    check_candidates(config)
    check_given(config)
    check_labels(config, tasks)
    check_init(config)
    known = [metric for name in tasks for metric in metrics_of(config, name)]
    for name, choices in {
        "config.train.monitor": known,
        "config.mask.replace": sorted(REPLACE),
        "config.loss.name": sorted(
            SAMPLED_LOSSES if config.loss.negatives else {*SAMPLED_LOSSES, *CATALOG_LOSSES}
        ),
        "config.loss.drawn": DRAWN,
        "config.loss.avoid": AVOID,
        "config.eval.drawn": ["popularity", "uniform"],
        "config.data.position_from": ["end", "start"],
        "config.init.vocab": ["remap", "same"],
    }.items():
        if values[name] not in choices:
            raise ValueError(f"{name}={values[name]!r} is not one of {choices}.")
    if config.model.attention == "cudnn" and config.data.packing:
        raise ValueError(
            "config.model.attention='cudnn' wants one sequence a row: set "
            "config.data.packing=False, or config.model.attention='auto'."
        )


def check_tasks(config: ConfigDict, tasks: Mapping[str, Task]) -> None:
    """Refuses tasks that do not go with their weights and conditions, the data or the model."""
    if len(config.task_weights) not in (1, len(tasks)) or min(config.task_weights) <= 0:
        raise ValueError(
            f"config.task_weights={config.task_weights} must be one number above 0, or one for "
            f"each of config.tasks={tuple(tasks)}."
        )
    if len(config.task_where) not in (1, len(tasks)):
        raise ValueError(
            f"config.task_where={config.task_where} must be one condition, or one for each of "
            f"config.tasks={tuple(tasks)}."
        )
    if BASKET in tasks and not config.data.chain:
        raise ValueError("basket: config.data.chain must say what is a basket: invoice, or 30m.")
    if config.model.repeat and "item" not in {task.head for task in tasks.values()}:
        raise ValueError(
            f"config.model.repeat=True is about the scores of items, and none of config.tasks="
            f"{tuple(tasks)} asks for items."
        )
    if config.model.block == "gru" and not all(task.causal for task in tasks.values()):
        raise ValueError(
            f"config.model.block='gru' looks back alone, and config.tasks={tuple(tasks)} do not: "
            "it can answer next_item, not masked_item."
        )


def check_split(config: ConfigDict) -> None:
    """Refuses what is about another split, or about other windows."""
    plain, data = default().data, config.data
    for about, needs, is_so in (
        (("validation_from", "test_from", "test_until"), "a split by time", "time" in data.split),
        (("validation_share", "test_share"), "a split by ratio", "ratio" in data.split),
        (("stride",), "config.data.window='sliding'", data.window == "sliding"),
    ):
        for name in about:
            if data[name] != plain[name] and not is_so:
                raise ValueError(
                    f"config.data.{name}={data[name]!r} is about {needs}, and here are "
                    f"config.data.split={data.split!r}, config.data.window={data.window!r}."
                )


def check_mask(config: ConfigDict, tasks: Mapping[str, Task]) -> None:
    """Refuses what says how events are hidden where none are."""
    plain = default().mask
    for name in ("ratio", "replace", "last"):
        if config.mask[name] != plain[name] and not any(one.startswith(MASKED) for one in tasks):
            raise ValueError(
                f"config.mask.{name}={config.mask[name]!r} is about events that are hidden, and "
                f"config.tasks={tuple(tasks)} hide none: it is for masked_item and its like."
            )


def check_given(config: ConfigDict) -> None:
    """Refuses to tell what is no variable, or what the model was not trained to be told."""
    tasks = find_tasks(config.tasks, config.label.causal, config.label.at)
    may = [name for name in config.data.variables if name != "item" and "." not in name]
    wrong = [name for name in config.data.given if name not in may]
    if wrong:
        raise ValueError(f"config.data.given names {wrong[0]!r}; it may name {may}.")
    heads = {task.head for name, task in tasks.items() if name.startswith((NEXT, MASKED))}
    if config.data.given and not any(heads - {name} for name in config.data.given):
        raise ValueError(
            f"config.data.given={tuple(config.data.given)}: none of config.tasks={tuple(tasks)} "
            "asks for another variable, and can be told these."
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


def check_loss(config: ConfigDict, tasks: Mapping[str, Task]) -> None:
    """Refuses what says how items are learned where none are, and how negatives are drawn where
    there are none.
    """
    loss, plain = config.loss, default().loss
    if not tasks.keys() - set(LABELS):
        for name in differences(default(), config):
            if name.startswith("config.loss.") or name in ABOUT_ITEMS:
                raise ValueError(
                    f"{name}={knobs(config)[name]!r} is about the scores of items, and none of "
                    f"config.tasks={tuple(tasks)} asks for items."
                )
    if not loss.negatives:
        if loss.name in SAMPLED_LOSSES and loss.name not in CATALOG_LOSSES:
            raise ValueError(f"config.loss.name={loss.name!r} needs config.loss.negatives.")
        for name in ("drawn", "shared", "avoid", "log_q"):
            if loss[name] != plain[name]:
                raise ValueError(
                    f"config.loss.{name}={loss[name]!r} is about negatives: set "
                    "config.loss.negatives, or leave it."
                )
    elif config.train.softmax_chunk:
        raise ValueError(
            f"config.train.softmax_chunk={config.train.softmax_chunk} is for the whole catalog; "
            f"config.loss.negatives={loss.negatives}."
        )
    if loss.log_q and (loss.name != "softmax" or loss.avoid == "nothing"):
        raise ValueError(
            "config.loss.log_q=True is for softmax with config.loss.avoid='target' or 'history', "
            f"not {loss.name} with {loss.avoid!r}."
        )
    if loss.calibration != plain.calibration and loss.name != "gbce":
        raise ValueError(
            f"config.loss.calibration={loss.calibration} is for gbce, not {loss.name}."
        )
    if loss.smoothing and loss.negatives:
        raise ValueError(
            f"config.loss.smoothing={loss.smoothing} is for the whole catalog; "
            f"config.loss.negatives={loss.negatives}."
        )


def check_candidates(config: ConfigDict) -> None:
    """Refuses candidates where nothing is ranked, and a way to draw them where there are none."""
    tasks = find_tasks(config.tasks, config.label.causal, config.label.at)
    if config.eval.negatives and not tasks.keys() - set(LABELS):
        raise ValueError(
            f"config.eval.negatives={config.eval.negatives} is for what is ranked, and config."
            f"tasks={tuple(tasks)} tell labels."
        )
    if not config.eval.unseen and not (config.eval.negatives and config.eval.filter_seen):
        raise ValueError(
            "config.eval.unseen=False is about candidates of which seen ones are left out: set "
            "config.eval.negatives and config.eval.filter_seen=True, or leave it."
        )
    if config.eval.drawn != default().eval.drawn and not config.eval.negatives:
        raise ValueError(
            f"config.eval.drawn={config.eval.drawn!r} is about candidates: set "
            "config.eval.negatives, or leave it."
        )


def check_init(config: ConfigDict) -> None:
    """Refuses what says how to start from a run, or how to thaw, where there is nothing such."""
    init = config.init
    if not init.run and (init.skip or init.vocab == "remap"):
        raise ValueError(
            f"config.init.skip={init.skip} and config.init.vocab={init.vocab!r} are about the run "
            "to start from: name it in config.init.run."
        )
    if init.thaw and not init.freeze:
        raise ValueError(f"config.init.thaw={init.thaw}: name what to thaw in config.init.freeze.")


def metrics_of(config: ConfigDict, name: str) -> list[str]:
    """The metrics of a task that may be monitored."""
    if name in LABELS:
        own = list(LABEL_METRICS[config.label.kind if name == "label" else "binary"])
    else:
        own = [f"{metric}@{k}" for metric in RANKING_METRICS for k in config.eval.cutoffs]
    return own if len(config.tasks) == 1 else [f"{name}/{metric}" for metric in own]
