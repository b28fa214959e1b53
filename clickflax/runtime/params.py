"""Parameters by name, such as `encoder/block_0/FeedForward_0/up/kernel`: chosen, parted, joined."""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict


def by_name(params: Any) -> dict[str, Any]:
    """Every parameter by its name."""
    return flatten_dict(params, sep="/")


def tree_of(named: Mapping[str, Any]) -> Any:
    """The tree of parameters with such names."""
    return unflatten_dict(dict(named), sep="/")


def count_params(params: Any) -> int:
    """How many numbers the parameters are."""
    return sum(value.size for value in by_name(params).values())


def matching(knob: str, patterns: Sequence[str], names: Collection[str]) -> frozenset[str]:
    """The names that one of the patterns of a knob matches.

    Raises ValueError for a pattern that matches none.
    """
    found = {pattern: set(fnmatch.filter(names, pattern)) for pattern in patterns}
    unused = [pattern for pattern, matched in found.items() if not matched]
    if unused:
        raise ValueError(f"{knob}={unused}: no parameter has such a name; there are {list(names)}.")
    return frozenset().union(*found.values())


def split_params(params: Any, names: Collection[str]) -> tuple[Any, Any]:
    """The parameters without those of such names, and these."""
    named = by_name(params)
    rest = {name: value for name, value in named.items() if name not in names}
    return tree_of(rest), tree_of({name: named[name] for name in named if name in names})


def join_params(some: Any, others: Any) -> Any:
    """Undoes `split_params`."""
    return tree_of(by_name(some) | by_name(others))
