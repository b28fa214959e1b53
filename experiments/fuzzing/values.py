"""Values of knobs and flags, and what a run is asked: each is taken, or refused by its name."""

import argparse
import pathlib
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from clickflax.config.check import check_config
from clickflax.config.default import default, knobs, override
from clickflax.inference.recommend import top_k
from clickflax.preparation.options import add_flags, from_flags
from clickflax.run.folder import Run, load_run
from experiments.fuzzing.files import template
from experiments.fuzzing.mutate import TEXTS, VALUES

NUMBERS = (
    *("0", "1", "-1", "2", "7", "1e30", "1e-300", "1e999", "-1e999", "nan", "inf", "-inf", "0.5"),
    *("2147483647", "2147483648", "9223372036854775808", "1_000", "0x10", "1.0", "True", "None"),
    *("(1,)", "(1, 2, 3)", "()", "(True,)", "('a',)", "[1]", "{}", "9" * 5000, "1,2", "1e-45"),
)
KNOBS = knobs(default())
OPTION_FLAGS = (
    *("--columns", "--delimiter", "--quote", "--separator", "--time-format", "--time-zone"),
    *("--session-gap", "--k-core", "--min-count", "--max-length", "--memory", "--threads"),
    *("--engine", "--missing", "--items"),
)
RUNS: list[Run] = []  # the run of `template`, once it is open


def any_knob(chance: random.Random, folder: pathlib.Path) -> str | None:
    """A config with one or two knobs at any text."""
    pairs = [
        f"{chance.choice(list(KNOBS))}={chance.choice((*NUMBERS, *TEXTS))}"
        for _ in range(chance.randint(1, 2))
    ]
    try:
        check_config(override(default(), pairs))
    except ValueError as error:
        if "config." not in str(error):
            return f"{pairs!r:.300} are refused without a knob's name: {error!r:.300}"
        raise
    return None


def any_flag(chance: random.Random, folder: pathlib.Path) -> str | None:
    """Options of `clickflax prepare` at any text."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser)
    flag = chance.choice(OPTION_FLAGS)
    text = chance.choice((*NUMBERS, *TEXTS, "sequence=a,item=b", "sequence=a,item=b,x=c:several"))
    try:
        flags = parser.parse_args([f"{flag}={text}"])
    except argparse.ArgumentError as error:
        raise ValueError(f"{flag}: {error.message}") from error
    from_flags(flags)
    return None


def any_history(chance: random.Random, folder: pathlib.Path) -> str | None:
    """Histories of any kind: one list per history, or an error."""
    if not RUNS:
        RUNS.append(load_run(template() / "run"))
    run = RUNS[0]
    tokens = [*run.items.tokens(), *run.items.names(), *TEXTS, *VALUES]
    histories: Any = [
        [chance.choice(tokens) for _ in range(chance.randint(0, 6))]
        for _ in range(chance.randint(1, 3))
    ]
    if chance.random() < 0.2:
        histories[0] = chance.choice(VALUES)
    holder = chance.choice((list, tuple, iter, _as_array))
    k = chance.choice((1, 3, 10, 10, 0, -1, 10**6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lists = top_k(run, holder(histories), k=k)
    if len(lists) != len(histories):
        return f"{len(lists)} lists for {histories!r:.300}"
    return None


def _as_array(histories: list) -> np.ndarray:
    """The histories as an array of objects."""
    array = np.empty(len(histories), dtype=object)
    for index, history in enumerate(histories):
        array[index] = history
    return array


VALUE_KINDS: dict[str, tuple[Callable[[random.Random, pathlib.Path], str | None], int]] = {
    "any_knob": (any_knob, 60),
    "any_flag": (any_flag, 60),
    "any_history": (any_history, 10),
}
