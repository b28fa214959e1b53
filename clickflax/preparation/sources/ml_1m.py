"""MovieLens-1M: the files of GroupLens, or those of the SASRec repository."""

import dataclasses
import pathlib

import ibis
import pyarrow as pa

from clickflax.preparation.engines.base import Engine, Staged
from clickflax.preparation.features import (
    INTEGER,
    TEXT,
    TEXTS,
    features_from_rows,
    parse_fields,
    unique_rows,
)
from clickflax.preparation.options import Options
from clickflax.preparation.sources.base import RawLog, register_source
from clickflax.preparation.sources.text import LATIN_1, required_file, stage_columns
from clickflax.preparation.text_files import rows_of_width

USER_COLUMNS = {
    "token": TEXT,
    "gender": TEXT,
    "age": INTEGER,
    "occupation": INTEGER,
    "zip": TEXT,
}


@register_source("ml-1m", raw="folder with ratings.dat, or with sequences.txt and its id maps")
def read_ml_1m(engine: Engine, raw: pathlib.Path, options: Options) -> RawLog:
    """Reads ratings.dat of GroupLens, or sequences.txt of SASRec with the original ids."""
    folder = raw if raw.is_dir() else raw.parent
    item_features = _read_movies(required_file(folder / "movies.dat"))
    users = folder / "users.dat"
    sequence_features = _read_users(users) if users.is_file() else None
    ratings = folder / "ratings.dat"
    sequences = folder / "sequences.txt"
    if raw != sequences and (ratings.is_file() or not sequences.is_file()):
        numeric = ("rating",)
        staged = stage_columns(engine, ratings, ("sequence", "item", "rating", "time"), "::")
    else:
        numeric = ()
        staged = stage_columns(engine, sequences, ("sequence", "item"), " ")
        staged = _map_ids(engine, staged, "sequence", folder / "sas_to_original_users.txt")
        staged = _map_ids(engine, staged, "item", folder / "sas_to_original_items.txt")
    return RawLog(staged, numeric, item_features=item_features, sequence_features=sequence_features)


def _read_movies(path: pathlib.Path) -> pa.Table:
    """Returns titles and genres of the movies."""
    rows = (
        (line, (movie, title, genres.split("|")))
        for line, (movie, title, genres) in rows_of_width(path, "::", 3, LATIN_1)
    )
    return features_from_rows(
        {"token": TEXT, "title": TEXT, "genres": TEXTS}, unique_rows(path, rows)
    )


def _read_users(path: pathlib.Path) -> pa.Table:
    """Returns the demographics of the users."""
    rows = (
        (line, parse_fields(path, line, USER_COLUMNS, row))
        for line, row in rows_of_width(path, "::", len(USER_COLUMNS), LATIN_1)
    )
    return features_from_rows(USER_COLUMNS, unique_rows(path, rows))


def _map_ids(engine: Engine, staged: Staged, column: str, path: pathlib.Path) -> Staged:
    """Returns the events with the ids of a column replaced by a file of `old new` lines.

    Raises ValueError if an id is not in the file.
    """
    ids = features_from_rows(
        {"_old": TEXT, "_new": TEXT},
        unique_rows(path, rows_of_width(required_file(path), " ", 2)),
    )
    unknown = staged.events.anti_join(ibis.memtable(ids), [(column, "_old")])
    first = unknown.order_by("_row").limit(1).select("_row", column)
    for row in engine.to_arrow(first).to_pylist():
        file, line = staged.locate(row["_row"])
        raise ValueError(f"{file}, line {line}: {column} {row[column]!r} is not in {path}.")
    table = engine.con.create_table(f"names_{column}", ibis.memtable(ids))
    events = staged.events.left_join(table, [(column, "_old")]).drop("_old", column)
    return dataclasses.replace(staged, events=events.rename({column: "_new"}))
