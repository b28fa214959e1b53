"""The first state of a training: fresh parameters, or those of the run that it starts from."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from clickflax.batch import Batch
from clickflax.model.model import Model
from clickflax.run.cold_start import zero_cold_items
from clickflax.run.folder import constants_of
from clickflax.run.inputs import InputSchema
from clickflax.run.sharded_tables import keep_placed, pad_tables, place_on_mesh
from clickflax.run.transfer import TrainableParts, Transferred, start_from
from clickflax.runtime import sharding
from clickflax.runtime.params import by_name, join_params, split_params, tree_of
from clickflax.training.step import State, init_params


def first_params(
    config: ConfigDict,
    model: Model,
    key: Key[Array, ""],
    batch: Batch,
    schema: InputSchema,
    biases: Mapping[str, float],
    mesh: jax.sharding.Mesh,
) -> tuple[Any, Transferred | None]:
    """Parameters on the devices, and what was taken from the run that this one starts from.

    `biases` are the first biases of heads that have any.
    """

    def fresh(key: Key[Array, ""]) -> Any:
        # Parameters have the shapes of what is read, not its values.
        row, constants = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (batch, constants_of(schema.features))
        )
        params = init_params(model, key, row, constants)
        return set_first_biases(zero_cold_items(params, schema.cold), biases)

    transferred, stored = None, {}
    if schema.origin is not None:
        shapes = jax.eval_shape(fresh, key)
        chosen, transferred = start_from(schema.origin, shapes, schema.tokens, config.init.skip)
        stored = {
            name: value
            for name, value in by_name(chosen).items()
            if not isinstance(value, jax.ShapeDtypeStruct)
        }

    def rest(key: Key[Array, ""]) -> Any:
        wanted, _ = split_params(fresh(key), stored)
        return keep_placed(pad_tables(wanted, mesh), mesh)

    # Not jitted, this would be many small programs, which take seconds to compile; and a table may
    # be too large for one device from the beginning.
    params = jax.jit(rest)(sharding.replicate(key, mesh))
    return join_params(params, place_on_mesh(tree_of(stored), mesh)), transferred


def set_first_biases(params: Any, biases: Mapping[str, float]) -> Any:
    """The parameters with all biases of a head, if it has any, at one number."""
    named = by_name(params)
    values = {f"head_{head}/bias": bias for head, bias in biases.items()}
    changed = {
        name: jnp.full_like(named[name], bias) for name, bias in values.items() if name in named
    }
    return tree_of(named | changed)


def first_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    parts: TrainableParts,
    mesh: jax.sharding.Mesh,
) -> State:
    """The state before the first step; the optimiser has none for what is never trained."""
    trained, _ = split_params(params, parts.never)
    moments = jax.jit(lambda trained: keep_placed(optimizer.init(trained), mesh))(trained)
    return State(place_on_mesh(np.zeros((), np.int32), mesh), params, moments)
