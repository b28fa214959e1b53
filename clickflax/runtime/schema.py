"""Schemas of JSON files: the shape that values must have, as plain data.

str, int, float, bool     a value of this type; true is no number, 1.0 no int, and NaN no float
None                      null
object                    any value
range(0, 9)               a whole number of the range
{"a", "b"}                one of these texts
FILE_NAME                 a text with a property, see `Text`
(str, None)               one of several schemas
[int]                     a list, each element of this schema
{"a": int, "b?": str}     an object with the key a, perhaps b, and no other
{"a": int, str: float}    the same; the values of all other keys have this schema
{FILE_NAME: int}          an object whose keys are such texts
"""

import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

REMEDY = "It was cut short or changed. Restore it from a backup, or make it again."
LARGEST = sys.float_info.max
LONGEST_NAME = 200  # bytes; file systems allow 255, and temporary names are longer
PLAIN_KEY = re.compile(r"[\w@=-]+")
TYPE_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class Text(NamedTuple):
    """Text with a property: what it is in words, and the test."""

    words: str
    holds: Callable[[str], bool]


class Mismatch(NamedTuple):
    """A value that is not of its schema: its keys from the top, and what is wrong."""

    keys: tuple[str | int, ...]
    problem: str


def is_file_name(name: str) -> bool:
    """Whether a text can be the name of a file in a folder; a path, `..` and "" cannot."""
    if not is_text(name) or name in ("", ".", "..") or len(os.fsencode(name)) > LONGEST_NAME:
        return False
    return not set(name) & {"/", "\\", "\0", os.sep}


def is_relative_path(path: str) -> bool:
    """Whether a text can be the path of a file below a folder."""
    return all(map(is_file_name, path.split("/")))


def is_text(text: str) -> bool:
    """Whether UTF-8 can encode a text: JSON can hold half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


FILE_NAME = Text("the name of a file", is_file_name)
RELATIVE_PATH = Text("the path of a file below the folder", is_relative_path)


def check_schema(
    path: str | os.PathLike, value: Any, schema: Any, place: str = "", remedy: str = REMEDY
) -> None:
    """Raises ValueError if a value of a file does not have a schema.

    The message has the file, the place of the wrong value, such as `variables.item.size`, the value
    and the way out. `place` is that of `value` in the file.
    """
    mismatch = next(_mismatches(value, schema), None)
    if mismatch is not None:
        where = _place(place, mismatch.keys) or "its content"
        raise ValueError(f"{path}: {where} {mismatch.problem}. {remedy}")


def shorten(value: Any) -> str:
    """The repr of a value, shortened to about a line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxdict = short.maxlist = short.maxlevel = 3
    return short.repr(value)


def _place(place: str, keys: tuple[str | int, ...]) -> str:
    """Keys as text: `cells[3].name`."""
    for key in keys:
        if isinstance(key, str) and PLAIN_KEY.fullmatch(key):
            place += f".{key}" if place else key
        else:
            place += f"[{shorten(key)}]"
    return place


def _mismatches(value: Any, schema: Any) -> Iterator[Mismatch]:
    """Yields the values that do not have their schema."""
    if isinstance(schema, tuple) and not isinstance(schema, Text):
        yield from _of_none(value, schema)
    elif isinstance(schema, list) and isinstance(value, list):
        for index, one in enumerate(value):
            yield from _below(index, one, schema[0])
    elif isinstance(schema, Mapping) and isinstance(value, dict):
        yield from _in_object(value, schema)
    elif not _is_plain(value, schema):
        yield Mismatch((), f"is {shorten(value)}, not {_words(schema)}")


def _of_none(value: Any, schemas: tuple) -> Iterator[Mismatch]:
    """Yields a mismatch if a value has none of these schemas: that of the one it comes nearest."""
    found = [next(_mismatches(value, schema), None) for schema in schemas]
    if all(found):
        deepest = max((one for one in found if one), key=lambda one: len(one.keys))
        words = " or ".join(map(_words, schemas))
        yield deepest if deepest.keys else Mismatch((), f"is {shorten(value)}, not {words}")


def _in_object(value: dict, schema: Mapping) -> Iterator[Mismatch]:
    """Yields the mismatches of an object."""
    named = {key.removesuffix("?"): one for key, one in schema.items() if _is_named(key)}
    others = [(key, one) for key, one in schema.items() if not _is_named(key)]
    for key in schema:
        if _is_named(key) and not key.endswith("?") and key not in value:
            yield Mismatch((key,), "is missing")
    for key, one in value.items():
        if key in named:
            yield from _below(key, one, named[key])
        elif not others:
            yield Mismatch((key,), f"is not one of the keys {sorted(named)}")
        elif not _is_plain(key, others[0][0]):
            yield Mismatch((), f"has the key {shorten(key)}, which is not {_words(others[0][0])}")
        else:
            yield from _below(key, one, others[0][1])


def _is_named(key: Any) -> bool:
    """Whether a key of a schema is a name; else it stands for all other keys."""
    return isinstance(key, str)


def _below(key: str | int, value: Any, schema: Any) -> Iterator[Mismatch]:
    """Yields the mismatches of a value of an object or list."""
    for mismatch in _mismatches(value, schema):
        yield Mismatch((key, *mismatch.keys), mismatch.problem)


def _is_plain(value: Any, schema: Any) -> bool:
    """Whether a value has a schema that has no schemas inside."""
    if schema is object or schema is None:
        return schema is object or value is None
    if isinstance(value, bool) or schema is bool:
        return isinstance(value, bool) and schema is bool
    if isinstance(value, str):
        if isinstance(schema, Text):
            return schema.holds(value)
        return is_text(value) if schema is str else isinstance(schema, set) and value in schema
    if isinstance(schema, range):
        return isinstance(value, int) and value in schema
    if schema is int:
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return schema is float and isinstance(value, int | float) and -LARGEST <= value <= LARGEST


def _words(schema: Any) -> str:
    """A schema in words."""
    if isinstance(schema, Text):
        return schema.words
    if isinstance(schema, range):
        return f"a whole number from {schema.start} to {schema.stop - 1}"
    if isinstance(schema, set):
        return f"one of {sorted(schema)}"
    if isinstance(schema, list):
        return "a list"
    if isinstance(schema, Mapping):
        return "an object"
    return "null" if schema is None else TYPE_WORDS.get(schema, "a value")
