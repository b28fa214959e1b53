"""MovieLens-100K: the files of GroupLens."""

import pathlib
from collections.abc import Sequence

import pyarrow as pa

from clickflax.preparation.engines.base import Engine
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

FIRST_GENRE = 5  # column of u.item
USER_COLUMNS_100K = {
    "token": TEXT,
    "age": INTEGER,
    "gender": TEXT,
    "occupation": TEXT,
    "zip": TEXT,
}


@register_source("ml-100k", raw="folder with u.data, u.item, u.genre and u.user")
def read_ml_100k(engine: Engine, raw: pathlib.Path, options: Options) -> RawLog:
    """Reads u.data with the features of movies and users."""
    names = ("sequence", "item", "rating", "time")
    staged = stage_columns(engine, raw / "u.data", names, "\t")
    users = raw / "u.user"
    return RawLog(
        staged,
        numeric=("rating",),
        item_features=_read_movies(raw),
        sequence_features=_read_users(users) if users.is_file() else None,
    )


def _read_movies(folder: pathlib.Path) -> pa.Table:
    """Returns titles and genres of the movies."""
    path = required_file(folder / "u.item")
    genre_rows = rows_of_width(required_file(folder / "u.genre"), "|", 2, LATIN_1)
    genres = list(unique_rows(folder / "u.genre", genre_rows))
    rows = (
        (line, (row[0], row[1], _genres_of(genres, row[FIRST_GENRE:])))
        for line, row in rows_of_width(path, "|", FIRST_GENRE + len(genres), LATIN_1)
    )
    return features_from_rows(
        {"token": TEXT, "title": TEXT, "genres": TEXTS}, unique_rows(path, rows)
    )


def _genres_of(genres: Sequence[Sequence[str]], flags: Sequence[str]) -> list[str]:
    """Returns the names of the genres whose flag is 1."""
    return [name for (name, _number), flag in zip(genres, flags, strict=True) if flag == "1"]


def _read_users(path: pathlib.Path) -> pa.Table:
    """Returns the demographics of the users."""
    rows = (
        (line, parse_fields(path, line, USER_COLUMNS_100K, row))
        for line, row in rows_of_width(path, "|", len(USER_COLUMNS_100K), LATIN_1)
    )
    return features_from_rows(USER_COLUMNS_100K, unique_rows(path, rows))
