"""Conditions on events: `action=buy`, `action=buy|cart`, `session=-1`, `action=buy&session=-1`."""

import numpy as np
from jaxtyping import Bool

from clickflax.batch import UNK
from clickflax.data.sessions import is_session_number
from clickflax.data.store import Dataset

AND, OR = "&", "|"


def matches(dataset: Dataset, condition: str) -> Bool[np.ndarray, " E"]:
    """Returns a mask of the events that meet a condition; an empty one is met by all.

    Sessions are numbered from the first of the sequence, 0, or backwards from the last, -1. An
    event with several values meets a condition if one of them does. Values with `&` or `|` cannot
    be named. Raises ValueError for a value that the data set does not have, and if no event
    matches.
    """
    matching = np.ones(dataset.events, bool)
    for term in condition.split(AND) if condition else ():
        name, equals, text = term.partition("=")
        if not equals or not text:
            raise ValueError(f"{term!r} is not of the form action=buy or session=-1.")
        if is_session_number(name, dataset.columns):
            matching &= _has_session(dataset, text)
        else:
            matching &= _has_value(dataset, name, text)
    if not matching.any():
        raise ValueError(f"no event of {dataset.path} has {condition!r}.")
    return matching


def _has_value(dataset: Dataset, name: str, text: str) -> Bool[np.ndarray, " E"]:
    """Returns a mask of the events with one of the values `buy|cart` of a variable."""
    tokens = text.split(OR)
    vocabulary = dataset.vocabulary(name)
    ids = vocabulary.ids(tokens)
    unknown = [token for token, id in zip(tokens, ids, strict=True) if id == UNK]
    if unknown:
        raise ValueError(
            f"{name!r} is never {unknown[0]!r} in {dataset.path}; it is one of "
            f"{sorted(vocabulary.tokens())[:20]}."
        )
    matching = np.isin(dataset.columns[name], ids)
    return matching if matching.ndim == 1 else np.asarray(matching.any(axis=1))


def _has_session(dataset: Dataset, text: str) -> Bool[np.ndarray, " E"]:
    """Returns a mask of the events of the session with the number `text`."""
    if dataset.sessions is None:
        raise ValueError(f"session={text} needs sessions: set config.data.chain.")
    if not text.removeprefix("-").isdigit():
        raise ValueError(f"session={text} is not a number such as 0 or -1.")
    number, wanted = dataset.sessions.number, int(text)
    if wanted < 0:
        last = number[dataset.offsets[1:] - 1]
        return number == np.repeat(last + 1 + wanted, np.diff(dataset.offsets))
    return number == wanted
