"""MovieLens-100K: the files of GroupLens."""

import pathlib

import pyarrow as pa

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.features import INTEGER, TEXT, TEXTS, features_from_rows
from clickflax.preparation.options import Options
from clickflax.preparation.sources.base import RawLog, register_source
from clickflax.preparation.sources.text import fields, required_file, stage_columns

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
    genres = [name for name, _number in fields(required_file(folder / "u.genre"), "|", "latin-1")]
    rows = []
    for row in fields(required_file(folder / "u.item"), "|", "latin-1"):
        flags = zip(genres, row[FIRST_GENRE:], strict=True)
        rows.append((row[0], row[1], [genre for genre, flag in flags if flag == "1"]))
    return features_from_rows({"token": TEXT, "title": TEXT, "genres": TEXTS}, rows)


def _read_users(path: pathlib.Path) -> pa.Table:
    """Returns the demographics of the users."""
    rows = ((user, int(age), *more) for user, age, *more in fields(path, "|", "latin-1"))
    return features_from_rows(USER_COLUMNS_100K, rows)
