"""Feature tables of items and sequences: small tables whose first column is `token`."""

import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

TEXT = pa.string()
INTEGER = pa.int64()
FRACTION = pa.float64()
TEXTS = pa.list_(TEXT)
FRACTIONS = pa.list_(FRACTION)
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # within int64
FRACTION_TEXT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def unique_rows(path: pathlib.Path, rows: Iterable[tuple[int, Sequence]]) -> Iterator[Sequence]:
    """Yields the values of rows with their lines, the first value of which is the token.

    Raises ValueError if a row has no token, or that of an earlier row.
    """
    seen = set()
    for line, values in rows:
        token = values[0]
        if not token:
            raise ValueError(f"{path}, line {line}: the row has no identifier. Remove it.")
        if token in seen:
            raise ValueError(f"{path}, line {line}: {token!r} appears twice. Keep one row of it.")
        seen.add(token)
        yield values


def _parse_whole(text: str) -> int:
    """Returns a whole number. Raises ValueError for any other text."""
    if not WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _parse_fraction(text: str) -> float | None:
    """Returns a number, None if it is missing or NaN. Raises ValueError for any other text."""
    if text.strip().lower() in ("", "nan"):
        return None
    if not FRACTION_TEXT.fullmatch(text.strip()) or math.isinf(float(text)):
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def parse_fields(
    path: pathlib.Path, line: int, columns: Mapping[str, pa.DataType], row: Sequence[str]
) -> list:
    """Returns the fields of a line as values of these columns; None for an empty field.

    Values of a list are separated by spaces. Raises ValueError for a field of another type.
    """
    values = []
    for (name, type), text in zip(columns.items(), row, strict=True):
        try:
            values.append(_parse_field(type, text))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: the {name} {error}.") from error
    return values


def _parse_field(type: pa.DataType, text: str) -> str | int | float | list | None:
    """Returns a field as a value of a type; None if it is empty."""
    if type == TEXTS:
        return text.split()
    if type == FRACTIONS:
        return [_parse_fraction(piece) for piece in text.split()]
    if not text:
        return None
    if type == INTEGER:
        return _parse_whole(text)
    return _parse_fraction(text) if type == FRACTION else text


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
