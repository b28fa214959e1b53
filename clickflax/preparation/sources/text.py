"""Text files that several sources read: delimited columns, words of lines, small tables."""

import functools
import pathlib

import ibis
from ibis import _

from clickflax.preparation.engines.base import Engine, Staged
from clickflax.preparation.locate import Location
from clickflax.preparation.text_files import check_text

LATIN_1 = "latin-1"  # the encoding of GroupLens

# `_row` of an item of a line is (file * LINE_STRIDE + line) * LINE_STRIDE + position in the line.
LINE_STRIDE = 1 << 30


def required_file(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of a text file. Raises an error if it is missing, a folder or no text."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the file in it.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    check_text([path])
    return path


def stage_columns(
    engine: Engine, path: pathlib.Path, names: tuple[str, ...], delimiter: str
) -> Staged:
    """Reads delimited text without a header; `names` are its columns."""
    wanted = {name: name for name in names}
    return engine.read_text([required_file(path)], names, wanted, delimiter=delimiter)


def split_words(lines: ibis.Table) -> ibis.Table:
    """Returns the lines that are not blank, with the column `words`."""
    lines = lines.filter(_["line"].strip() != "")
    return lines.mutate(words=_["line"].strip().re_split(r"\s+"))


def stage_items_of_lines(
    engine: Engine, lines: ibis.Table, paths: tuple[pathlib.Path, ...]
) -> Staged:
    """Returns lines with a list of items each as one event per item.

    `_row` of a line is its number, from 0, plus LINE_STRIDE times the number of its file.
    """
    events = lines.unnest("item", offset="_position")
    columns = [name for name in lines.columns if name != "_row"]
    events = events.select(*columns, _row=_["_row"] * LINE_STRIDE + _["_position"])
    locate = functools.partial(_locate_item, paths)
    return Staged(engine.con.create_table("events", events), locate)


def _locate_item(paths: tuple[pathlib.Path, ...], row: int) -> Location:
    """Returns the file and line of an event of `stage_items_of_lines`."""
    file, line = divmod(row // LINE_STRIDE, LINE_STRIDE)
    return str(paths[file]), line + 1
