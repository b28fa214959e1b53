"""RecBole's atomic files: tab-separated text whose header names and types each column."""

import itertools
import pathlib
from collections.abc import Mapping

import pyarrow as pa

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.features import (
    FRACTION,
    FRACTIONS,
    TEXT,
    TEXTS,
    features_from_rows,
    parse_fields,
    unique_rows,
)
from clickflax.preparation.locate import check_columns
from clickflax.preparation.options import VARIABLE_NAME, Options
from clickflax.preparation.sources.base import RawLog, register_source
from clickflax.preparation.sources.columns import kind_of_column, names_of_kind, split_values
from clickflax.preparation.sources.text import required_file
from clickflax.preparation.text_files import first_record, rows_of_width

KEY_COLUMNS = {
    "sequence": ("user_id", "session_id"),
    "item": ("item_id",),
    "time": ("timestamp",),
}
# Names of features in other sources.
FEATURE_NAMES = {"movie_title": "title", "class": "genres", "genre": "genres"}
KIND_OF_TYPE = {
    "token": "categorical",
    "float": "numeric",
    "token_seq": "several",
    "float_seq": "categorical",
}
FEATURE_TYPES = {"token": TEXT, "float": FRACTION, "token_seq": TEXTS, "float_seq": FRACTIONS}


@register_source("recbole", raw="folder with .inter, .item and .user files", options=("columns",))
def read_recbole(engine: Engine, raw: pathlib.Path, options: Options) -> RawLog:
    """Reads X.inter, and X.item and X.user if they exist."""
    events = _find_atomic_file(raw, ".inter")
    if events is None:
        raise FileNotFoundError(f"{raw} has no file that ends in .inter.")
    types = _read_types(events)
    wanted = {column.name: column.source for column in options.columns} or _wanted_columns(types)
    check_columns(events, tuple(types), wanted)
    headers = tuple(f"{name}:{type}" for name, type in types.items())
    wanted_headers = {new: f"{old}:{types[old]}" for new, old in wanted.items()}
    kinds = {
        new: kind_of_column(options, new, KIND_OF_TYPE[types[old]]) for new, old in wanted.items()
    }
    several = names_of_kind(kinds, "several")
    staged = engine.read_text([events], headers, wanted_headers, delimiter="\t", header=True)
    return RawLog(
        split_values(engine, staged, several, " "),
        names_of_kind(kinds, "numeric"),
        several,
        item_features=_read_features(_find_atomic_file(raw, ".item"), wanted["item"]),
        sequence_features=_read_features(_find_atomic_file(raw, ".user"), wanted["sequence"]),
        unused_columns=tuple(name for name in types if name not in wanted.values()),
    )


def _find_atomic_file(raw: pathlib.Path, suffix: str) -> pathlib.Path | None:
    """Returns the file with a suffix in a folder, or next to the .inter file `raw`; or None."""
    if raw.is_file():
        path = raw.with_suffix(suffix)
        return required_file(path) if path.is_file() else None
    if not raw.is_dir():
        raise FileNotFoundError(f"{raw} does not exist.")
    paths = sorted(raw.glob(f"*{suffix}"))
    if len(paths) > 1:
        raise ValueError(f"{raw} has {[p.name for p in paths]}: name one .inter file with --raw.")
    return required_file(paths[0]) if paths else None


def _read_types(path: pathlib.Path) -> dict[str, str]:
    """Returns the type of each column of an atomic file, from its header."""
    types: dict[str, str] = {}
    for field in first_record(path, "\t", ""):
        name, _, type = field.partition(":")
        if name in types:
            raise ValueError(f"{path}, line 1: {name!r} appears twice in the header. Rename one.")
        types[name] = type
    for name, type in types.items():
        if type not in FEATURE_TYPES:
            raise ValueError(
                f"{path}: the type {type!r} of {name!r} is not one of {sorted(FEATURE_TYPES)}."
            )
    return types


def _wanted_columns(types: Mapping[str, str]) -> dict[str, str]:
    """Returns the columns of an .inter file to read, {new name: name}: all that are not lists."""
    wanted = {}
    for new, candidates in KEY_COLUMNS.items():
        names = [name for name in candidates if name in types]
        if names:
            wanted[new] = names[0]
        elif new != "time":
            raise ValueError(
                f"no {' or '.join(candidates)} among the columns {list(types)}: "
                "name the columns with --columns."
            )
    lists = [name for name, type in types.items() if type.endswith("_seq")]
    skipped = [*wanted.values(), *lists]
    names = [name for name in types if name not in skipped and VARIABLE_NAME.fullmatch(name)]
    return {**wanted, **{name: name for name in names}}


def _read_features(path: pathlib.Path | None, key: str) -> pa.Table | None:
    """Returns an .item or .user file as the features of the tokens in its column `key`."""
    if path is None:
        return None
    types = _read_types(path)
    if key not in types:
        raise ValueError(f"{path} has no column {key!r}; it has {list(types)}.")
    schema = {"token": TEXT}
    positions = [list(types).index(key)]
    for position, (name, type) in enumerate(types.items()):
        if name != key:
            feature = FEATURE_NAMES.get(name, name)
            if feature in schema:
                raise ValueError(
                    f"{path}: {name!r} would be the second feature {feature!r}. Rename the column."
                )
            schema[feature] = TEXT if name == "movie_title" else FEATURE_TYPES[type]
            positions.append(position)
    lines = itertools.islice(rows_of_width(path, "\t", len(types)), 1, None)
    rows = (
        (line, parse_fields(path, line, schema, [row[position] for position in positions]))
        for line, row in lines
    )
    return features_from_rows(schema, unique_rows(path, rows))
