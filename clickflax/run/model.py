"""From a config to its model."""

from collections.abc import Collection, Mapping

import flax.linen as nn
from ml_collections import ConfigDict

from clickflax.batch import RESERVED, Registry
from clickflax.config.default import default
from clickflax.config.resolve import tasks_of
from clickflax.data.item_features import ItemFeature
from clickflax.data.variables import Variable
from clickflax.model.blocks.base import EncoderBlock
from clickflax.model.blocks.registry import BLOCKS
from clickflax.model.embedder import COMBINE, DTYPES, POSITIONS, Embedder
from clickflax.model.encoder import Encoder
from clickflax.model.heads import OUTPUTS, ItemHead, LabelHead
from clickflax.model.layers import ACTIVATIONS
from clickflax.model.model import Model

# Initialisers of tables and kernels, made from config.model.init_stddev.
INITIALIZERS = Registry(
    "initializer",
    {
        "normal": nn.initializers.normal,
        "truncated_normal": nn.initializers.truncated_normal,
        "xavier": lambda _: nn.initializers.xavier_normal(),
    },
)
LARGEST_NUMBER = 2**16  # of the widths and the quantiles of single variables
# Knobs of config.model that nothing but a block reads.
BLOCK_KNOBS = (
    "norm",
    "feed_forward",
    "glu",
    "gate",
    "attention",
    "attention_dropout",
    "remat",
    "heads",
    "relative_time",
)


def initializer(model: ConfigDict) -> nn.initializers.Initializer:
    """The initialiser of tables and kernels."""
    return INITIALIZERS.find(model.initializer, "config.model.initializer")(model.init_stddev)


def check_choice(knob: str, value: str, choices: Collection[str]) -> str:
    """Returns the value of `config.model.KNOB`; raises ValueError if it is not a choice."""
    if value not in choices:
        raise ValueError(f"config.model.{knob}={value!r} is not one of {sorted(choices)}.")
    return value


def check_model(model: ConfigDict, sizes: Mapping[str, int], scored: tuple[str, ...]) -> None:
    """Raises ValueError if a model does not fit its variables, or its knobs each other."""
    if "item" not in sizes:
        raise ValueError(f"config.data.variables={tuple(sizes)!r} must name 'item'.")
    unscored = [name for name in scored if not sizes.get(name)]
    if unscored:
        raise ValueError(
            f"a task predicts {unscored[0]!r}, which config.data.variables={tuple(sizes)!r} must "
            "name."
        )
    widths = assignments("config.model.widths", model.widths)
    embedded = [name for name in sizes if name != "time" or not model.relative_time]
    wrong = sorted(widths.keys() - set(embedded))
    if wrong:
        raise ValueError(
            f"config.model.widths names {wrong[0]!r}; it may name variables that are embedded: "
            f"{embedded}."
        )
    if "item" in widths and "item" in scored and model.output != "dense":
        raise ValueError(
            f"config.model.widths: to score items of width {widths['item']}, the head must have an "
            "output layer of that width: set config.model.output='dense'."
        )
    check_block_knobs(model)
    if model.relative_time and sizes.get("time") != 0:
        raise ValueError(
            "config.model.relative_time=True compares the times of events: config.data.variables "
            f"must name 'time', as a number; it is {tuple(sizes)!r}."
        )
    if model.max_len < 2:
        raise ValueError(f"config.model.max_len={model.max_len} must be at least 2.")
    for name in ("item", *scored):
        if sizes[name] - RESERVED < 2:
            values = f"{sizes[name] - RESERVED} {name}"
            raise ValueError(f"The catalog has {values}; there is nothing to choose from.")


