"""Reasons for malformed rows, in the same words with every engine."""

MALFORMED_JSON = "malformed JSON"
ARRAY_FOR_OBJECT = "an array, not an object: write one object per line"
NO_OBJECT = "not a JSON object: write one object per line"
KEY_TWICE = "a key appears twice in the object"
NOT_UTF_8 = "it is not UTF-8"
UNCLOSED_QUOTE = "a quote is opened and not closed"


def nested_value(name: str, is_list: bool) -> str:
    """Returns the reason for a value that is an object, or an array where none may be."""
    if is_list:
        return f"{name!r} has objects or arrays among its values"
    return f"{name!r} is an object or an array: several values need :several in --columns"


def infinite_value(name: str) -> str:
    """Returns the reason for a value that is infinite."""
    return f"{name!r} is infinite"


def wrong_width(found: int | None, wanted: int) -> str:
    """Returns the reason for a line of too few or too many fields; None stands for too many."""
    if found is None:
        return f"more than {wanted} fields"
    return f"{found} {'field' if found == 1 else 'fields'}, not {wanted}"
