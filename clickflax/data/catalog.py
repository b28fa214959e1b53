"""Features that hang on items and sequences: small tables whose first column is `token`."""

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

TEXT, WHOLE, FRACTION = pa.string(), pa.int64(), pa.float64()
TEXTS, FRACTIONS = pa.list_(TEXT), pa.list_(FRACTION)


def features(columns: Mapping[str, pa.DataType], rows: Iterable[Sequence]) -> pa.Table:
    """A table of features from rows of values, one for each column."""
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [pa.array(v, type) for v, type in zip(values, columns.values(), strict=True)]
    return pa.table(arrays, names=list(columns))


def attach(table: pa.Table, found: pa.Table | None, key: str = "token") -> pa.Table:
    """The table with the features of its tokens, null where a token has none."""
    if found is None:
        return table
    options = pc.SetLookupOptions(value_set=found["token"].combine_chunks())
    rows = pc.call_function("index_in", [table[key]], options)
    for name in found.column_names:
        if name == "token":
            continue
        if name in table.column_names:
            raise ValueError(
                f"a feature cannot be named {name!r}: {table.column_names} are taken. Rename it."
            )
        table = table.append_column(name, found[name].take(rows))
    return table


def fields(path: pathlib.Path, delimiter: str, encoding: str) -> Iterator[list[str]]:
    """The fields of each line of a small file; no quoting."""
    with path.open(encoding=encoding) as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n").split(delimiter)
