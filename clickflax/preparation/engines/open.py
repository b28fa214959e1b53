"""The choice of the engine."""

import contextlib
import pathlib

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.engines.duckdb_engine import open_duckdb
from clickflax.preparation.options import Options


def open_engine(
    folder: pathlib.Path, options: Options
) -> contextlib.AbstractContextManager[Engine]:
    """Opens the engine of `--engine`, with its files in `folder`.

    A table of a warehouse is copied to this machine first, and prepared with DuckDB.
    """
    if options.engine == "pyspark":
        return _open_spark(folder, options)
    return open_duckdb(folder, options)


def _open_spark(
    folder: pathlib.Path, options: Options
) -> contextlib.AbstractContextManager[Engine]:
    """Opens Spark. Raises ValueError if the extra `spark` is not installed."""
    try:
        from clickflax.preparation.engines.spark_session import open_spark
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error}: --engine=pyspark needs the extra `spark`: pip install "
            "'clickflax[spark]', and Java 17 or newer."
        ) from error
    return open_spark(folder, options)
