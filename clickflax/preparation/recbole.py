"""RecBole's atomic files: tab separated, each column named and typed in the header."""

import pathlib
from collections.abc import Iterator, Mapping

import pyarrow as pa

from clickflax.preparation.catalog import (
    FRACTION,
    FRACTIONS,
    TEXT,
    TEXTS,
    features,
    fields,
    numbered_fields,
)
from clickflax.preparation.options import NAME

KEYS = {"sequence": ("user_id", "session_id"), "item": ("item_id",), "time": ("timestamp",)}
NAMES = {"movie_title": "title", "class": "genres", "genre": "genres"}  # as other sources say
KINDS = {
    "token": "categorical",
    "float": "numeric",
    "token_seq": "several",
    "float_seq": "categorical",
}
TYPES = {"token": TEXT, "float": FRACTION, "token_seq": TEXTS, "float_seq": FRACTIONS}


def find(raw: pathlib.Path, ending: str) -> pathlib.Path | None:
    """The atomic file of a kind in a folder, or beside the .inter file that `raw` names."""
    if raw.is_file():
        path = raw.with_suffix(ending)
        return path if path.is_file() else None
    if not raw.is_dir():
        raise FileNotFoundError(f"{raw} is not there.")
    paths = sorted(raw.glob(f"*{ending}"))
    if len(paths) > 1:
        raise ValueError(f"{raw} has {[p.name for p in paths]}: name one .inter file with --raw.")
    return paths[0] if paths else None


def types(path: pathlib.Path) -> dict[str, str]:
    """The types of the columns of an atomic file, from its header."""
    header = next(fields(path, "\t", "utf-8-sig"), None)
    if header is None:
        raise ValueError(f"{path} is empty.")
    parts = [field.partition(":") for field in header]
    found = {name: type for name, _, type in parts}
    for name, type in found.items():
        if type not in TYPES:
            raise ValueError(f"{path}: the type {type!r} of {name!r} is not in {sorted(TYPES)}.")
    return found


def columns(types: Mapping[str, str]) -> dict[str, str]:
    """The columns of an .inter file to take up, {new name: name}: all that are not lists."""
    wanted = {}
    for new, candidates in KEYS.items():
        found = [name for name in candidates if name in types]
        if found:
            wanted[new] = found[0]
        elif new != "time":
            raise ValueError(
                f"there is no {' or '.join(candidates)} among the columns {list(types)}: "
                "name the columns with --columns."
            )
    taken = [*wanted.values(), *(name for name, type in types.items() if type.endswith("_seq"))]
    rest = [name for name in types if name not in taken and NAME.fullmatch(name)]
    return {**wanted, **{name: name for name in rest}}


def read_features(path: pathlib.Path | None, key: str) -> pa.Table | None:
    """An .item or .user file as features of the tokens in its column `key`."""
    if path is None:
        return None
    found = types(path)
    if key not in found:
        raise ValueError(f"{path} has no column {key!r}; it has {list(found)}.")
    schema, order = {"token": TEXT}, [list(found).index(key)]
    for position, (name, type) in enumerate(found.items()):
        if name != key:
            schema[NAMES.get(name, name)] = TEXT if name == "movie_title" else TYPES[type]
            order.append(position)
    return features(schema, _rows(path, list(schema.values()), order, len(found)))


def _rows(
    path: pathlib.Path, kinds: list[pa.DataType], order: list[int], width: int
) -> Iterator[list]:
    """The values of each line of an atomic file, in this order and of these kinds."""
    for line, row in numbered_fields(path, "\t", "utf-8-sig"):
        if line == 1:
            continue
        if len(row) != width:
            raise ValueError(f"{path}, line {line}: {len(row)} fields, not {width}.")
        try:
            yield [_value(kind, row[k]) for kind, k in zip(kinds, order, strict=True)]
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}.") from error


def _value(kind: pa.DataType, text: str) -> str | float | list | None:
    """The value of a field; None where it is empty."""
    if kind == TEXTS:
        return text.split()
    if kind == FRACTIONS:
        return [float(piece) for piece in text.split()]
    if not text:
        return None
    return float(text) if kind == FRACTION else text
