"""What the catalog says of each item: arrays with a row for every id.

A text, or several, becomes ids [N, M], filled up with PAD; a number, standardised, or a given
vector becomes float32 [N, F], NaN where it is missing. The reserved ids have no features. Mean and
scale of a number are kept with a run, whose later catalogs are read so.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from clickflax.batch import PAD, RESERVED
from clickflax.data.store import Vocabulary
from clickflax.data.variables import Variable

ITEM_PREFIX = "item."


class ItemFeature(NamedTuple):
    """The values of every item, and how they were read."""

    values: Shaped[np.ndarray, "N M"]
    variable: Variable

    @property
    def size(self) -> int:
        """How many ids there are among the values; 0: they are numbers."""
        return self.variable.size


def read_item_features(
    items: Vocabulary, names: tuple[str, ...], before: Mapping[str, Variable]
) -> dict[str, ItemFeature]:
    """The features `item.NAME` among `names`; numbers that were read `before` are read so again."""
    return {
        name: read_item_feature(items, name.removeprefix(ITEM_PREFIX), before.get(name))
        for name in names
        if name.startswith(ITEM_PREFIX)
    }


def read_item_feature(items: Vocabulary, name: str, before: Variable | None = None) -> ItemFeature:
    """A column of the catalog. Raises ValueError where there is none, or it says nothing."""
    column = items.column(name)
    if column is None:
        raise ValueError(
            f"data.variables names {ITEM_PREFIX + name!r}; the catalog has {items.feature_names()}."
        )
    rows = [one if isinstance(one, list) else [] if one is None else [one] for one in column]
    kinds = {type(value) for row in rows for value in row}
    if not kinds:
        raise ValueError(f"no item has the feature {name!r}: leave {ITEM_PREFIX + name!r} out.")
    if kinds <= {int, float}:
        return _numbers(rows, name, before)
    tokens = sorted({str(value) for row in rows for value in row})
    place = {token: id for id, token in enumerate(tokens, start=RESERVED)}
    ids = np.full((RESERVED + len(rows), max(map(len, rows))), PAD, np.int32)
    for id, row in enumerate(rows, start=RESERVED):
        ids[id, : len(row)] = [place[str(value)] for value in row]
    return ItemFeature(ids, Variable(RESERVED + len(tokens), tokens=tuple(tokens)))


def _numbers(rows: list[list], name: str, before: Variable | None) -> ItemFeature:
    """A number of each item, standardised, or its vector, NaN where there is none."""
    widths = {len(row) for row in rows if row}
    if len(widths) > 1:
        raise ValueError(f"vectors of the feature {name!r} have {sorted(widths)} numbers.")
    values = np.full((RESERVED + len(rows), widths.pop()), np.nan)
    for id, row in enumerate(rows, start=RESERVED):
        if row:
            values[id] = row
    how = Variable()
    if values.shape[1] == 1:
        how = Variable(mean=float(np.nanmean(values)), scale=float(np.nanstd(values)) or 1.0)
        how = before if before and not before.size else how
    return ItemFeature(((values - how.mean) / how.scale).astype(np.float32), how)
