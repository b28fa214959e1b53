"""Sequences of items, one user per line, as S3-Rec publishes its data."""

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import ibis

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.features import TEXT, TEXTS, features_from_rows
from clickflax.preparation.options import Options
from clickflax.preparation.sources.base import RawLog, register_source
from clickflax.preparation.sources.text import (
    required_file,
    split_words,
    stage_items_of_lines,
)
from clickflax.preparation.text_files import COPY_AGAIN
from clickflax.runtime.files import reading


@register_source("sequences", raw="file of `user item item ...` lines", options=("attributes",))
def read_sequences(engine: Engine, raw: pathlib.Path, options: Options) -> RawLog:
    """Reads lines of `user item item ...`, and optionally the attributes of items from JSON."""
    lines = split_words(engine.read_lines([required_file(raw)], "lines"))
    events = lines.select("_row", sequence=lines["words"][0], item=lines["words"][1:])
    item_features = None
    if options.attributes is not None:
        attributes = _read_attributes(required_file(options.attributes))
        item_features = features_from_rows({"token": TEXT, "attributes": TEXTS}, attributes)
    check_items(engine, events, raw)
    return RawLog(stage_items_of_lines(engine, events, (raw,)), item_features=item_features)


def check_items(engine: Engine, lines: ibis.Table, path: pathlib.Path) -> None:
    """Raises ValueError if a line has a sequence and no item."""
    items: Any = lines["item"]
    without = lines.filter(items.length() == 0).order_by("_row").limit(1)
    for row in engine.to_arrow(without.select("_row", "sequence")).to_pylist():
        raise ValueError(
            f"{path}, line {row['_row'] + 1}: the sequence {row['sequence']!r} has no item. Words "
            "are separated by white space, not by commas: remove the line, or take the source log."
        )


def _read_attributes(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Yields each item of a JSON object with the list of its attributes."""
    with reading(path, COPY_AGAIN):
        text = path.read_text(encoding="utf-8-sig")
        attributes_of = json.loads(text, object_pairs_hook=functools.partial(_unique_keys, path))
    if not isinstance(attributes_of, dict):
        raise ValueError(f"{path} is not a JSON object of item -> list of attributes.")
    for item, attributes in attributes_of.items():
        wrong = (list, dict, float, bool, type(None))
        if not isinstance(attributes, list) or any(isinstance(a, wrong) for a in attributes):
            raise ValueError(
                f"{path}: the attributes of {item!r} must be a list of names or whole numbers, "
                f"not {attributes!r:.100}."
            )
        yield item, [str(attribute) for attribute in attributes]


def _unique_keys(path: pathlib.Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the pairs of a JSON object. Raises ValueError if a key appears twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _value in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{path}: {twice!r} appears twice. Keep one entry of it.")
    return found
