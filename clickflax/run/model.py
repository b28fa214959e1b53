"""The model that a config describes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from clickflax.batch import RESERVED
from clickflax.config.default import default
from clickflax.config.resolve import tasks_of
from clickflax.data.item_features import ItemFeature
from clickflax.data.variables import Variable
from clickflax.model.attention import find_attention
from clickflax.model.blocks import ACTIVATIONS, BLOCKS, HSTU, NORMS, Recurrent
from clickflax.model.embedder import ADDED, COMBINE, DTYPES, POSITIONS, Embedder
from clickflax.model.encoder import REMAT, Encoder
from clickflax.model.heads import OUTPUTS, ItemHead, LabelHead
from clickflax.model.model import Model


def initializer(model: ConfigDict) -> nn.initializers.Initializer:
    """The initialiser of tables and kernels that `config.model.initializer` names."""
    initializers = {
        "normal": nn.initializers.normal(model.init_stddev),
        "truncated_normal": nn.initializers.truncated_normal(model.init_stddev),
        "xavier": nn.initializers.xavier_normal(),
    }
    return initializers[check_choice("initializer", model.initializer, initializers)]


def check_choice(knob: str, value: str, choices: Any) -> str:
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
    widths = assignments("model.widths", model.widths)
    embedded = [name for name in sizes if name != "time" or not model.relative_time]
    wrong = sorted(widths.keys() - set(embedded))
    if wrong:
        raise ValueError(f"model.widths names {wrong[0]!r}; these may have their own: {embedded}.")
    if "item" in widths and "item" in scored and model.output != "dense":
        raise ValueError(
            f"model.widths: items of width {widths['item']} are scored by answers of that width: "
            "set model.output='dense'."
        )
    if model.heads < 1 or (model.block != "gru" and model.width % model.heads):
        raise ValueError(
            f"model.width={model.width} is not a multiple of model.heads={model.heads}."
        )
    check_block_knobs(model)
    if model.relative_time and sizes.get("time") != 0:
        raise ValueError(
            "model.relative_time=True compares the times of events: data.variables must name "
            f"'time', as a number; it is {tuple(sizes)!r}."
        )
    if model.max_len < 2:
        raise ValueError(f"model.max_len={model.max_len} must be at least 2.")
    for name in ("item", *scored):
        if sizes[name] - RESERVED < 2:
            values = f"{sizes[name] - RESERVED} {name}"
            raise ValueError(f"The catalog has {values}; there is nothing to choose from.")


OF_TRANSFORMERS = ("norm", "feed_forward", "glu", "gate", "attention")
OF_TRANSFORMERS += ("attention_dropout", "remat")
OF_ATTENTION = ("heads", "relative_time")


def check_block_knobs(model: ConfigDict) -> None:
    """Refuses what the blocks of `config.model.block` do not have."""
    check_choice("block", model.block, BLOCKS)
    if model.block == "transformer":
        if model.gate and model.norm != "pre":
            raise ValueError(f"model.gate=True wants model.norm='pre', not {model.norm!r}.")
        if model.positions == "rotary" and model.width // model.heads % 2:
            raise ValueError(
                f"model.positions='rotary' turns pairs of numbers: model.width={model.width} by "
                f"model.heads={model.heads} is odd."
            )
        return
    plain = default().model
    for name in OF_TRANSFORMERS + (OF_ATTENTION if model.block == "gru" else ()):
        if model[name] != plain[name]:
            raise ValueError(f"model.{name}={model[name]!r}: model.block={model.block!r} has none.")
    if model.positions not in (*ADDED, "none"):
        raise ValueError(
            f"model.positions={model.positions!r} is for the attention of a transformer; "
            f"model.block={model.block!r}."
        )


def build_heads(
    model: ConfigDict,
    sizes: Mapping[str, int],
    scored: tuple[str, ...],
    labels: Mapping[str, int],
) -> dict[str, ItemHead | LabelHead]:
    """What answers: by the variables that are scored, and by the labels."""
    init = initializer(model)
    activation = check_choice("activation", model.activation, ACTIVATIONS)
    widths = assignments("model.widths", model.widths)
    items = {
        name: ItemHead(
            items=sizes[name] - RESERVED,
            width=widths[name] if name == "item" and name in widths else model.width,
            output=check_choice("output", model.output, OUTPUTS),
            bias=model.output_bias,
            tied=model.tied and (name == "item" or name not in widths),
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
    blind: bool = False,
) -> Model:
    """The model of `config.model`, for variables and features of items of so many ids (0: numbers),
    with heads for the variables that are `scored`, and for labels of so many outputs. A `blind` one
    knows no item.

    Raises ValueError for a value that does not go with another, or that is not one of the choices.
    """
    check_model(model, sizes, scored)
    init = initializer(model)
    positions = check_choice("positions", model.positions, POSITIONS)
    time = {"time"} if model.relative_time else set()
    return Model(
        Embedder(
            sizes={name: size for name, size in sizes.items() if name not in time},
            widths=assignments("model.widths", model.widths),
            features=dict(features or {}),
            combine=check_choice("combine", model.combine, COMBINE),
            width=model.width,
            max_len=model.max_len,
            positions=positions,
            scale=model.scale_embeddings,
            norm=model.embedding_norm,
            dropout=model.dropout,
            dtype=check_choice("dtype", model.dtype, DTYPES),
            table_init=init,
            blind=blind,
        ),
        Encoder(
            layers=model.layers,
            last_norm=model.block == "hstu"
            or (model.block == "transformer" and model.norm != "post"),
            shared=model.shared_layers,
            distances=model.max_len if positions == "disentangled" else 0,
            block=build_block(model),
            table_init=init,
        ),
        build_heads(model, sizes, scored, labels or {}),
        relative_time=model.relative_time,
    )


def build_block(model: ConfigDict) -> Callable[..., nn.Module]:
    """What makes a block of `config.model.block`."""
    check_choice("block", model.block, BLOCKS)
    common = {"dropout": model.dropout, "kernel_init": initializer(model)}
    if model.block == "gru":
        return functools.partial(Recurrent, **common)
    common |= {
        "heads": model.heads,
        "max_len": model.max_len,
        "relative_time": model.relative_time,
    }
    if model.block == "hstu":
        return functools.partial(HSTU, **common)
    attend = find_attention(
        model.attention,
        jax.default_backend(),
        model.dtype,
        model.width // model.heads,
        model.attention_dropout,
        biased=model.relative_time or model.positions in ("relative", "disentangled"),
    )
    return functools.partial(
        REMAT[check_choice("remat", model.remat, REMAT)](attend),
        feed_forward=model.feed_forward,
        norm=check_choice("norm", model.norm, NORMS),
        activation=check_choice("activation", model.activation, ACTIVATIONS),
        glu=model.glu,
        gate=model.gate,
        positions=model.positions,
        attention_dropout=model.attention_dropout,
        **common,
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


def sizes_of(variables: Mapping[str, Variable | ItemFeature]) -> dict[str, int]:
    """How many ids each variable, or feature of the items, has."""
    return {name: variable.size for name, variable in variables.items()}


def model_from_config(
    config: ConfigDict,
    variables: Mapping[str, Variable],
    features: Mapping[str, ItemFeature],
) -> Model:
    """Returns the model of a config, for the variables and item features that it reads.

    Raises ValueError as `build_model` does.
    """
    scored, labels = heads_of(config)
    return build_model(
        config.model,
        sizes_of(variables),
        sizes_of(features),
        scored,
        labels,
        blind=config.mask.unknown == 1,
    )


def heads_of(config: ConfigDict) -> tuple[tuple[str, ...], dict[str, int]]:
    """The variables that the tasks of a config rank, and the outputs of its labels."""
    tasks = tasks_of(config).values()
    ranked = dict.fromkeys(task.head for task in tasks if task.ranks)
    return tuple(ranked), {task.head: task.outputs for task in tasks if not task.ranks}
