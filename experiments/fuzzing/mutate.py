"""Random damage: of bytes, of values in JSON, and values that have made other programs fail."""

import copy
import random
from collections.abc import Iterator
from typing import Any

PIECES = (
    *(bytes([byte]) for byte in b"\"'\x00\r\n\xff\xc3,;\t|[]{}:\\-\x1f"),
    *(
        b"\r\n",
        b"NaN",
        b"1e999",
        b"null",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        b"\x1b[2J",
        b"0.1",
        b"true",
    ),
    *(b"[" * 2000, b"9" * 400, b" " * 9),
)
TEXTS = (
    *("", " ", "a", "007", "10.0", "10", "NULL", "nan", "ü", "日本 🎌", "x y", "[/b]", "[red]x"),
    *(":smile:", 'q"q', "a,b", "<!--<script>", "\x1b[2J", "../../x", "/etc/passwd", "=1+1", "-1"),
    *("1e5", "%s", "{0}", "$(id)", "'; DROP TABLE x", "\u202eabc", "a\nb", "--help", "\\N", "*"),
    *("x" * 3000, "\u2028", "ﬀ", "ı"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, -(10**400), 0.5, -0.0, 1e308),
    *(float("inf"), float("nan"), [], {}, [[]], [None], {"a": {}}, [1, "a"], *TEXTS[:12]),
)


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """Bytes with one to three changes: flips, pieces put in, slices cut out or doubled, an end."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(data))
        to = min(len(data), at + chance.choice((1, 2, 9, 60)))
        change = chance.choice(("flip", "insert", "insert", "cut", "double", "truncate"))
        if change == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << chance.randint(0, 7))]) + data[at + 1 :]
        elif change == "insert":
            data = data[:at] + chance.choice(PIECES) + data[at:]
        elif change == "cut":
            data = data[:at] + data[to:]
        elif change == "double":
            data = data[:to] + data[at:]
        elif change == "truncate":
            data = data[:at]
    return data


def mutate_json(value: Any, chance: random.Random) -> Any:
    """A JSON value with one of its places changed: another value, key or length."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return chance.choice(VALUES)
    holder, key = chance.choice(places)
    change = chance.choice(("value", "value", "value", "remove", "add"))
    if change == "value":
        holder[key] = chance.choice(VALUES)
    elif change == "remove":
        del holder[key]
    elif isinstance(holder, dict):
        holder[chance.choice(TEXTS)] = chance.choice(VALUES)
    else:
        holder.insert(key, chance.choice(VALUES))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All places of a JSON value: the list or dictionary, and the index or key."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)
