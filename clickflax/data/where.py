"""Which events are meant by `action=buy`, `action=buy|cart`, `part=-1` or `action=buy&part=-1`."""

import numpy as np
from jaxtyping import Bool

from clickflax.batch import UNK
from clickflax.data.store import Dataset

AND, OR = "&", "|"


def matches(dataset: Dataset, condition: str) -> Bool[np.ndarray, " E"]:
    """The events of a data set that meet a condition; all of them for an empty one.

    A part is counted from the first of its sequence, 0, or from the last, -1. A value with `&` or
    `|` in it cannot be named. Raises ValueError for a value that the data set does not have, and
    where no event meets the condition.
    """
    found = np.ones(dataset.events, bool)
    for term in condition.split(AND) if condition else ():
        name, equals, text = term.partition("=")
        if not equals or not text:
            raise ValueError(f"{term!r} is not of the form action=buy or part=-1.")
        found &= _parts(dataset, text) if name == "part" else _values(dataset, name, text)
    if not found.any():
        raise ValueError(f"no event of {dataset.path} has {condition!r}.")
    return found


def _values(dataset: Dataset, name: str, text: str) -> Bool[np.ndarray, " E"]:
    """The events with one of these values of a variable, beside others where it has several."""
    tokens = text.split(OR)
    vocabulary = dataset.vocabulary(name)
    ids = vocabulary.ids(tokens)
    unknown = [token for token, id in zip(tokens, ids, strict=True) if id == UNK]
    if unknown:
        raise ValueError(
            f"{name!r} is never {unknown[0]!r} in {dataset.path}; it is one of "
            f"{sorted(vocabulary.tokens())[:20]}."
        )
    found = np.isin(dataset.columns[name], ids)
    return found if found.ndim == 1 else np.asarray(found.any(axis=1))


def _parts(dataset: Dataset, text: str) -> Bool[np.ndarray, " E"]:
    """The events of the part of this number."""
    if dataset.sessions is None:
        raise ValueError(f"part={text} needs parts: set data.chain.")
    if not text.removeprefix("-").isdigit():
        raise ValueError(f"part={text} is not a number such as 0 or -1.")
    number, wanted = dataset.sessions.number, int(text)
    if wanted < 0:
        last = number[dataset.offsets[1:] - 1]
        return number == np.repeat(last + 1 + wanted, np.diff(dataset.offsets))
    return number == wanted
