"""Variables that a model reads of each event, by their names in `config.data.variables`.

    NAME            a variable of the log: categorical, numeric, or several values
    time, gap       the time; the logarithm of the seconds since the previous event
    hour, weekday   of the event, in UTC
    session         the number of the session in its sequence
    count.NAME=X    the logarithm of the number of events so far with this value
    since.NAME=X    the logarithm of the seconds since the last such event
    count.NAME      the same, of events with this event's own value, such as its item
    since.NAME
    sequence.NAME   a feature of the sequence
    next.NAME       another variable, of the following event; `config.data.given` adds it

All but the first and the last are derived (derived.py), and extensions may register more.
Conditions are joined by `&`: `count.item&action=cart`.

A column is int32 ids or float32 numbers. Numbers are standardised, or become the ids of their
quantiles. Missing ids are NA, missing numbers NaN. Means, edges of quantiles and tokens are those
of the training events; a run keeps them, so that later data are read alike.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from clickflax.batch import NA, NEXT_EVENT, RESERVED, UNK
from clickflax.data.batches import shift_left
from clickflax.data.derived import Column, derive_column
from clickflax.data.store import Dataset, Vocabulary
from clickflax.runtime.schema import Text, is_file_name

# Schema of a variable as JSON. A value in its name, as in count.action=a/b, may be any text.
STORED_NAME = Text("the name of a variable", lambda name: is_file_name(name.partition("=")[0]))
VARIABLE = {
    "size": range(1 << 31),
    "mean": float,
    "scale": float,
    "edges": [float],
    "tokens": [str],
    "several?": bool,
}


@dataclasses.dataclass(frozen=True)
class Variable:
    """How a variable is read.

    `size` is the number of ids, the reserved ones included; 0 stands for a number, which is read as
    `(x - mean) / scale`. Ids are RESERVED plus the index of the quantile between `edges`, or of the
    text in `tokens`, if there are any. With `several`, an event has several values.
    """

    size: int = 0
    mean: float = 0.0
    scale: float = 1.0
    edges: tuple[float, ...] = ()
    tokens: tuple[str, ...] = ()
    several: bool = False


def variable_from_json(values: Mapping[str, Any]) -> Variable:
    """Returns the variable whose fields were stored as JSON."""
    lists = {name: tuple(values[name]) for name in ("edges", "tokens")}
    return Variable(**{**values, **lists})


def describe_variables(
    dataset: Dataset,
    names: tuple[str, ...],
    quantiles: Mapping[str, int],
    trained: Bool[np.ndarray, " E"],
    after: tuple[str, ...] = (),
) -> dict[str, Variable]:
    """Returns how each variable is read, from its values at the `trained` events.

    Variables in `after` are also read of the following event. A number in `quantiles` becomes one
    of that many ids. Raises ValueError for a variable that the data set does not have, for a number
    that is constant, and for quantiles of a variable that is not a number.
    """
    others = sorted(quantiles.keys() - set(names))
    if others:
        raise ValueError(
            f"config.data.quantiles names {others[0]!r}, which is not one of the variables of "
            f"events in config.data.variables: {list(names)}."
        )
    too_few = sorted(name for name, count in quantiles.items() if count < 2)
    if too_few:
        raise ValueError(
            f"config.data.quantiles: {too_few[0]}={quantiles[too_few[0]]} must be 2 or more."
        )
    variables = {name: _describe(dataset, name, quantiles.get(name, 0), trained) for name in names}
    return variables | {NEXT_EVENT + name: variables[name] for name in after}


def _describe(
    dataset: Dataset, name: str, quantiles: int, trained: Bool[np.ndarray, " E"]
) -> Variable:
    """Returns how one variable is read."""
    column = find_column(dataset, name)
    if column.size and quantiles:
        raise ValueError(f"config.data.quantiles names {name!r}, which has ids and no numbers.")
    if column.size:
        return Variable(column.size, tokens=column.tokens, several=column.values.ndim > 1)
    values = np.asarray(column.values[trained], np.float64)
    values = values[np.isfinite(values)]
    if not len(values) or values.min() == values.max():
        problem = f"is always {values[0]}" if len(values) else "has no value"
        raise ValueError(
            f"{name!r} {problem} in the training events of {dataset.path}: leave it out."
        )
    if quantiles:
        edges = np.unique(np.quantile(values, np.arange(1, quantiles) / quantiles))
        return Variable(RESERVED + len(edges) + 1, edges=tuple(edges.tolist()))
    return Variable(mean=float(values.mean()), scale=float(values.std()))


def read_columns(dataset: Dataset, variables: Mapping[str, Variable]) -> dict[str, np.ndarray]:
    """Returns the columns of the variables, int32 ids or float32 numbers, at all P positions."""
    columns = {}
    for name, variable in variables.items():
        values = dataset.with_separators(_read(dataset, name.removeprefix(NEXT_EVENT), variable))
        columns[name] = shift_left(values) if name.startswith(NEXT_EVENT) else values
    return columns


def encode_value(name: str, variable: Variable, vocabulary: Vocabulary | None, text: str) -> Any:
    """Returns the id or the number that stands for a text, such as `buy` or `12.5`, in a column.

    Raises ValueError if the variable has no such value.
    """
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
    if variable.size and not variable.edges:  # such as an hour
        if value not in range(variable.size - RESERVED):
            last = variable.size - RESERVED - 1
            raise ValueError(f"{name}={text} is not a whole number from 0 to {last}.")
        return RESERVED + int(value)
    if variable.edges:
        return RESERVED + int(np.searchsorted(variable.edges, value, side="right"))
    return (value - variable.mean) / variable.scale


def _read(dataset: Dataset, name: str, variable: Variable) -> Shaped[np.ndarray, "E ..."]:
    """Returns one column, as the variable says.

    Raises ValueError if the data set has ids for numbers, or several values for one.
    """
    column = find_column(dataset, name)
    values = column.values
    if variable.tokens and not column.size and np.isnan(values).all():
        # No sequence has the text, so that nothing in the data set says that it is one.
        return missing_column(variable, dataset.events)
    if bool(column.size) != bool(variable.size and not variable.edges):
        raise ValueError(
            f"{name!r} has {'ids' if column.size else 'numbers'} in {dataset.path}, but "
            f"{'numbers' if column.size else 'ids'} where the run was trained."
        )
    if (values.ndim > 1) != variable.several:
        raise ValueError(
            f"{name!r} has {'one value' if variable.several else 'several values'} per event in "
            f"{dataset.path}, {'several' if variable.several else 'one'} where the run was "
            "trained."
        )
    if variable.edges:
        ids = RESERVED + np.searchsorted(np.array(variable.edges), values, side="right")
        return np.where(np.isnan(values), NA, ids).astype(np.int32)
    if column.tokens:
        return _ids_in_run(column, variable.tokens)
    if variable.size:
        return values
    return ((values - variable.mean) / variable.scale).astype(np.float32)


def _ids_in_run(column: Column, tokens: Sequence[str]) -> Shaped[np.ndarray, "E ..."]:
    """Returns the ids of a column of texts among the tokens of a run; UNK for other texts."""
    id_of = {token: id for id, token in enumerate(tokens, start=RESERVED)}
    ids = [*range(RESERVED), *(id_of.get(token, UNK) for token in column.tokens)]
    return np.array(ids, np.int32)[column.values]


def missing_column(variable: Variable, events: int) -> Shaped[np.ndarray, "E ..."]:
    """Returns a column in which every value is missing."""
    if not variable.size:
        return np.full(events, np.nan, np.float32)
    return np.full((events, 1) if variable.several else events, NA, np.int32)


def find_column(dataset: Dataset, name: str) -> Column:
    """Returns the column of a variable: of the log if it has one of this name, else derived.

    Raises ValueError if there is neither.
    """
    if name in dataset.vocabularies:
        return Column(dataset.columns[name], dataset.size(name))
    if name in dataset.columns and name != "time":
        return Column(dataset.columns[name])
    return derive_column(dataset, name)
