"""Derived variables: columns that are computed from the events of a data set.

An extension registers its own, which `config.data.variables` may then name:

    @VARIABLES.register("is_weekend")
    def is_weekend(dataset: Dataset, argument: str) -> Column: ...

A registered name that ends with a dot is a prefix. The rest of the variable's name is the argument:
`count.item` is `VARIABLES["count."](dataset, "item")`. Without a prefix the argument is empty. A
value must not depend on later events, nor, if a task masks a variable, on that variable.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped

from clickflax.batch import NA, RESERVED, Registry
from clickflax.data.durations import DAY, HOUR, SECOND
from clickflax.data.running_counts import count_matching
from clickflax.data.sessions import SESSION, is_session_number
from clickflax.data.store import Dataset

SEQUENCE_PREFIX, COUNT_PREFIX, SINCE_PREFIX = "sequence.", "count.", "since."
MAX_SESSIONS = 32


class Column(NamedTuple):
    """The values of a variable at the E events of a data set.

    If `size` is 0, they are float numbers [E], NaN where missing. Otherwise they are int32 ids
    below `size`, NA where missing: [E], or [E, M] with PAD after the last value of an event.
    `tokens` are those of the ids from RESERVED on, for texts without a vocabulary in the data set.
    """

    values: Shaped[np.ndarray, "E ..."]
    size: int = 0
    tokens: tuple[str, ...] = ()


VARIABLES: Registry[Callable[[Dataset, str], Column]] = Registry("variable")


def derive_column(dataset: Dataset, name: str) -> Column:
    """Returns the column of a derived variable. Raises ValueError if no variable has this name."""
    prefix, dot, argument = name.partition(".")
    registered = SESSION if is_session_number(name, dataset.columns) else prefix + dot
    if registered not in VARIABLES:
        raise ValueError(
            f"config.data.variables names {name!r}. {dataset.path} has {sorted(dataset.columns)}; "
            f"derived variables are {_variable_names()}; item.NAME is a feature of the item."
        )
    column = VARIABLES[registered](dataset, argument)
    _check_column(name, column, dataset.events)
    return column


def _variable_names() -> list[str]:
    """Returns the names of all derived variables, a prefix as `count.NAME`."""
    return [name + "NAME" if name.endswith(".") else name for name in sorted(VARIABLES)]


def _check_column(name: str, column: Column, events: int) -> None:
    """Raises ValueError if a column is not as `Column` says."""
    values = column.values
    if len(values) != events:
        raise ValueError(f"variable {name!r} has {len(values)} values for {events} events.")
    wanted = np.integer if column.size else np.floating
    if not np.issubdtype(values.dtype, wanted):
        raise ValueError(
            f"variable {name!r} has values of type {values.dtype} and size {column.size}: return "
            "int32 ids and their size, or floats and size 0."
        )
    if column.size and not (values.min() >= 0 and values.max() < column.size):
        raise ValueError(
            f"variable {name!r} has ids from {values.min()} to {values.max()}: they must be below "
            f"its size {column.size}."
        )


def event_times(dataset: Dataset, name: str) -> Int64[np.ndarray, " E"]:
    """Returns the times of the events in microseconds since 1970.

    Raises ValueError, with the name of the variable, if the data set has no times.
    """
    if "time" not in dataset.columns:
        raise ValueError(f"config.data.variables names {name!r}, but {dataset.path} has no times.")
    return dataset.columns["time"]


@VARIABLES.register("time")
def time(dataset: Dataset, argument: str) -> Column:
    """Seconds since 1970."""
    return Column(event_times(dataset, "time") / SECOND)


@VARIABLES.register("gap")
def gap(dataset: Dataset, argument: str) -> Column:
    """log(1 + seconds since the previous event), missing at the first event of a sequence."""
    times = event_times(dataset, "gap")
    gaps = np.log1p(np.maximum(np.diff(times, prepend=times[:1]), 0) / SECOND)
    gaps[dataset.offsets[:-1]] = np.nan
    return Column(gaps)


@VARIABLES.register("hour")
def hour(dataset: Dataset, argument: str) -> Column:
    """Hour of the day in UTC, 0 to 23."""
    hours = event_times(dataset, "hour") % DAY // HOUR
    return Column((RESERVED + hours).astype(np.int32), RESERVED + 24)


@VARIABLES.register("weekday")
def weekday(dataset: Dataset, argument: str) -> Column:
    """Day of the week in UTC, 0 is Monday."""
    days = event_times(dataset, "weekday") // DAY
    thursday = 3  # the first day of 1970
    return Column((RESERVED + (days + thursday) % 7).astype(np.int32), RESERVED + 7)


@VARIABLES.register(SESSION)
def session(dataset: Dataset, argument: str) -> Column:
    """Number of the session in its sequence, 0 to 30; 31 for all later sessions."""
    if dataset.sessions is None:
        raise ValueError("the variable 'session' needs sessions: set config.data.chain.")
    number = np.minimum(dataset.sessions.number, MAX_SESSIONS - 1)
    return Column((RESERVED + number).astype(np.int32), RESERVED + MAX_SESSIONS)


@VARIABLES.register(COUNT_PREFIX)
def count(dataset: Dataset, argument: str) -> Column:
    """log(1 + number of matching events so far, this one included).

    A transformer cannot count: its windows are cut, and attention computes means.
    """
    return Column(np.log1p(count_matching(dataset, argument).count()))


@VARIABLES.register(SINCE_PREFIX)
def since(dataset: Dataset, argument: str) -> Column:
    """log(1 + seconds since the last matching event before this one), missing without one."""
    times = event_times(dataset, SINCE_PREFIX + argument)
    last = count_matching(dataset, argument).last()
    elapsed = np.log1p(np.maximum(times - times[last], 0) / SECOND)
    return Column(np.where(last < 0, np.nan, elapsed))


@VARIABLES.register(SEQUENCE_PREFIX)
def sequence_feature(dataset: Dataset, argument: str) -> Column:
    """A feature of the sequence, numeric or text, the same at all of its events."""
    values = dataset.sequence_column(argument)
    if values is None:
        raise ValueError(
            f"config.data.variables names {SEQUENCE_PREFIX + argument!r}; the sequences of "
            f"{dataset.path} have {dataset.sequence_features()}."
        )
    owner = np.repeat(np.arange(dataset.sequences), np.diff(dataset.offsets))
    if all(isinstance(value, int | float | None) for value in values):
        return Column(np.array(values, np.float64)[owner])
    tokens = tuple(sorted({str(value) for value in values if value is not None}))
    id_of = {token: id for id, token in enumerate(tokens, start=RESERVED)}
    ids = [NA if value is None else id_of[str(value)] for value in values]
    return Column(np.array(ids, np.int32)[owner], RESERVED + len(tokens), tokens)
