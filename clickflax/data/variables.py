"""What a model reads of an event: a column of ids or of numbers for each name in `data.variables`.

    NAME            a variable of the log, categorical or numeric, or of several values at once,
                    whose ids [E, M] are filled up with PAD
    sequence.NAME   a feature of the sequence, the same at all of its events
    time            the moment of the event, a number
    gap             the logarithm of the seconds since the event before it, a number
    hour, weekday   of the event in UTC, ids
    next.NAME       another variable, of the event after; these come of `data.given`
    count.NAME=X    the logarithm of how many events of the sequence had this value so far, 1 more,
                    this one included: windows are cut, and attention is a mean, which cannot count
    since.NAME=X    the logarithm of the seconds since the last of them before this event, 1 more;
                    missing where there is none
    count.NAME      the same of the events with this event's own value, as of its item or its part;
    since.NAME      several conditions are joined: count.item&action=cart, since.part&action=cart
    part            the number of its part in the chain, an id; from 31 on the same

Whatever the source has, the model gets int32 ids or float32 numbers; a number is standardised, or
becomes the id of its quantile. Missing ids are NA, missing numbers NaN. What was found in the
training events (means, edges of quantiles, tokens) is kept with a run, which reads later data so.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped

from clickflax.batch import NA, NEXT_EVENT, RESERVED, UNK
from clickflax.data.batches import shift_left
from clickflax.data.running_counts import count_matching
from clickflax.data.store import Dataset, Vocabulary

SECOND = 1_000_000  # in microseconds, as all times are
HOUR, DAY = 3600 * SECOND, 24 * 3600 * SECOND
TIME_VARIABLES = ("time", "gap", "hour", "weekday")
SEQUENCE_PREFIX = "sequence."
COUNT_PREFIX, SINCE_PREFIX = "count.", "since."
MAX_SESSIONS = 32


@dataclasses.dataclass(frozen=True)
class Variable:
    """How a variable is read.

    `size` counts its ids, the reserved ones included; 0: it is the number `(x - mean) / scale`.
    The ids of a number are its places between `edges`, those of a text its places in `tokens`. An
    event has one value, or `several`, of which another data set may have more or fewer.
    """

    size: int = 0
    mean: float = 0.0
    scale: float = 1.0
    edges: tuple[float, ...] = ()
    tokens: tuple[str, ...] = ()
    several: bool = False


def variable_from_json(values: Mapping[str, Any]) -> Variable:
    """The variable whose fields were stored as JSON."""
    lists = {name: tuple(values[name]) for name in ("edges", "tokens")}
    return Variable(**{**values, **lists})


class Column(NamedTuple):
    """What a data set has for a variable: ids when `size` is not 0, else numbers."""

    values: Shaped[np.ndarray, "E ..."]
    size: int = 0
    tokens: tuple[str, ...] = ()


def describe_variables(
    dataset: Dataset,
    names: tuple[str, ...],
    quantiles: Mapping[str, int],
    trained: Bool[np.ndarray, " E"],
    after: tuple[str, ...] = (),
) -> dict[str, Variable]:
    """How each variable is to be read, from what its `trained` events have; those of `after` also
    of the event after.

    A number in `quantiles` becomes one of so many ids. Raises ValueError for what the data set does
    not have, for a number that is always the same, and for quantiles of what is no number.
    """
    others = sorted(quantiles.keys() - set(names))
    if others:
        raise ValueError(
            f"data.quantiles names {others[0]!r}, which is none of the variables of an event in "
            f"data.variables: {list(names)}."
        )
    few = sorted(name for name, count in quantiles.items() if count < 2)
    if few:
        raise ValueError(f"data.quantiles: {few[0]}={quantiles[few[0]]} must be 2 or more.")
    found = {name: _describe(dataset, name, quantiles.get(name, 0), trained) for name in names}
    return found | {NEXT_EVENT + name: found[name] for name in after}


def _describe(
    dataset: Dataset, name: str, quantiles: int, trained: Bool[np.ndarray, " E"]
) -> Variable:
    """How one variable is to be read."""
    found = find_column(dataset, name, None)
    if found.size and quantiles:
        raise ValueError(f"data.quantiles names {name!r}, which has ids and no numbers.")
    if found.size:
        return Variable(found.size, tokens=found.tokens, several=found.values.ndim > 1)
    values = np.asarray(found.values[trained], np.float64)
    values = values[np.isfinite(values)]
    if not len(values) or values.min() == values.max():
        what = f"is always {values[0]}" if len(values) else "has no value"
        raise ValueError(f"{name!r} {what} in the training events of {dataset.path}: leave it out.")
    if quantiles:
        edges = np.unique(np.quantile(values, np.arange(1, quantiles) / quantiles))
        return Variable(RESERVED + len(edges) + 1, edges=tuple(edges.tolist()))
    return Variable(mean=float(values.mean()), scale=float(values.std()))


def read_columns(dataset: Dataset, variables: Mapping[str, Variable]) -> dict[str, np.ndarray]:
    """The columns of a data set, at all places of its chains, as `variables` say: int32 ids or
    float32 numbers.
    """
    found = {}
    for name, variable in variables.items():
        values = dataset.with_separators(_read(dataset, name.removeprefix(NEXT_EVENT), variable))
        found[name] = shift_left(values) if name.startswith(NEXT_EVENT) else values
    return found


def encode_value(name: str, variable: Variable, vocabulary: Vocabulary | None, text: str) -> Any:
    """What a column has for a value in words: `buy`, or a number."""
    if vocabulary is not None:
        (id,) = vocabulary.ids([text])
        if id == UNK:
            raise ValueError(
                f"{name!r} is never {text!r}; it is one of {sorted(vocabulary.tokens())[:20]}."
            )
        return int(id)
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name}={text} is not a number, as {name!r} is.") from None
    if variable.size and not variable.edges:  # an hour, a weekday, a part
        if value not in range(variable.size - RESERVED):
            most = variable.size - RESERVED - 1
            raise ValueError(f"{name}={text} is not a whole number from 0 to {most}.")
        return RESERVED + int(value)
    if variable.edges:
        return RESERVED + int(np.searchsorted(variable.edges, value, side="right"))
    return (value - variable.mean) / variable.scale


def _read(dataset: Dataset, name: str, variable: Variable) -> Shaped[np.ndarray, "E ..."]:
    """One column."""
    found = find_column(dataset, name, variable.tokens)
    values = found.values
    if bool(found.size) != bool(variable.size and not variable.edges):
        raise ValueError(
            f"{name!r} has {'ids' if found.size else 'numbers'} in {dataset.path}, and did not "
            "where the run was trained."
        )
    if (values.ndim > 1) != variable.several:
        raise ValueError(
            f"{name!r} has {'one value' if variable.several else 'several values'} an event in "
            f"{dataset.path}, and {'several' if variable.several else 'one'} where the run was "
            "trained."
        )
    if variable.edges:
        ids = RESERVED + np.searchsorted(np.array(variable.edges), values, side="right")
        return np.where(np.isnan(values), NA, ids).astype(np.int32)
    if variable.size:
        return values
    return ((values - variable.mean) / variable.scale).astype(np.float32)


def missing_column(variable: Variable, events: int) -> Shaped[np.ndarray, "E ..."]:
    """A column in which every value is missing."""
    if not variable.size:
        return np.full(events, np.nan, np.float32)
    return np.full((events, 1) if variable.several else events, NA, np.int32)


def find_column(dataset: Dataset, name: str, tokens: tuple[str, ...] | None) -> Column:
    """What a data set has for a variable; `tokens` are those of a text, None: still to be found."""
    if name in dataset.vocabularies:
        return Column(dataset.columns[name], dataset.size(name))
    if name in dataset.columns and name != "time":
        return Column(dataset.columns[name])
    if name in TIME_VARIABLES:
        return _from_time(dataset, name)
    if name == "part" and dataset.sessions is not None:
        number = np.minimum(dataset.sessions.number, MAX_SESSIONS - 1)
        return Column((RESERVED + number).astype(np.int32), RESERVED + MAX_SESSIONS)
    if name.startswith(COUNT_PREFIX):
        return Column(_counts(dataset, name.removeprefix(COUNT_PREFIX)))
    if name.startswith(SINCE_PREFIX):
        return Column(_since(dataset, name.removeprefix(SINCE_PREFIX)))
    values = None
    if name.startswith(SEQUENCE_PREFIX):
        values = dataset.sequence_column(name.removeprefix(SEQUENCE_PREFIX))
    if values is None:
        raise ValueError(
            f"data.variables names {name!r}; this data set has {sorted(dataset.columns)}; with "
            f"times, {list(TIME_VARIABLES)}; with data.chain, 'part'; and of their values, such as "
            "count.action=buy and since.action=buy; sequence.NAME, item.NAME."
        )
    owner = np.repeat(np.arange(dataset.sequences), np.diff(dataset.offsets))
    if not tokens and all(isinstance(value, int | float | None) for value in values):
        return Column(np.array(values, np.float64)[owner])
    known = {str(value) for value in values if value is not None} if tokens is None else tokens
    places = {token: RESERVED + place for place, token in enumerate(sorted(known))}
    ids = [NA if value is None else places.get(str(value), UNK) for value in values]
    return Column(np.array(ids, np.int32)[owner], RESERVED + len(places), tuple(places))


def _counts(dataset: Dataset, condition: str) -> Float[np.ndarray, " E"]:
    """log(1 + events so far that a condition counts)."""
    return np.log1p(count_matching(dataset, condition).count())


def _since(dataset: Dataset, condition: str) -> Float[np.ndarray, " E"]:
    """log(1 + seconds since the last event before that a condition counts), NaN without one."""
    time = _time(dataset, SINCE_PREFIX + condition)
    last = count_matching(dataset, condition).last()
    return np.where(last < 0, np.nan, np.log1p(np.maximum(time - time[last], 0) / SECOND))


def _time(dataset: Dataset, name: str) -> Int64[np.ndarray, " E"]:
    """The times of the events, for the variable `name`."""
    if "time" not in dataset.columns:
        raise ValueError(f"data.variables names {name!r}, but {dataset.path} has no times.")
    return dataset.columns["time"]


def _from_time(dataset: Dataset, name: str) -> Column:
    """What follows from the times of the events."""
    time = _time(dataset, name)
    if name == "hour":
        return Column((RESERVED + time % DAY // HOUR).astype(np.int32), RESERVED + 24)
    if name == "weekday":  # 1970 began on a Thursday
        return Column((RESERVED + (time // DAY + 3) % 7).astype(np.int32), RESERVED + 7)
    return Column(_gaps(time, dataset.offsets) if name == "gap" else time / SECOND)


def _gaps(
    time: Int64[np.ndarray, " E"], offsets: Int64[np.ndarray, " bounds"]
) -> Float[np.ndarray, " E"]:
    """log(1 + seconds since the event before), NaN at the first event of a sequence."""
    gaps = np.log1p(np.maximum(np.diff(time, prepend=time[:1]), 0) / SECOND)
    gaps[offsets[:-1]] = np.nan
    return gaps
