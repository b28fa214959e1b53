"""Pairs of user and item, one per line."""

import pathlib

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.options import Options
from clickflax.preparation.sources.base import RawLog, register_source
from clickflax.preparation.sources.text import required_file, stage_columns
from clickflax.preparation.text_files import find_delimiter


@register_source("pairs", raw="file of `user item` lines", options=("delimiter",))
def read_pairs(engine: Engine, raw: pathlib.Path, options: Options) -> RawLog:
    """Reads lines of `user item`; the lines of a user are in order of time."""
    delimiter = options.delimiter or find_delimiter(required_file(raw), quote="")
    return RawLog(
        stage_columns(engine, raw, ("sequence", "item"), delimiter),
        form=f"text, its fields separated by {delimiter!r}",
    )
