"""One training step: a pure function of state, rows and key."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from clickflax.batch import Batch
from clickflax.model.model import Model
from clickflax.run.sharded_tables import trim_tables
from clickflax.runtime import sharding
from clickflax.runtime.params import join_params, split_params
from clickflax.tasks.negatives import (
    Negatives,
    Pool,
    Sampling,
    draw_negatives,
    make_pool,
    mask_negatives,
)
from clickflax.tasks.task import TaskBatch


class State(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]
    params: Any
    optimizer: optax.OptState


class StepConstants(NamedTuple):
    """Arrays that are the same in all steps and on all devices."""

    key: Key[Array, ""]  # of masks, negatives and dropout
    constants: Any  # fixed arrays of the model, such as item features


class Objective(NamedTuple):
    """A task in a training step; see `Task`."""

    share: float  # weight of its loss in the sum of all
    causal: bool
    head: str
    prepare: Callable[[Key[Array, ""], Batch], TaskBatch]
    loss: Callable[..., tuple[Float[Array, ""], Float[Array, ""]]]
    micro_rows: int
    sampling: Sampling | None = None  # of the negatives of the loss, if it needs any
    first_bias: float = 0.0  # where the biases of the head begin, if it has any


class Keys(NamedTuple):
    """Keys of the random choices in each row of a step."""

    prepare: Key[Array, " B"]
    dropout: Key[Array, " B"]
    draw: Key[Array, " B"]


def add_batch_axis(row: Any) -> Any:
    """A row as a batch of one."""
    return jax.tree.map(lambda x: x[None], row)


def prepare_row(objective: Objective, row: Batch, key: Key[Array, ""]) -> TaskBatch:
    """Inputs and targets of one row."""
    prepared = objective.prepare(key, add_batch_axis(row))
    return jax.tree.map(lambda x: x[0], prepared)


def encode_row(
    model: Model,
    collections: Any,
    objective: Objective,
    row: Batch,
    prepared: TaskBatch,
    key: Key[Array, ""],
) -> tuple[Float[Array, "K D"], Any]:
    """Hidden states of one row at its targets, and the histories before them."""
    row, prepared = add_batch_axis(row), add_batch_axis(prepared)
    inputs, positions = prepared.inputs, prepared.positions
    hidden: Any = model.apply(
        collections,
        inputs,
        row.segment,
        row.position,
        objective.causal,
        True,
        positions,
        method="encode",
        rngs={"dropout": key},
    )
    history = model.past(inputs, row.segment, objective.causal, positions, objective.head)
    return jax.tree.map(lambda x: x[0], (hidden, history))


def negatives_of(
    objective: Objective,
    rows: Batch,
    prepared: TaskBatch,
    keys: Key[Array, " M"],
    shared_key: Key[Array, ""],
    pool: Pool | None,
) -> Negatives:
    """Negatives of the targets of some rows; those that all rows share have a key of their own."""
    sampling = objective.sampling
    assert sampling is not None
    if sampling.shared:
        drawn = draw_negatives(sampling, shared_key, (sampling.count,), pool)
    else:
        shape = (prepared.targets.shape[1], sampling.count)
        drawn = jax.vmap(lambda key: draw_negatives(sampling, key, shape, pool))(keys)
    return mask_negatives(sampling, rows, prepared, objective.head, drawn)


def gradient_of(
    model: Model,
    objective: Objective,
    params: tuple[Any, Any],
    constants: Any,
    batch: Batch,
    keys: Key[Array, " B"],
    shared_key: Key[Array, ""],
) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], Any]:
    """The summed loss, its weight, and the gradient, over the rows of all devices.

    `params` are the trained and the frozen parameters; the backward pass ends where only frozen
    ones are left. The rows of this device are worked on `micro_rows` at a time.
    """
    trained, frozen = params
    row_keys = Keys(*jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys))
    prepared = jax.vmap(functools.partial(prepare_row, objective))(batch, row_keys.prepare)
    pool = None
    if objective.sampling is not None and objective.sampling.drawn == "in_batch":
        pool = make_pool(*sharding.gather_groups((prepared.targets, prepared.weights)))

    def loss_of(trained: Any, rows: Batch, prepared: TaskBatch, keys: Keys) -> tuple[Array, Array]:
        params = trim_tables(model, join_params(trained, frozen))
        collections = {"params": params, "constants": constants}
        encode = jax.vmap(functools.partial(encode_row, model, collections, objective))
        hidden, history = encode(rows, prepared, keys.dropout)
        answers: Any = model.apply(collections, hidden, objective.head, history, method="answer")
        if objective.sampling is None:
            return objective.loss(answers, prepared.targets, prepared.weights)
        negatives = negatives_of(objective, rows, prepared, keys.draw, shared_key, pool)
        return objective.loss(answers, prepared.targets, prepared.weights, negatives)

    def add(sums: Any, piece: tuple[Batch, TaskBatch, Keys]) -> tuple[Any, None]:
        loss_and_gradient = jax.value_and_grad(loss_of, has_aux=True)(trained, *piece)
        return jax.tree.map(jnp.add, sums, loss_and_gradient), None

    shape = (-1, objective.micro_rows)
    pieces = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), (batch, prepared, row_keys))
    zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, trained))
    sums, _ = jax.lax.scan(add, zero, pieces)
    return sharding.sum_groups(sums)


def make_step(
    model: Model,
    objectives: Mapping[str, Objective],
    optimizer: optax.GradientTransformation,
    frozen: Collection[str] = (),
) -> Callable[[State, dict[str, Batch], StepConstants], tuple[State, dict[str, Float[Array, ""]]]]:
    """One step on the rows of one device, to be run on all of them: a batch for each objective.

    Gradients are summed over all rows, then divided once by the sum of the weights. The keys of a
    row are derived from the step and from the row's number in the step, so that the numbers are the
    same however the batch is cut and shared out. The parameters that are `frozen`, by name, stay as
    they are, and the optimiser has no state for them.
    """

    def step(
        state: State, batches: dict[str, Batch], shared: StepConstants
    ) -> tuple[State, dict[str, Array]]:
        params = split_params(state.params, frozen)
        trained, rest = params
        key = jax.random.fold_in(shared.key, state.step)
        losses, gradients, first = {}, [], 0
        for name, objective in objectives.items():
            batch = batches[name]
            rows = batch.segment.shape[0]
            number = first + jax.lax.axis_index(sharding.DATA) * rows + jnp.arange(rows)
            first += rows * jax.lax.axis_size(sharding.DATA)
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, number)
            # Numbers of rows are below 2**31.
            shared_key = jax.random.fold_in(key, jnp.uint32(2**32 - 1 - len(gradients)))
            (loss, weight), gradient = gradient_of(
                model, objective, params, shared.constants, batch, keys, shared_key
            )
            weight = jnp.where(weight > 0, weight, 1.0)  # a batch may have no target
            losses[name] = loss / weight
            divisor = weight / objective.share
            gradients.append(jax.tree.map(lambda g, by=divisor: g / by, gradient))
        gradient = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), gradients)
        updates, moments = optimizer.update(gradient, state.optimizer, trained)
        total = sum(objectives[name].share * loss for name, loss in losses.items())
        metrics = {"loss": total, "gradient_norm": optax.global_norm(gradient)}
        if len(losses) > 1:
            metrics |= {f"loss/{name}": loss for name, loss in losses.items()}
        new_params = join_params(optax.apply_updates(trained, updates), rest)
        return State(state.step + 1, new_params, moments), metrics

    return step


def init_params(model: Model, key: Key[Array, ""], batch: Batch, constants: Any = None) -> Any:
    """Fresh parameters."""

    def everything(model: Model, batch: Batch) -> Any:
        variables, segment = batch.variables, batch.segment
        hidden = model.encode(variables, segment, batch.position, False, False)
        history = {head: model.past(variables, segment, False, None, head) for head in model.head}
        return [model.answer(hidden, head, history[head]) for head in model.head]

    row = jax.tree.map(lambda x: jnp.asarray(x[:1]), batch)
    collections = {"constants": constants or {}}
    _, variables = model.apply(
        collections, row, method=everything, rngs={"params": key}, mutable=["params"]
    )
    return variables["params"]
