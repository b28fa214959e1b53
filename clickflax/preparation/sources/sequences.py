"""Sequences of items, one user per line, as S3-Rec publishes its data."""

import json
import pathlib
from collections.abc import Iterator

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.features import TEXT, TEXTS, features_from_rows
from clickflax.preparation.options import Options
from clickflax.preparation.sources.base import RawLog, register_source
from clickflax.preparation.sources.text import (
    required_file,
    split_words,
    stage_items_of_lines,
)


@register_source("sequences", raw="file of `user item item ...` lines", options=("attributes",))
def read_sequences(engine: Engine, raw: pathlib.Path, options: Options) -> RawLog:
    """Reads lines of `user item item ...`, and optionally the attributes of items from JSON."""
    lines = split_words(engine.read_lines([required_file(raw)], "lines"))
    events = lines.select("_row", sequence=lines["words"][0], item=lines["words"][1:])
    item_features = None
    if options.attributes is not None:
        attributes = _read_attributes(required_file(options.attributes))
        item_features = features_from_rows({"token": TEXT, "attributes": TEXTS}, attributes)
    return RawLog(stage_items_of_lines(engine, events, (raw,)), item_features=item_features)


def _read_attributes(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Yields each item of a JSON object with the list of its attributes."""
    try:
        attributes_of = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON in UTF-8: {error}.") from error
    if not isinstance(attributes_of, dict):
        raise ValueError(f"{path} is not a JSON object of item -> list of attributes.")
    for item, attributes in attributes_of.items():
        if not isinstance(attributes, list) or any(isinstance(a, list | dict) for a in attributes):
            raise ValueError(
                f"{path}: the attributes of {item!r} must be a list of names or numbers, "
                f"not {attributes!r}."
            )
        yield item, [str(attribute) for attribute in attributes]
