"""Validation of the numbers of a config: types, ranges, and the memory that they need at least."""

import math
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from clickflax.config.default import check_types, knobs
from clickflax.model.blocks.registry import BLOCKS

MANY = 2**31 - 1  # the largest int32, as which steps and ids are counted
# The least and the most that a number may be.
RANGES = {
    "config.seed": (0, MANY),
    "config.task_weights": (1e-6, 1e6),
    "config.data.validation_users": (-1, MANY),
    "config.data.validation_share": (0, 0.9),
    "config.data.test_share": (1e-6, 0.9),
    "config.data.stride": (1, MANY),
    "config.mask.ratio": (0.001, 1),
    "config.mask.last": (0, 1),
    "config.mask.unknown": (0, 1),
    "config.loss.negatives": (0, 1_000_000),
    "config.loss.calibration": (0, 1),
    "config.loss.smoothing": (0, 0.999),
    "config.label.after": (-1, MANY),
    "config.label.classes": (2, 100_000),
    "config.label.share": (1e-6, 1),
    "config.label.positive": (1e-6, 1e6),
    "config.model.width": (1, 2**16),
    "config.model.layers": (1, 1000),
    "config.model.heads": (1, 2**16),
    "config.model.max_len": (2, MANY),
    "config.model.temperature": (1e-4, 1e4),
    "config.model.feed_forward": (1, 2**20),
    "config.model.init_stddev": (1e-6, 100),
    "config.model.dropout": (0, 0.99),
    "config.model.attention_dropout": (0, 0.99),
    # Below, float32 parameters would not move; above, they would not stay finite.
    "config.optim.learning_rate": (1e-12, 100),
    "config.optim.warmup_steps": (0, MANY),
    "config.optim.b1": (0, 0.9999),
    "config.optim.b2": (0, 0.999999),
    # With 0, Adam divides 0 by 0 where a gradient is 0.
    "config.optim.eps": (1e-30, 1),
    "config.optim.weight_decay": (0, 100),
    "config.optim.clip_norm": (1e-4, 1e9),
    "config.optim.layer_decay": (0.001, 1),
    "config.train.steps": (1, MANY),
    "config.train.batch_size": (1, 2**24),
    "config.train.micro_rows": (0, MANY),
    "config.train.softmax_chunk": (0, MANY),
    "config.train.steps_at_once": (0, 100_000),
    "config.train.cpu_devices": (0, 512),
    "config.train.model_devices": (1, 2**16),
    "config.train.log_every": (1, MANY),
    "config.train.eval_every": (1, MANY),
    "config.train.patience": (0, MANY),
    "config.eval.cutoffs": (1, MANY),
    "config.eval.negatives": (0, MANY),
    "config.eval.batch_size": (1, 100_000),
    "config.init.thaw": (0, MANY),
}
OFF = ("config.optim.clip_norm",)  # knobs that are off at 0, outside of their range
LARGEST_DEVICE = 10**12  # bytes of memory; no device has more


def check_numbers(config: ConfigDict) -> None:
    """Raises ValueError for numbers of the wrong type, out of range, or that learn nothing."""
    check_types(knobs(config))
    check_memory(config, LARGEST_DEVICE, "more than any device has")
    for name, value in knobs(config).items():
        if name in RANGES:
            check_range(name, value)
    check_float32(config)
    check_shares(config)
    check_rate(config)


def check_range(name: str, value: Any) -> None:
    """Raises ValueError for a number outside the range of its knob, alone or in a tuple."""
    least, most = RANGES[name]
    numbers = value if isinstance(value, tuple) else (value,)
    if not numbers:
        raise ValueError(f"{name}=() must have at least one number.")
    for number in numbers:
        if least <= number <= most or (number == 0 and name in OFF):
            continue
        off = "0, or " if name in OFF else ""
        large = most == MANY and number < least
        wanted = f"at least {least}" if large else f"{off}from {least} to {most}"
        raise ValueError(f"{name}={value} must be {wanted}.")


def check_float32(config: ConfigDict) -> None:
    """Raises ValueError for a number that float32, in which models compute, takes for 0."""
    for name, value in knobs(config).items():
        if isinstance(value, float) and 0 < abs(value) < np.finfo(np.float32).tiny:
            raise ValueError(f"{name}={value} is 0 in float32: write 0, or a larger number.")


def check_shares(config: ConfigDict) -> None:
    """Raises ValueError if validation and test leave no event of a sequence for the training."""
    data = config.data
    if data.validation_share + data.test_share >= 1:
        raise ValueError(
            f"config.data.validation_share={data.validation_share} and config.data.test_share="
            f"{data.test_share} leave nothing to train on: their sum must be below 1."
        )


def check_rate(config: ConfigDict) -> None:
    """Raises ValueError for a learning rate that stays near 0 in the warm-up, or whose weight decay
    would not leave anything of a parameter.
    """
    optim, steps = config.optim, config.train.steps
    reached = optim.learning_rate * min(1.0, steps / max(optim.warmup_steps, 1))
    least = RANGES["config.optim.learning_rate"][0]
    if reached < least:
        raise ValueError(
            f"config.optim.warmup_steps={optim.warmup_steps}: config.optim.learning_rate would be "
            f"{reached:.1g} after config.train.steps={steps}, below {least}: nothing is learned."
        )
    if optim.learning_rate * optim.weight_decay >= 1:
        raise ValueError(
            f"config.optim.weight_decay={optim.weight_decay} times config.optim.learning_rate="
            f"{optim.learning_rate} must be below 1: it is the share of a parameter that each step "
            "removes."
        )


def check_memory(config: ConfigDict, most: int, limit: str) -> None:
    """Raises ValueError if a model needs more than `most` bytes; `limit` says whose they are."""
    model, rows = config.model, config.train.batch_size
    feed_forward = "feed_forward" in BLOCKS.find(model.block, "config.model.block").knobs
    hidden = model.feed_forward if feed_forward else 0
    layers = 1 if model.shared_layers else model.layers
    width, length = model.width, model.max_len
    positions = length * width if model.positions == "learned" else 0
    # All are lower bounds: what every block keeps for its backward pass; the parameters, with their
    # gradients and two moments; the ids of a batch.
    sizes = [f"config.model.{name}={model[name]}" for name in ("max_len", "width", "layers")]
    sizes += [f"config.model.feed_forward={hidden}"] if hidden else []
    for names, needed, what in (
        (sizes, 4 * length * (model.layers * width + hidden), "one row"),
        (sizes[1:], 16 * layers * width * (3 * width + 2 * hidden), "the parameters of the layers"),
        (sizes[:2], 16 * positions, "the table of positions"),
        ([f"config.train.batch_size={rows}"], 8 * rows, "the ids of a batch"),
    ):
        if needed > most:
            raise ValueError(
                f"{', '.join(names)} would take {human_bytes(needed)} for {what}, {limit} "
                f"({human_bytes(most)}): make one of them smaller."
            )


def human_bytes(count: int) -> str:
    """A number of bytes for people, such as 1.1 TB."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            number = count / size if count < 10**300 else math.inf
            return f"{number:.1f} {unit}" if number < 1000 else f"{number:.0e} {unit}"
    return f"{count} bytes"
