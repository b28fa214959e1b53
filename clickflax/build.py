"""The model that a config describes."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from clickflax.data.features import Feature
from clickflax.data.variables import Variable
from clickflax.events import RESERVED
from clickflax.model.attention import find_attention
from clickflax.model.embedder import COMBINE, DTYPES, POSITIONS, Embedder
from clickflax.model.encoder import ACTIVATIONS, NORMS, REMAT, Encoder
from clickflax.model.heads import OUTPUTS, ItemHead, LabelHead
from clickflax.model.model import Model
from clickflax.tasks.tasks import LABELS, find_tasks


def initializer(model: ConfigDict) -> nn.initializers.Initializer:
    """The initialiser of tables and kernels that `config.model.initializer` names."""
    initializers = {
        "normal": nn.initializers.normal(model.init_stddev),
        "truncated_normal": nn.initializers.truncated_normal(model.init_stddev),
        "xavier": nn.initializers.xavier_normal(),
    }
    return initializers[check("initializer", model.initializer, initializers)]


def check(knob: str, value: str, choices: Any) -> str:
    """The value, when it is one of the choices."""
    if value not in choices:
        raise ValueError(f"model.{knob}={value!r} is not one of {sorted(choices)}.")
    return value


def check_model(model: ConfigDict, sizes: Mapping[str, int], scored: tuple[str, ...]) -> None:
    """Refuses a model that does not go with its variables, or with itself."""
    if "item" not in sizes:
        raise ValueError(f"data.variables={tuple(sizes)!r} must name 'item'.")
    unscored = [name for name in scored if not sizes.get(name)]
    if unscored:
        raise ValueError(
            f"a task asks for {unscored[0]!r}, which data.variables={tuple(sizes)!r} must name."
        )
    wrong = sorted(
        name
        for name in assignments("model.widths", model.widths)
        if name not in sizes or name == "item"
    )
    if wrong:
        others = [name for name in sizes if name != "item"]
        raise ValueError(f"model.widths names {wrong[0]!r}; these may have their own: {others}.")
    if model.heads < 1 or model.width % model.heads:
        raise ValueError(
            f"model.width={model.width} is not a multiple of model.heads={model.heads}."
        )
    if model.max_len < 2:
        raise ValueError(f"model.max_len={model.max_len} must be at least 2.")
    if sizes["item"] - RESERVED < 2:
        items = sizes["item"] - RESERVED
        raise ValueError(f"The catalog has {items} item; there is nothing to choose from.")


def build_heads(
    model: ConfigDict,
    sizes: Mapping[str, int],
    scored: tuple[str, ...],
    labels: Mapping[str, int],
) -> dict[str, ItemHead | LabelHead]:
    """What answers: by the variables that are scored, and by the labels."""
    init = initializer(model)
    activation = check("activation", model.activation, ACTIVATIONS)
    widths = assignments("model.widths", model.widths)
    items = {
        name: ItemHead(
            items=sizes[name] - RESERVED,
            width=model.width,
            output=check("output", model.output, OUTPUTS),
            bias=model.output_bias,
            tied=model.tied and name not in widths,
            cosine=model.cosine,
            temperature=model.temperature,
            repeat=model.repeat and name == "item",
            activation=activation,
            kernel_init=init,
        )
        for name in scored
    }
    told = {
        name: LabelHead(outputs, model.width, activation, init) for name, outputs in labels.items()
    }
    return {**items, **told}


def build_model(
    model: ConfigDict,
    sizes: Mapping[str, int],
    features: Mapping[str, int] | None = None,
    scored: tuple[str, ...] = ("item",),
    labels: Mapping[str, int] | None = None,
) -> Model:
    """The model of `config.model`, for variables and features of items of so many ids (0: numbers),
    with heads for the variables that are `scored`, and for labels of so many outputs.

    Raises ValueError for a value that does not go with another, or that is not one of the choices.
    """
    check_model(model, sizes, scored)
    widths = assignments("model.widths", model.widths)
    init = initializer(model)
    activation = check("activation", model.activation, ACTIVATIONS)
    norm = check("norm", model.norm, NORMS)
    dtype = check("dtype", model.dtype, DTYPES)
    attend = find_attention(
        model.attention,
        jax.default_backend(),
        dtype,
        model.width // model.heads,
        model.attention_dropout,
    )
    block = REMAT[check("remat", model.remat, REMAT)](attend)
    return Model(
        Embedder(
            sizes=dict(sizes),
            widths=widths,
            features=dict(features or {}),
            combine=check("combine", model.combine, COMBINE),
            width=model.width,
            max_len=model.max_len,
            positions=check("positions", model.positions, POSITIONS),
            scale=model.scale_embeddings,
            norm=model.embedding_norm,
            dropout=model.dropout,
            dtype=dtype,
            table_init=init,
        ),
        Encoder(
            layers=model.layers,
            norm=norm,
            block=functools.partial(
                block,
                heads=model.heads,
                feed_forward=model.feed_forward,
                norm=norm,
                activation=activation,
                dropout=model.dropout,
                attention_dropout=model.attention_dropout,
                kernel_init=init,
            ),
        ),
        build_heads(model, sizes, scored, labels or {}),
    )


def assignments(knob: str, pairs: tuple[str, ...]) -> dict[str, int]:
    """The numbers of a knob such as `("price=20",)`."""
    found = {}
    for pair in pairs:
        name, _, number = pair.rpartition("=")
        if not number.isdigit() or int(number) < 1:
            raise ValueError(f"{knob}: {pair!r} is not of the form price=20.")
        found[name] = int(number)
    return found


def sizes_of(variables: Mapping[str, Variable | Feature]) -> dict[str, int]:
    """How many ids each variable, or feature of the items, has."""
    return {name: variable.size for name, variable in variables.items()}


def heads_of(config: ConfigDict) -> tuple[tuple[str, ...], dict[str, int]]:
    """The variables that the tasks of a config score, and the outputs of its labels."""
    tasks = find_tasks(config.tasks, config.label.causal, config.label.at)
    outputs = config.label.classes if config.label.kind == "classes" else 1
    labels = {name: outputs if name == "label" else 1 for name in tasks if name in LABELS}
    scored = dict.fromkeys(task.head for name, task in tasks.items() if name not in LABELS)
    return tuple(scored), labels
