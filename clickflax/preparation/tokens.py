"""Tokens: the text by which an item, a sequence or a category is known, whatever its column's type.

The same identifier is the same token in text, JSON and Parquet, as a number or a decimal, and with
the fraction that a missing value once gave to whole numbers.
"""

import sys
from collections.abc import Sequence
from typing import Any

import ibis
import ibis.expr.datatypes as dt

from clickflax.preparation.engines.base import Engine

WHOLE_FRACTION = r"\.0$"
FRACTION = r"^-?[0-9]+\.[0-9]+$"
SAMPLED_TOKENS = 1000  # enough to see that a column has other text than fractions


def default_kind(type: dt.DataType) -> str:
    """Returns the kind of a variable whose column has this type."""
    if isinstance(type, dt.Array) and not is_fraction(type.value_type):
        return "several"
    return "numeric" if is_fraction(type) else "categorical"


def is_fraction(type: dt.DataType) -> bool:
    """Returns whether a column of this type holds fractions."""
    return type.is_floating() or (isinstance(type, dt.Decimal) and type.scale != 0)


def as_token(engine: Engine, name: str, value: Any) -> Any:
    """Returns a value as a token: null if empty, NaN or infinite; no fraction if it is whole.

    Raises ValueError if the column `name` has a type that cannot be a token, such as a list.
    """
    type = value.type()
    if type.is_string():
        return value.nullif("")
    if type.is_integer():
        return value
    if type.is_floating():  # such as identifiers that a missing value once turned into fractions
        value = value.cast("float64")
        whole = value.try_cast("int64")
        token = ibis.ifelse(whole == value, whole.cast("string"), engine.format_number(value))
        finite = ~value.isnan() & (value.abs() <= sys.float_info.max)
        return ibis.ifelse(finite, token, ibis.null("string"))
    if isinstance(type, dt.Decimal):
        text = value.cast("string")
        return text.re_replace(r"\.?0+$", "") if type.scale else text
    if type.is_boolean() or type.is_temporal() or type.is_uuid():
        return value.cast("string")
    raise ValueError(
        f"{name} has values of the type {type}: a token is a text, a number, a truth value or a "
        "time. Convert the column."
    )


def as_tokens(engine: Engine, name: str, value: Any, separator: str, json: bool) -> Any:
    """Returns the distinct tokens of a list, or of a text with a separator, in sorted order.

    With `json`, a text may be a JSON array. Raises ValueError as `as_token` does.
    """
    if not value.type().is_array():
        text = as_token(engine, name, value).cast("string")
        value = engine.split_text(text, separator)
        if json:
            value = ibis.coalesce(engine.parse_json_list(text), value)
    tokens = value.map(lambda element: as_token(engine, name, element).cast("string"))
    return tokens.filter(lambda element: element.notnull()).unique().sort()


def find_fractions(engine: Engine, rows: ibis.Table, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the columns of text in which every value is written with a fraction, such as 10.0."""
    names = [name for name in names if rows[name].type().is_string()]
    # Most columns show in their first rows that they are not; only the others are read as a whole.
    counts = _count_fractions(engine, rows.limit(SAMPLED_TOKENS), names)
    names = [name for name, (values, fractions) in counts.items() if values == fractions]
    counts = _count_fractions(engine, rows, names)
    return tuple(name for name, (values, fractions) in counts.items() if 0 < values == fractions)


def _count_fractions(
    engine: Engine, rows: ibis.Table, names: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Returns the number of values of each column, and of those that are fractions."""
    if not names:
        return {}
    counts: dict[str, Any] = {}
    for k, name in enumerate(names):
        text: Any = rows[name]
        text = text.nullif("")
        counts |= {f"all{k}": text.count(), f"fractions{k}": text.re_search(FRACTION).sum()}
    (row,) = engine.to_arrow(rows.agg(**counts)).to_pylist()
    return {name: (row[f"all{k}"], row[f"fractions{k}"] or 0) for k, name in enumerate(names)}


def without_fraction(text: Any) -> Any:
    """Returns 10 for 10.0, as a number of that value is read."""
    return text.re_replace(WHOLE_FRACTION, "")


def null_if_missing(rows: ibis.Table, words: Sequence[str]) -> ibis.Table:
    """Returns the rows with null in place of texts that stand for a missing value."""
    if not words:
        return rows
    changed = {}
    for name in rows.columns:
        values: Any = rows[name]
        if name[0] == "_":
            continue
        if values.type().is_string():
            changed[name] = ibis.ifelse(values.isin(words), ibis.null("string"), values)
        elif values.type().is_array() and values.type().value_type.is_string():
            changed[name] = values.filter(lambda element: ~element.isin(words))
    return rows.mutate(**changed) if changed else rows
