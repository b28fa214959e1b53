"""Trees of parameters by name, such as `encoder/block_0/FeedForward_0/up/kernel`."""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict


def by_name(params: Any) -> dict[str, Any]:
    """The parameters by name."""
    return flatten_dict(params, sep="/")


def tree_of(named: Mapping[str, Any]) -> Any:
    """The tree of these parameters; undoes `by_name`."""
    return unflatten_dict(dict(named), sep="/")


def count_params(params: Any) -> int:
    """The number of elements of all parameters."""
    return sum(value.size for value in by_name(params).values())


def matching(knob: str, patterns: Sequence[str], names: Collection[str]) -> frozenset[str]:
    """The names that match at least one pattern of a knob.

    Raises ValueError for a pattern that matches no name.
    """
    matches = {pattern: set(fnmatch.filter(names, pattern)) for pattern in patterns}
    unused = [pattern for pattern, matched in matches.items() if not matched]
    if unused:
        raise ValueError(f"{knob}={unused} matches no parameter; the parameters are {list(names)}.")
    return frozenset().union(*matches.values())


def split_params(params: Any, names: Collection[str]) -> tuple[Any, Any]:
    """Returns the parameters without those of these names, and those of these names."""
    named = by_name(params)
    rest = {name: value for name, value in named.items() if name not in names}
    return tree_of(rest), tree_of({name: named[name] for name in named if name in names})


def join_params(left: Any, right: Any) -> Any:
    """Undoes `split_params`."""
    return tree_of(by_name(left) | by_name(right))
