"""Sessions of items, one per line, in a training file and a test file."""

import pathlib

import ibis
from ibis import _

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.options import Options
from clickflax.preparation.sources.base import RawLog, register_source
from clickflax.preparation.sources.text import (
    LINE_STRIDE,
    required_file,
    split_words,
    stage_items_of_lines,
)

SPLIT_NAMES = ("train", "test")


@register_source(
    "sessions", raw="folder with a train and a test file, or a file with --test", options=("test",)
)
def read_sessions(engine: Engine, raw: pathlib.Path, options: Options) -> RawLog:
    """Reads lines of `item item ...`; sequences are named train/1, train/2, ..., test/1, ..."""
    paths = (raw, options.test) if options.test else _find_split_files(raw)
    splits = []
    for split, (name, path) in enumerate(zip(SPLIT_NAMES, paths, strict=True)):
        lines = split_words(engine.read_lines([required_file(path)], f"lines_{name}"))
        number = (_["_row"] + 1).cast("string")
        splits.append(
            lines.select(
                _row=_["_row"] + split * LINE_STRIDE,
                sequence=f"{name}/" + number,
                item=lines["words"],
                _split=ibis.literal(split, "int8"),
            )
        )
    return RawLog(stage_items_of_lines(engine, ibis.union(*splits), paths))


def _find_split_files(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the training file and the test file of a folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: name the test file too, with --test FILE.")
    paths = []
    for name in SPLIT_NAMES:
        files = sorted(path for path in folder.iterdir() if name in path.name and path.is_file())
        if len(files) != 1:
            names = [path.name for path in files]
            raise ValueError(
                f"{folder} has {len(files)} files with {name!r} in their name {names}, not one. "
                "Name them: --raw TRAIN --test TEST."
            )
        paths.append(files[0])
    return paths[0], paths[1]
