"""Kinds of named columns: categorical, numeric, or several values per event."""

import dataclasses
from collections.abc import Mapping

from clickflax.preparation.engines.base import Engine, Staged
from clickflax.preparation.options import Options
from clickflax.preparation.tokens import as_tokens


def kind_of_column(options: Options, name: str, default: str) -> str:
    """Returns the kind that `--columns` sets for a variable, or the default of its type."""
    if name in ("sequence", "item", "time"):
        return "categorical"
    return options.kind(name) or default


def names_of_kind(kinds: Mapping[str, str], kind: str) -> tuple[str, ...]:
    """Returns the names of the variables of a kind."""
    return tuple(name for name, kind_of_name in kinds.items() if kind_of_name == kind)


def split_values(
    engine: Engine, staged: Staged, several: tuple[str, ...], separator: str, json: bool = False
) -> Staged:
    """Returns the events with lists of tokens in the columns `several`.

    With `json`, a text may be a JSON array.
    """
    events = staged.events
    lists = {name: as_tokens(engine, name, events[name], separator, json) for name in several}
    return dataclasses.replace(staged, events=events.mutate(**lists))
