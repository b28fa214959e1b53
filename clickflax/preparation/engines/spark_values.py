"""What Spark's workers make of a text, for which Spark has no function of its own.

They find these functions by their names, and import nothing else for them.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any


def parse_time(text: str, pattern: str) -> str | None:
    """A time by a pattern, as ISO 8601; None where it does not parse."""
    try:
        return datetime.strptime(text, pattern).isoformat(" ")
    except (TypeError, ValueError):
        return None


def values(keys: Sequence[str], line: str) -> list[str | None] | None:
    """The values of keys as texts, None where the line is no JSON."""
    try:
        found = read_json(line)
    except (ValueError, RecursionError):
        return None
    return [as_text(found.get(key)) if isinstance(found, dict) else None for key in keys]


def list_values(text: str) -> list[str | None] | None:
    """The values of a JSON array as texts, None where the text is none."""
    try:
        found = read_json(text) if text and text.startswith("[") else None
    except (ValueError, RecursionError):
        return None
    return [as_text(one) for one in found] if isinstance(found, list) else None


def read_json(text: str) -> Any:
    """What a text of JSON says."""

    def whole(digits: str) -> int | float:
        number = int(digits)
        return number if -(1 << 63) <= number < 1 << 64 else float(number)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON.")

    return json.loads(text, parse_int=whole, parse_constant=refuse)


def as_text(value: Any) -> str | None:
    """A value of JSON as text: numbers as the shortest that stands for them."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
