"""Functions of text that run in Spark's workers, which have no built-in equivalent.

The workers import this module by its name: it imports nothing heavy.
"""

import json
import math
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from clickflax.preparation.reasons import (
    ARRAY_FOR_OBJECT,
    KEY_TWICE,
    MALFORMED_JSON,
    NO_OBJECT,
    infinite_value,
    nested_value,
)


def parse_time(text: str, pattern: str) -> str | None:
    """Returns a time in ISO 8601, parsed by a pattern; None if it does not parse."""
    try:
        return datetime.strptime(text, pattern).isoformat(" ")
    except (TypeError, ValueError):
        return None


def json_keys(line: str) -> list[str]:
    """Returns the keys of a JSON object; none if the line is no object."""
    try:
        value = parse_json(line)
    except (ValueError, RecursionError):
        return []
    return list(value) if isinstance(value, dict) else []


def json_row(wanted: Mapping[str, str], lists: Collection[str], line: str) -> list[str | None]:
    """Returns the values of the wanted keys as texts, and the reason if the row is malformed."""
    nothing: list[str | None] = [None] * len(wanted)
    try:
        value = parse_json(line)
    except KeyTwice:
        return [*nothing, KEY_TWICE]
    except (ValueError, RecursionError):
        return [*nothing, MALFORMED_JSON]
    if not isinstance(value, dict):
        return [*nothing, ARRAY_FOR_OBJECT if isinstance(value, list) else NO_OBJECT]
    for new, old in wanted.items():
        reason = _reason_against(old, value.get(old), new in lists)
        if reason:
            return [*nothing, reason]
    return [*(json_text(value.get(old)) for old in wanted.values()), None]


def _reason_against(name: str, value: Any, is_list: bool) -> str | None:
    """Returns why a value cannot be read, or None."""
    elements = value if is_list and isinstance(value, list) else [value]
    if any(isinstance(element, dict | list) for element in elements):
        return nested_value(name, is_list)
    return infinite_value(name) if isinstance(value, float) and math.isinf(value) else None


def json_list_values(text: str) -> list[str | None] | None:
    """Returns the values of a JSON array as texts, None if the text is not an array."""
    try:
        value = parse_json(text) if text and text.startswith("[") else None
    except (ValueError, RecursionError):
        return None
    return [json_text(element) for element in value] if isinstance(value, list) else None


class KeyTwice(ValueError):
    """Raised for an object in which a key appears twice."""


def parse_json(text: str) -> Any:
    """Parses JSON. Raises KeyTwice, and ValueError for other malformed JSON."""

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise KeyTwice
        return found

    return json.loads(text, object_pairs_hook=unique_keys)


def json_text(value: Any) -> str | None:
    """Returns a value of JSON as text; null if it is NaN, and without a fraction if it is whole."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.removesuffix(".0") if isinstance(value, float) else text
