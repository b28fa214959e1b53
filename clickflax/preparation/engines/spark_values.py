"""Functions of text that run in Spark's workers, which have no built-in equivalent.

The workers import this module by its name: it imports nothing but the standard library.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any


def parse_time(text: str, pattern: str) -> str | None:
    """Returns a time in ISO 8601, parsed by a pattern; None if it does not parse."""
    try:
        return datetime.strptime(text, pattern).isoformat(" ")
    except (TypeError, ValueError):
        return None


def json_values(keys: Sequence[str], line: str) -> list[str | None] | None:
    """Returns the values of keys as texts, None if the line is not JSON."""
    try:
        value = parse_json(line)
    except (ValueError, RecursionError):
        return None
    return [json_text(value.get(key)) if isinstance(value, dict) else None for key in keys]


def json_list_values(text: str) -> list[str | None] | None:
    """Returns the values of a JSON array as texts, None if the text is not an array."""
    try:
        value = parse_json(text) if text and text.startswith("[") else None
    except (ValueError, RecursionError):
        return None
    return [json_text(element) for element in value] if isinstance(value, list) else None


def parse_json(text: str) -> Any:
    """Parses JSON as DuckDB does: integers beyond 64 bits are floats, NaN is an error."""

    def parse_integer(digits: str) -> int | float:
        number = int(digits)
        return number if -(1 << 63) <= number < 1 << 64 else float(number)

    def refuse_constant(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON.")

    return json.loads(text, parse_int=parse_integer, parse_constant=refuse_constant)


def json_text(value: Any) -> str | None:
    """Returns a value of JSON as text; numbers are as short as possible."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
