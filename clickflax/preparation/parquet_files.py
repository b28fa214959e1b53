"""Parquet files of a log: their columns, types and rows."""

import pathlib
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from clickflax.preparation.locate import Location, check_columns
from clickflax.preparation.text_files import COPY_AGAIN
from clickflax.runtime.files import local, reading


def read_schema(path: pathlib.Path) -> pa.Schema:
    """Returns the schema of a Parquet file.

    Raises ValueError if the file is damaged, or has two columns of one name.
    """
    with reading(path, COPY_AGAIN):
        schema = pq.read_schema(local(path))
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise ValueError(f"{path} has two columns {name!r}. Rename one of them.")
    return schema


def names_of_all(paths: Sequence[pathlib.Path]) -> tuple[str, ...]:
    """Returns the columns that at least one of the files has, in the order of the files."""
    return tuple(dict.fromkeys(name for path in paths for name in read_schema(path).names))


def check_types(paths: Sequence[pathlib.Path], wanted: Mapping[str, str]) -> None:
    """Raises ValueError if a file lacks a wanted column, or files differ in its type.

    Engines find a column of a further file by its name without regard to case: where that is of two
    columns, all files must have them in the same order.
    """
    schemas = {path: read_schema(path) for path in paths}
    first = schemas[paths[0]]
    for path, schema in schemas.items():
        for new, old in wanted.items():
            if old not in schema.names:
                others = [str(other) for other in paths if old in schemas[other].names]
                if others:
                    raise ValueError(
                        f"{path} has no column {old!r}, which {others[0]} has: write all files "
                        "with the same columns."
                    )
                check_columns(path, schema.names, {new: old})
            names = {*first.names, *schema.names}
            alike = sorted(name for name in names if name.lower() == old.lower())
            if len(alike) > 1 and schema.names != first.names:
                raise ValueError(
                    f"{path}: the columns {alike} differ in case only, and its columns are not "
                    f"those of {paths[0]} in the same order: write them alike, or rename one."
                )
            if schema.field(old).type != first.field(old).type:
                raise ValueError(
                    f"{old!r} is {first.field(old).type} in {paths[0]} and "
                    f"{schema.field(old).type} in {path}: write all files with the same types."
                )


def locate_parquet_row(paths: Sequence[pathlib.Path], row: int) -> Location:
    """Returns the location of a row of Parquet."""
    for path in paths:
        rows = pq.read_metadata(local(path)).num_rows
        if row < rows:
            return str(path), row + 1
        row -= rows
    raise IndexError(row)
