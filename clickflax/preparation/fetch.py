"""Raw logs that lie elsewhere: files at URLs, through fsspec, and tables of a warehouse."""

import pathlib

import ibis

from clickflax.data.remote import is_url, open_url, without_secrets
from clickflax.preparation.options import Options


def bring(raw: str, folder: pathlib.Path, options: Options) -> pathlib.Path:
    """A log from elsewhere as a file or a folder in `folder`: the files of a URL as they are, a
    table of the warehouse that `--engine` names with its rows in the order of time, then of the
    other columns.
    """
    name = raw.rstrip("/").rpartition("/")[2]
    if not is_url(options.engine):
        files, root = open_url(raw)
        if not files.exists(root):
            raise FileNotFoundError(f"{without_secrets(raw)} is not there.")
        files.get(root, str(folder / name), recursive=files.isdir(root))
        return folder / name
    try:
        _write_table(raw, folder / f"{name}.parquet", options)
    except (ValueError, OSError):
        raise
    except Exception as error:  # each warehouse has errors of its own
        raise ValueError(
            f"{without_secrets(options.engine)}: {str(error).splitlines()[0]}"
        ) from error
    return folder / f"{name}.parquet"


def _write_table(raw: str, path: pathlib.Path, options: Options) -> None:
    """Writes the wanted columns of a table, TABLE or DATABASE.TABLE, as Parquet."""
    con = ibis.connect(options.engine)
    try:
        database, _, name = raw.rpartition(".")
        table = con.table(name, database=database or None)
        wanted = {column.name: column.source for column in options.columns}
        for new, old in wanted.items():
            if old not in table.columns:
                raise ValueError(
                    f"{raw} has no column {old!r} for {new}; it has {list(table.columns)}."
                )
        if "time" not in wanted:
            raise ValueError(f"the rows of {raw} have no order: name its time in --columns.")
        columns = list(dict.fromkeys([wanted["time"], *wanted.values()]))
        con.to_parquet(table.select(columns).order_by(columns), path)
    finally:
        con.disconnect()
