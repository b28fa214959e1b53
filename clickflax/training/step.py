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
from clickflax.tasks.negatives import Negatives, Sampling, draw_negatives, make_pool, mask_negatives
from clickflax.tasks.task import TaskBatch


class State(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]
    params: Any
    optimizer: optax.OptState


class StepConstants(NamedTuple):
    """What all steps and devices share."""

    key: Key[Array, ""]  # of masks and dropout
    given: Any  # what the model is given of the catalog, and does not learn


class Objective(NamedTuple):
    """A task as a step sees it; see `Task`."""

    share: float  # of its loss in the sum of all
    causal: bool
    head: str
    prepare: Callable[[Key[Array, ""], Batch], TaskBatch]
    loss: Callable[..., tuple[Float[Array, ""], Float[Array, ""]]]
    micro_rows: int
    sampling: Sampling | None = None  # of the negatives that the loss wants
    first_bias: float = 0.0  # where the biases of the head begin, if it has any


class Keys(NamedTuple):
    """Of what is random in each row of a step."""

    prepare: Key[Array, " B"]
    dropout: Key[Array, " B"]
    draw: Key[Array, " B"]


def add_batch_axis(row: Any) -> Any:
    """The same as the only row of a batch."""
    return jax.tree.map(lambda x: x[None], row)


def prepare_row(objective: Objective, row: Batch, key: Key[Array, ""]) -> TaskBatch:
    """What is asked of one row."""
    question = objective.prepare(key, add_batch_axis(row))
    return jax.tree.map(lambda x: x[0], question)


def encode_row(
    model: Model,
    collections: Any,
    objective: Objective,
    row: Batch,
    question: TaskBatch,
    key: Key[Array, ""],
) -> tuple[Float[Array, "K D"], Any]:
    """States of one row where it is asked, and what came before."""
    row, question = add_batch_axis(row), add_batch_axis(question)
    inputs, places = question.inputs, question.places
    hidden: Any = model.apply(
        collections,
        inputs,
        row.segment,
        row.position,
        objective.causal,
        True,
        places,
        method="encode",
        rngs={"dropout": key},
    )
    past = model.past(inputs, row.segment, objective.causal, places, objective.head)
    return jax.tree.map(lambda x: x[0], (hidden, past))


def gradient_of(
    model: Model,
    objective: Objective,
    trained: Any,
    frozen: Any,
    given: Any,
    batch: Batch,
    keys: Key[Array, " B"],
    shared_key: Key[Array, ""],
) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], Any]:
    """The summed loss and its weight, and the gradient of what is trained, over the rows of all
    devices; the frozen parameters have none, and the backward pass ends where only they are left.

    The rows of this one are worked on `micro_rows` at a time. What all rows share, negatives that
    are the same for all of them, has a key of its own.
    """
    of = Keys(*jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys))
    questions = jax.vmap(functools.partial(prepare_row, objective))(batch, of.prepare)
    sampling, pool = objective.sampling, None
    if sampling is not None and sampling.drawn == "in_batch":
        told = (questions.targets, questions.weights)
        pool = make_pool(*sharding.gathered(told))

    def negatives(
        sampling: Sampling, rows: Batch, questions: TaskBatch, keys: Key[Array, " M"]
    ) -> Negatives:
        if sampling.shared:
            drawn = draw_negatives(sampling, shared_key, (sampling.count,), pool)
        else:
            shape = (questions.targets.shape[1], sampling.count)
            drawn = jax.vmap(lambda key: draw_negatives(sampling, key, shape, pool))(keys)
        return mask_negatives(sampling, rows, questions, objective.head, drawn)

    def loss_of(trained: Any, rows: Batch, questions: TaskBatch, keys: Keys) -> tuple[Array, Array]:
        collections = {"params": trim_tables(model, join_params(trained, frozen)), "given": given}
        asked = jax.vmap(functools.partial(encode_row, model, collections, objective))
        hidden, past = asked(rows, questions, keys.dropout)
        answers: Any = model.apply(collections, hidden, objective.head, past, method="answer")
        told = (answers, questions.targets, questions.weights)
        if sampling is None:
            return objective.loss(*told)
        return objective.loss(*told, negatives(sampling, rows, questions, keys.draw))

    def add(sums: Any, piece: tuple[Batch, TaskBatch, Keys]) -> tuple[Any, None]:
        found = jax.value_and_grad(loss_of, has_aux=True)(trained, *piece)
        return jax.tree.map(jnp.add, sums, found), None

    cut = (-1, objective.micro_rows)
    pieces = jax.tree.map(lambda x: x.reshape(*cut, *x.shape[1:]), (batch, questions, of))
    zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, trained))
    sums, _ = jax.lax.scan(add, zero, pieces)
    return sharding.summed(sums)


def make_step(
    model: Model,
    objectives: Mapping[str, Objective],
    optimizer: optax.GradientTransformation,
    frozen: Collection[str] = (),
) -> Callable[[State, dict[str, Batch], StepConstants], tuple[State, dict[str, Float[Array, ""]]]]:
    """One step on the rows of one device, to be run on all of them: a batch for each objective.

    Gradients are summed over all the rows, then divided once by the sum of the weights. Masks and
    dropout of a row have keys of the step and of its place among the rows of the step, so that the
    numbers are the same however the batch is cut and shared out. The parameters that are `frozen`,
    by name, stay as they are, and the state of the optimiser knows nothing of them.
    """

    def step(
        state: State, batches: dict[str, Batch], shared: StepConstants
    ) -> tuple[State, dict[str, Array]]:
        trained, rest = split_params(state.params, frozen)
        key = jax.random.fold_in(shared.key, state.step)
        losses, gradients, first = {}, [], 0
        for name, objective in objectives.items():
            batch = batches[name]
            rows = batch.segment.shape[0]
            place = first + jax.lax.axis_index(sharding.DATA) * rows + jnp.arange(rows)
            first += rows * jax.lax.axis_size(sharding.DATA)
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, place)
            # Places of rows are below 2**31.
            shared_key = jax.random.fold_in(key, jnp.uint32(2**32 - 1 - len(gradients)))
            (loss, weight), found = gradient_of(
                model, objective, trained, rest, shared.given, batch, keys, shared_key
            )
            weight = jnp.where(weight > 0, weight, 1.0)  # nothing may have been asked
            losses[name] = loss / weight
            divisor = weight / objective.share
            gradients.append(jax.tree.map(lambda g, by=divisor: g / by, found))
        gradient = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), gradients)
        updates, moments = optimizer.update(gradient, state.optimizer, trained)
        total = sum(objectives[name].share * loss for name, loss in losses.items())
        metrics = {"loss": total, "gradient_norm": optax.global_norm(gradient)}
        if len(losses) > 1:
            metrics |= {f"loss/{name}": loss for name, loss in losses.items()}
        params = join_params(optax.apply_updates(trained, updates), rest)
        return State(state.step + 1, params, moments), metrics

    return step


def init_params(model: Model, key: Key[Array, ""], batch: Batch, given: Any = None) -> Any:
    """Fresh parameters."""

    def everything(model: Model, batch: Batch) -> Any:
        variables, segment = batch.variables, batch.segment
        hidden = model.encode(variables, segment, batch.position, False, False)
        past = {head: model.past(variables, segment, False, None, head) for head in model.head}
        return [model.answer(hidden, head, past[head]) for head in model.head]

    row = jax.tree.map(lambda x: jnp.asarray(x[:1]), batch)
    collections = {"given": given or {}}
    _, found = model.apply(
        collections, row, method=everything, rngs={"params": key}, mutable=["params"]
    )
    return found["params"]
