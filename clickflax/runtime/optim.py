"""Optimiser and schedule from `config.optim`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int
from ml_collections import ConfigDict

OPTIMIZERS = ("adamw", "lamb")
SCHEDULES = ("constant", "linear", "cosine")


def learning_rate(optim: ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up to the peak learning rate, then the schedule, which ends at `steps`."""
    if optim.schedule not in SCHEDULES:
        raise ValueError(
            f"config.optim.schedule={optim.schedule!r} is not one of {sorted(SCHEDULES)}."
        )
    peak = optim.learning_rate
    rest = max(1, steps - optim.warmup_steps)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
    }[optim.schedule]
    if not optim.warmup_steps:
        return after
    warm_up = optax.linear_schedule(0.0, peak, optim.warmup_steps)
    return optax.join_schedules([warm_up, after], [optim.warmup_steps])


def decays(params: Any) -> Any:
    """True for matrices: weight decay skips norms and biases, which are vectors."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def scale_by_speed(speed: Callable[[Int[Array, ""]], Any]) -> optax.GradientTransformation:
    """Multiplies the update of each parameter by its factor at that step."""

    def init(params: Any) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scaled = jax.tree.map(jnp.multiply, updates, speed(state.count))
        return scaled, optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(init, update)


def make_optimizer(
    optim: ConfigDict, steps: int, speed: Callable[[Int[Array, ""]], Any] | None = None
) -> optax.GradientTransformation:
    """Clipping, the optimiser, decoupled weight decay (Loshchilov and Hutter, 2019), schedule.

    `speed` gives the factors of the updates at a step, a tree like the parameters; None: all 1.
    """
    if optim.name not in OPTIMIZERS:
        raise ValueError(f"config.optim.name={optim.name!r} is not one of {sorted(OPTIMIZERS)}.")
    return optax.chain(
        optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm else optax.identity(),
        optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.eps),
        optax.add_decayed_weights(optim.weight_decay, mask=decays),
        optax.scale_by_trust_ratio() if optim.name == "lamb" else optax.identity(),
        optax.scale_by_learning_rate(learning_rate(optim, steps)),
        # Nothing instead of an identity, so that checkpoints of earlier runs fit the state.
        *([scale_by_speed(speed)] if speed else []),
    )
