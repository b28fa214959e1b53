"""Tables with a row for every token, which devices may share: where their rows lie.

Over the axis MODEL of the mesh the rows of a table, and of the moments that the optimiser has for
it, are cut into equal pieces, so that each device holds one. A table whose rows do not divide is
filled up with zeros, which the model never sees: `trim_tables` leaves them out, and nothing moves
them.
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
    """All devices, to ask a run: as many share a table as in its training, where there are so many;
    else the most of them that divide both numbers.
    """
    return sharding.make_mesh(math.gcd(config.train.model_devices, jax.device_count()))


def path_name(path: tuple[Any, ...]) -> str:
    """The name of the parameter that a leaf of a state is of: itself, or what is kept for it."""
    return "/".join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def spec_of(path: tuple[Any, ...], leaf: Any) -> P:
    """Over which axis of the mesh a leaf of a state is split."""
    return P(MODEL) if leaf.ndim and table_rows(path_name(path)) else P()


def pad_tables(tree: Any, mesh: Mesh) -> Any:
    """A state, or parameters, with as many rows in each table as devices can share."""
    shares = mesh.shape[MODEL]

    def filled(path: tuple[Any, ...], leaf: Any) -> Any:
        missing = -leaf.shape[0] % shares if spec_of(path, leaf) == P(MODEL) else 0
        if not missing:
            return leaf
        # What the host has stays there: no device need hold all of it.
        pad = jnp.pad if isinstance(leaf, jax.Array) else np.pad
        return pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(filled, tree)


def place_on_mesh(tree: Any, mesh: Mesh) -> Any:
    """A state, or parameters, on the devices: tables by rows, all else the same on each."""

    def on_devices(path: tuple[Any, ...], leaf: Any) -> Shaped[Array, "..."]:
        return put_everywhere(leaf, NamedSharding(mesh, spec_of(path, leaf)))

    return jax.tree_util.tree_map_with_path(on_devices, pad_tables(tree, mesh))


def keep_placed(tree: Any, mesh: Mesh) -> Any:
    """In a compiled function: what comes out lies as `place_on_mesh` has put it."""

    def as_placed(path: tuple[Any, ...], leaf: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec_of(path, leaf)))

    return jax.tree_util.tree_map_with_path(as_placed, tree)


def rows_in(model: Model, name: str) -> int | None:
    """How many rows the model has in a parameter; None where rows are no tokens."""
    vocabulary, reserved = table_rows(name) or ("", 0)
    if not vocabulary:
        return None
    if not reserved:
        head = model.head[vocabulary]
        return head.items if isinstance(head, ItemHead) else None
    sizes: Mapping[str, int] = {**model.embedder.sizes, **model.embedder.features}
    return sizes[vocabulary]


def trim_tables(model: Model, params: Any) -> Any:
    """The parameters as the model knows them, without the rows that fill up a table."""

    def own(name: str, value: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        rows = rows_in(model, name)
        return value if rows in (None, value.shape[0]) else value[:rows]

    return tree_of({name: own(name, value) for name, value in by_name(params).items()})
