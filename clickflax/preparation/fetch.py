"""Remote logs: files at URLs, through fsspec, and tables of a warehouse, through Ibis."""

import pathlib

import ibis

from clickflax.data.remote import is_url, open_url
from clickflax.preparation.options import Options
from clickflax.runtime.redact import without_secrets


def fetch_log(raw: str, folder: pathlib.Path, options: Options) -> pathlib.Path:
    """Copies a remote log into `folder` and returns the path of the copy.

    The files of a URL are copied as they are. A table of the warehouse that `--engine` names is
    written as Parquet, its rows sorted by time and then by the other columns.
    """
    name = raw.rstrip("/").rpartition("/")[2]
    if not is_url(options.engine):
        files, root = open_url(raw)
        if not files.exists(root):
            raise FileNotFoundError(f"{without_secrets(raw)} does not exist.")
        files.get(root, str(folder / name), recursive=files.isdir(root))
        return folder / name
    try:
        _write_warehouse_table(raw, folder / f"{name}.parquet", options)
    except (ValueError, OSError):
        raise
    except Exception as error:  # each warehouse raises errors of its own
        raise ValueError(
            f"{without_secrets(options.engine)}: {str(error).splitlines()[0]}"
        ) from error
    return folder / f"{name}.parquet"


def _write_warehouse_table(raw: str, path: pathlib.Path, options: Options) -> None:
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
            raise ValueError(
                f"the rows of {raw} have no order: name the column of the time in --columns."
            )
        columns = list(dict.fromkeys([wanted["time"], *wanted.values()]))
        con.to_parquet(table.select(columns).order_by(columns), path)
    finally:
        con.disconnect()
