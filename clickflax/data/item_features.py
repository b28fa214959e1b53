"""Item features: arrays of the catalog with a row for each of the N ids.

Texts, one or several, become ids [N, M], padded with PAD. Numbers, which are standardised, and
vectors become float32 [N, F], NaN where missing. Reserved ids have no features. A run keeps mean
and scale of a number, and reads later catalogs alike.
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
    """The values of a feature by id, and how they were read."""

    values: Shaped[np.ndarray, "N M"]
    variable: Variable

    @property
    def size(self) -> int:
        """Number of ids, the reserved ones included; 0 for numbers."""
        return self.variable.size


def read_item_features(
    items: Vocabulary, names: tuple[str, ...], before: Mapping[str, Variable]
) -> dict[str, ItemFeature]:
    """Reads the features `item.NAME` among `names`; numbers are standardised as `before`."""
    return {
        name: read_item_feature(items, name.removeprefix(ITEM_PREFIX), before.get(name))
        for name in names
        if name.startswith(ITEM_PREFIX)
    }


def read_item_feature(items: Vocabulary, name: str, before: Variable | None = None) -> ItemFeature:
    """Reads a column of the catalog. Raises ValueError if it does not exist or is empty."""
    column = items.column(name)
    if column is None:
        raise ValueError(
            f"config.data.variables names {ITEM_PREFIX + name!r}; the catalog has "
            f"{items.feature_names()}."
        )
    rows = [one if isinstance(one, list) else [] if one is None else [one] for one in column]
    kinds = {type(value) for row in rows for value in row}
    if not kinds:
        raise ValueError(f"no item has the feature {name!r}: leave {ITEM_PREFIX + name!r} out.")
    if kinds <= {int, float}:
        return _numbers(rows, name, before)
    tokens = sorted({str(value) for row in rows for value in row})
    id_of = {token: id for id, token in enumerate(tokens, start=RESERVED)}
    ids = np.full((RESERVED + len(rows), max(map(len, rows))), PAD, np.int32)
    for id, row in enumerate(rows, start=RESERVED):
        ids[id, : len(row)] = [id_of[str(value)] for value in row]
    return ItemFeature(ids, Variable(RESERVED + len(tokens), tokens=tuple(tokens)))


def _numbers(rows: list[list], name: str, before: Variable | None) -> ItemFeature:
    """Returns the number of each item, standardised, or its vector; NaN where missing."""
    widths = {len(row) for row in rows if row}
    if len(widths) > 1:
        raise ValueError(f"vectors of the feature {name!r} have {sorted(widths)} numbers.")
    values = np.full((RESERVED + len(rows), widths.pop()), np.nan)
    for id, row in enumerate(rows, start=RESERVED):
        if row:
            values[id] = row
    variable = Variable()
    if values.shape[1] == 1:
        variable = Variable(mean=float(np.nanmean(values)), scale=float(np.nanstd(values)) or 1.0)
        variable = before if before and not before.size else variable
    standardised = (values - variable.mean) / variable.scale
    return ItemFeature(standardised.astype(np.float32), variable)
