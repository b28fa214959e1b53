"""The engine that the options of a preparation name."""

import contextlib
import pathlib
from collections.abc import Iterator

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.options import Options


@contextlib.contextmanager
def open_engine(folder: pathlib.Path, options: Options) -> Iterator[Engine]:
    """The engine that options name, with what it needs to keep in `folder`."""
    if options.engine == "pyspark":
        try:  # an extra: without it, nothing else asks for Spark
            from clickflax.preparation.engines.spark_session import open_spark as opened
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{error}: --engine=pyspark needs the extra `spark`: pip install "
                "'clickflax[spark]', and Java 17 or newer."
            ) from error
    else:
        from clickflax.preparation.engines.duckdb_engine import open_duckdb as opened
    with opened(folder, options) as engine:
        yield engine