def check_block_knobs(model: ConfigDict) -> None:
    """Raises ValueError for a knob or a value that the block does not take."""
    block = find_block(model)
    plain = default().model
    for name in BLOCK_KNOBS:
        if name not in block.knobs and model[name] != plain[name]:
            raise ValueError(
                f"config.model.{name}={model[name]!r}: config.model.block={model.block!r} does not "
                f"take this knob; leave it at {plain[name]!r}."
            )
    if check_choice("positions", model.positions, POSITIONS) not in block.position_kinds:
        raise ValueError(
            f"config.model.positions={model.positions!r} does not go with config.model.block="
            f"{model.block!r}, which takes {sorted(block.position_kinds)}."
        )
    if "heads" in block.knobs and (model.heads < 1 or model.width % model.heads):
        raise ValueError(
            f"config.model.width={model.width} is not a multiple of config.model.heads="
            f"{model.heads}."
        )


def find_block(model: ConfigDict) -> type[EncoderBlock]:
    """The class of `config.model.block`; raises ValueError with the choices if unknown."""
    return BLOCKS.find(model.block, "config.model.block")


def build_heads(
    model: ConfigDict,
    sizes: Mapping[str, int],
    scored: tuple[str, ...],
    labels: Mapping[str, int],
) -> dict[str, ItemHead | LabelHead]:
    """Heads by name: one for each variable that is scored, and one for each label."""
    init = initializer(model)
    ACTIVATIONS.find(model.activation, "config.model.activation")
    widths = assignments("config.model.widths", model.widths)
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
            activation=model.activation,
            kernel_init=init,
        )
        for name in scored
    }
    logits = {
        name: LabelHead(outputs, model.width, model.activation, init)
        for name, outputs in labels.items()
    }
    return {**items, **logits}


def build_model(
    model: ConfigDict,
    sizes: Mapping[str, int],
    features: Mapping[str, int] | None = None,
    scored: tuple[str, ...] = ("item",),
    labels: Mapping[str, int] | None = None,
    blind: bool = False,
) -> Model:
    """Returns the model that `config.model` describes.

    `sizes` has the number of ids of each variable, 0 for a number; `features` the same for item
    features. There is a head for each variable that is `scored`, and for each label with its number
    of outputs. A `blind` model reads every item as UNK.

    Raises ValueError for a value that is not a choice, or for values that do not go together.
    """
    check_model(model, sizes, scored)
    init = initializer(model)
    block = find_block(model)
    knobs = {name: model[name] for name in block.knobs}
    time = {"time"} if model.relative_time else set()
    return Model(
        Embedder(
            sizes={name: size for name, size in sizes.items() if name not in time},
            widths=assignments("config.model.widths", model.widths),
            features=dict(features or {}),
            combine=check_choice("combine", model.combine, COMBINE),
            width=model.width,
            max_len=model.max_len,
            positions=model.positions,
            scale=model.scale_embeddings,
            norm=model.embedding_norm,
            dropout=model.dropout,
            dtype=check_choice("dtype", model.dtype, DTYPES),
            table_init=init,
            blind=blind,
        ),
        Encoder(
            layers=model.layers,
            final_norm=block.final_norm(knobs),
            shared=model.shared_layers,
            distances=model.max_len if model.positions == "disentangled" else 0,
            block=block.from_config(knobs, init),
            table_init=init,
        ),
        build_heads(model, sizes, scored, labels or {}),
        relative_time=model.relative_time,
    )


def assignments(knob: str, pairs: tuple[str, ...]) -> dict[str, int]:
    """The values by name of a knob such as `("price=20",)`."""
    numbers = {}
    for pair in pairs:
        name, _, number = pair.rpartition("=")
        if not number.isdigit() or int(number) < 1:
            raise ValueError(f"{knob}: {pair!r} is not of the form price=20.")
        if int(number) > LARGEST_NUMBER:
            raise ValueError(f"{knob}: {pair!r} must have a number up to {LARGEST_NUMBER}.")
        numbers[name] = int(number)
    return numbers


def sizes_of(variables: Mapping[str, Variable | ItemFeature]) -> dict[str, int]:
    """Number of ids of each variable or item feature."""
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
