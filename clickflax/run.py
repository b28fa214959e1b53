"""The folder of a run, and the model that its config describes."""

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from clickflax.config import from_dict, override
from clickflax.data.store import Dataset, Vocabulary, open_dataset, open_vocabulary
from clickflax.events import RESERVED
from clickflax.model.attention import find_attention, or_auto
from clickflax.model.embedder import DTYPES, POSITIONS, Embedder
from clickflax.model.encoder import ACTIVATIONS, NORMS, REMAT, Encoder
from clickflax.model.heads import OUTPUTS, ItemHead
from clickflax.model.model import Model
from clickflax.runtime import checkpoint
from clickflax.tasks.tasks import Task, find_task


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained model, and what its numbers mean."""

    folder: pathlib.Path
    config: ConfigDict
    model: Model
    params: Any
    checkpoint: str  # best or last
    task: Task
    items: Vocabulary
    vocabularies: dict[str, Vocabulary]
    progress: dict[str, Any]  # of the checkpoint: step, seconds of training, best so far


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


def build_model(model: ConfigDict, sizes: Mapping[str, int]) -> Model:
    """The model of `config.model`, for variables of so many ids."""
    if model.heads < 1 or model.width % model.heads:
        raise ValueError(
            f"model.width={model.width} is not a multiple of model.heads={model.heads}."
        )
    if model.max_len < 2:
        raise ValueError(f"model.max_len={model.max_len} must be at least 2.")
    items = sizes["item"] - RESERVED
    if items < 2:
        raise ValueError(f"The catalog has {items} item; there is nothing to choose from.")
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
        ItemHead(
            items=items,
            width=model.width,
            output=check("output", model.output, OUTPUTS),
            bias=model.output_bias,
            tied=model.tied,
            activation=activation,
            kernel_init=init,
        ),
    )


def variable_sizes(
    names: tuple[str, ...], vocabularies: Mapping[str, Vocabulary]
) -> dict[str, int]:
    """How many ids the variables have that the model reads; the item is one of them."""
    if "item" not in names:
        raise ValueError(f"data.variables={tuple(names)!r} must name 'item'.")
    for name in names:
        if name not in vocabularies:
            raise ValueError(
                f"data.variables names {name!r}; the categorical variables of this data set are "
                f"{sorted(vocabularies)}."
            )
    return {name: vocabularies[name].size for name in names}


def data_path(config: ConfigDict, folder: pathlib.Path) -> pathlib.Path:
    """The data set of a run: the one that the config names, else its simulated shop."""
    return pathlib.Path(config.data.path) if config.data.path else folder / "data"


def read_json(path: pathlib.Path) -> Any:
    """A JSON file of a run folder."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: {path.parent} is not the folder of a run "
            "(`clickflax train --workdir=...` makes one)."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: pathlib.Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def keep_vocabularies(dataset: Dataset, folder: pathlib.Path, names: tuple[str, ...]) -> None:
    """Copies the vocabularies that the model reads into the run: it can then be asked alone."""
    (folder / "vocab").mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(dataset.vocabulary(name).path, folder / "vocab" / f"{name}.parquet")


def vocabularies_of(folder: pathlib.Path) -> dict[str, Vocabulary]:
    """The vocabularies that a run keeps."""
    return {
        path.stem: open_vocabulary(path) for path in sorted((folder / "vocab").glob("*.parquet"))
    }


def check_catalog(
    kept: Mapping[str, Vocabulary], other: Mapping[str, Vocabulary], what: str
) -> None:
    """Refuses vocabularies that differ: their ids mean other things."""
    for name in sorted(kept.keys() & other.keys()):
        vocabulary, theirs = kept[name], other[name].tokens()
        if vocabulary.tokens() != theirs:
            raise ValueError(
                f"{what} has another vocabulary of {name!r}: {len(theirs):,} tokens, the run has "
                f"{len(vocabulary.tokens()):,}, and the same id means another one. Use the data "
                "set that the run was trained on."
            )


def read_config(folder: str | pathlib.Path) -> ConfigDict:
    """The config that a run was trained with."""
    return from_dict(read_json(pathlib.Path(folder) / "config.json"))


def load_run(folder: str | pathlib.Path, which: str = "best") -> Run:
    """Opens a run: its config, its vocabularies, and its best parameters, or the last ones.

    A run without validation has no best ones: then the last.
    """
    folder = pathlib.Path(folder)
    config = read_config(folder)
    # What was trained with the kernel of one machine is asked on any other.
    attention = or_auto(config.model.attention, jax.default_backend())
    model = override(config, [f"config.model.attention={attention}"]).model
    vocabularies = vocabularies_of(folder)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    progress, params = checkpoint.load_params(folder / "checkpoints" / "last", here)
    if which == "best" and progress["best"] is not None:
        of_run = progress["seconds"]
        best = folder / "checkpoints" / "best"
        progress, params = checkpoint.load_params(best, here, progress["best_step"])
        # It took the whole run to know that this one is the best.
        progress = progress | {"seconds": of_run, "seconds_to_here": progress["seconds"]}
    else:
        which, progress = "last", progress | {"seconds_to_here": progress["seconds"]}
    return Run(
        folder=folder,
        config=config,
        model=build_model(model, variable_sizes(config.data.variables, vocabularies)),
        params=params,
        checkpoint=which,
        task=find_task(config.tasks),
        items=vocabularies["item"],
        vocabularies=vocabularies,
        progress=progress,
    )


def open_data(run: Run, path: str | pathlib.Path | None = None) -> Dataset:
    """The data set of a run, or another one with the same catalog."""
    dataset = open_dataset(path or data_path(run.config, run.folder))
    check_catalog(run.vocabularies, dataset.vocabularies, str(dataset.path))
    return dataset
