"""Sharded tables: placement of the tables that have a row for every token.

The rows of a table, and of its optimiser moments, are split evenly over the axis MODEL of the mesh.
A table whose number of rows is not divisible is padded with zero rows. The model never sees them:
`trim_tables` removes them, and their updates are zero.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Shaped
from ml_collections import ConfigDict

from clickflax.model.heads import ItemHead
from clickflax.model.model import Model
from clickflax.model.names import table_rows
from clickflax.runtime import sharding
from clickflax.runtime.params import by_name, tree_of
from clickflax.runtime.processes import put_everywhere
from clickflax.runtime.sharding import MODEL


def make_run_mesh(config: ConfigDict) -> Mesh:
    """The mesh of all devices for evaluation and inference.

    Tables are sharded over as many devices as in training or, if that does not divide the number of
    devices, over the greatest common divisor.
    """
    return sharding.make_mesh(math.gcd(config.train.model_devices, jax.device_count()))


def path_name(path: tuple[Any, ...]) -> str:
    """The name of the parameter of a leaf of a training state: itself, or one of its moments."""
    return "/".join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def spec_of(path: tuple[Any, ...], leaf: Any) -> P:
    """How a leaf of a training state is split over the mesh."""
    return P(MODEL) if leaf.ndim and table_rows(path_name(path)) else P()


def pad_tables(tree: Any, mesh: Mesh) -> Any:
    """Pads the tables of a state, or of parameters, to numbers of rows that can be split."""
    shares = mesh.shape[MODEL]

    def padded(path: tuple[Any, ...], leaf: Any) -> Any:
        missing = -leaf.shape[0] % shares if spec_of(path, leaf) == P(MODEL) else 0
        if not missing:
            return leaf
        # Arrays of the host stay there, as they may be too large for one device.
        pad = jnp.pad if isinstance(leaf, jax.Array) else np.pad
        return pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(padded, tree)


def place_on_mesh(tree: Any, mesh: Mesh) -> Any:
    """Puts a state, or parameters, on the devices: tables split by rows, all else on each."""

    def put(path: tuple[Any, ...], leaf: Any) -> Shaped[Array, "..."]:
        return put_everywhere(leaf, NamedSharding(mesh, spec_of(path, leaf)))

    return jax.tree_util.tree_map_with_path(put, pad_tables(tree, mesh))


def keep_placed(tree: Any, mesh: Mesh) -> Any:
    """In a compiled function: constrains outputs to the placement of `place_on_mesh`."""

    def constrained(path: tuple[Any, ...], leaf: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec_of(path, leaf)))

    return jax.tree_util.tree_map_with_path(constrained, tree)


def token_rows(model: Model, name: str) -> int | None:
    """The number of rows of a parameter in the model; None if its rows are not tokens."""
    vocabulary, reserved = table_rows(name) or ("", 0)
    if not vocabulary:
        return None
    if not reserved:
        head = model.head[vocabulary]
        return head.items if isinstance(head, ItemHead) else None
    sizes: Mapping[str, int] = {**model.embedder.sizes, **model.embedder.features}
    return sizes[vocabulary]


def trim_tables(model: Model, params: Any) -> Any:
    """Removes the padding of tables from the parameters."""

    def trimmed(name: str, value: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        rows = token_rows(model, name)
        return value if rows in (None, value.shape[0]) else value[:rows]

    return tree_of({name: trimmed(name, value) for name, value in by_name(params).items()})
