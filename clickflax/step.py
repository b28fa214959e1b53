"""One training step: a pure function of state, rows and key."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from clickflax.events import Batch
from clickflax.model.model import Model
from clickflax.runtime import sharding
from clickflax.tasks.tasks import Hiding, Task


class State(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]
    params: Any
    optimizer: optax.OptState


def make_step(
    model: Model,
    task: Task,
    hiding: Hiding,
    optimizer: optax.GradientTransformation,
    micro_rows: int,
    chunk: int,
) -> Callable[[State, Batch, Key[Array, ""]], tuple[State, dict[str, Float[Array, ""]]]]:
    """One step on the rows of one device, to be run on all of them.

    The rows are worked on `micro_rows` at a time, and gradients are summed: over these, then over
    the devices, then divided once by the sum of the weights. Masks and dropout of a row have keys
    of the step and of its place in the batch, so that the numbers are the same however the batch
    is cut and shared out.
    """

    def ask(params: Any, row: Batch, key: Key[Array, ""]) -> tuple[Array, Array, Array]:
        row = jax.tree.map(lambda x: x[None], row)
        prepare_key, dropout_key = jax.random.split(key)
        question = task.prepare(prepare_key, row, hiding)
        hidden: Any = model.apply(
            {"params": params},
            question.inputs,
            row.segment,
            row.position,
            task.causal,
            True,
            question.places,
            method="encode",
            rngs={"dropout": dropout_key},
        )
        return hidden[0], question.targets[0], question.weights[0]

    def loss_of(params: Any, rows: Batch, keys: Key[Array, " M"]) -> tuple[Array, Array]:
        hidden, targets, weights = jax.vmap(ask, in_axes=(None, 0, 0))(params, rows, keys)
        answers: Any = model.apply({"params": params}, hidden, method="answer")
        return task.loss(answers, targets, weights, chunk)

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, dict[str, Array]]:
        rows = batch.segment.shape[0]
        place = jax.lax.axis_index(sharding.DATA) * rows + jnp.arange(rows)
        key = jax.random.fold_in(key, state.step)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, place)
        pieces = jax.tree.map(lambda x: x.reshape(-1, micro_rows, *x.shape[1:]), (batch, keys))

        def add(sums: Any, piece: tuple[Batch, Array]) -> tuple[Any, None]:
            found = jax.value_and_grad(loss_of, has_aux=True)(state.params, *piece)
            return jax.tree.map(jnp.add, sums, found), None

        zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, state.params))
        sums, _ = jax.lax.scan(add, zero, pieces)
        (loss, weight), gradient = jax.lax.psum(sums, sharding.DATA)
        weight = jnp.maximum(weight, 1.0)
        gradient = jax.tree.map(lambda g: g / weight, gradient)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss / weight, "gradient_norm": optax.global_norm(gradient)}
        return State(state.step + 1, params, moments), metrics

    return step


def init_params(model: Model, key: Key[Array, ""], batch: Batch) -> Any:
    """Fresh parameters."""

    def everything(model: Model, batch: Batch) -> Array:
        hidden = model.encode(batch.variables, batch.segment, batch.position, False, False)
        return model.answer(hidden).features

    row = jax.tree.map(lambda x: jnp.asarray(x[:1]), batch)
    return model.init(key, row, method=everything)["params"]
