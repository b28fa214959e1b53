"""Feature tables of items and sequences: small tables whose first column is `token`."""

import math
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

TEXT = pa.string()
INTEGER = pa.int64()
FRACTION = pa.float64()
TEXTS = pa.list_(TEXT)
FRACTIONS = pa.list_(FRACTION)


def features_from_rows(columns: Mapping[str, pa.DataType], rows: Iterable[Sequence]) -> pa.Table:
    """Returns a table with columns of these types from rows with one value per column."""
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [pa.array(v, type) for v, type in zip(values, columns.values(), strict=True)]
    return pa.table(arrays, names=list(columns))


def attach_features(table: pa.Table, features: pa.Table | None, key: str = "token") -> pa.Table:
    """Returns the table with the features of the tokens in its column `key`.

    A feature is null for a token without features. Raises ValueError if a feature has the name of
    a column of the table.
    """
    if features is None:
        return table
    options = pc.SetLookupOptions(value_set=features["token"].combine_chunks())
    rows = pc.call_function("index_in", [table[key]], options)
    for name in features.column_names:
        if name == "token":
            continue
        if name in table.column_names:
            raise ValueError(
                f"a feature cannot be named {name!r}: the names {table.column_names} are reserved. "
                "Rename the feature."
            )
        table = table.append_column(name, features[name].take(rows))
    return table


def with_one_nan(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Returns the values with one bit pattern for every NaN, so that engines write equal bytes."""
    if not pa.types.is_floating(values.type):
        return values
    nan = pa.scalar(math.nan, values.type)
    return pc.call_function("if_else", [pc.call_function("is_nan", [values]), nan, values])
