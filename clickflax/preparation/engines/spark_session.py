"""A Spark session on a cluster or on this machine.

Spark runs on the cluster that `spark-submit` or `spark-defaults.conf` name; all its workers must
reach the folder of the data set. Without a cluster, Spark runs on this machine.
"""

import contextlib
import os
import pathlib
import re
import sys
from collections.abc import Iterator

from py4j.protocol import Py4JError
from pyspark.conf import SparkConf
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from clickflax.data.store import DISK_FULL
from clickflax.preparation.engines.spark_engine import Spark
from clickflax.preparation.engines.spark_text import path_uri
from clickflax.preparation.options import Options


@contextlib.contextmanager
def open_spark(folder: pathlib.Path, options: Options) -> Iterator[Spark]:
    """Opens a Spark session with its tables in `folder`."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if SparkSession.getActiveSession() is not None:
        raise ValueError(
            "this process has a Spark session already: run the preparation in its own process."
        )
    builder = SparkSession.builder.appName("clickflax prepare")
    if SparkConf().contains("spark.master"):
        for name in ("memory", "threads"):
            if getattr(options, name) != getattr(Options, name):
                raise ValueError(
                    f"--{name} applies to Spark on this machine only, but a cluster is configured. "
                    "Leave the flag out."
                )
    else:
        builder = builder.master(f"local[{options.threads}]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.driver.memory", _jvm_memory(options.memory))
        builder = builder.config("spark.driver.host", "localhost")
        builder = builder.config("spark.sql.shuffle.partitions", str(4 * options.threads))
    # Spark warns at each numbering of rows that one task does all of it.
    builder = builder.config("spark.log.level", "ERROR")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    builder = builder.config("spark.sql.warehouse.dir", path_uri(folder / "warehouse"))
    builder = builder.config("spark.sql.catalogImplementation", "in-memory")
    builder = builder.config("spark.sql.caseSensitive", "true")  # of columns, as in the files
    try:
        session = builder.getOrCreate()
        try:
            engine = Spark(session, folder)  # Ibis sets the zone of the session to UTC
            # Times without a zone are read in the zone of the session.
            session.conf.set("spark.sql.session.timeZone", options.time_zone)
            yield engine
        finally:
            session.stop()
    except (PySparkException, Py4JError) as error:
        raise _readable_error(error) from error


def _readable_error(error: Exception) -> Exception:
    """Returns an error of Spark in plain words: the last of its causes."""
    lines = str(error).splitlines()
    causes = [line.partition(": ")[2] for line in lines if line.startswith("Caused by: ")]
    for code in DISK_FULL:
        if any(os.strerror(code) in line for line in lines):
            return OSError(code, os.strerror(code))
    return ValueError(f"Spark: {[*lines[:1], *causes][-1]}")


def _jvm_memory(memory: str) -> str:
    """Returns a size such as `2GB` in Java's notation."""
    match = re.fullmatch(r"(\d+)\s*([KMGT])i?B", memory, re.IGNORECASE)
    if match is None:
        raise ValueError(f"--memory={memory} is not a size such as 2GB.")
    return f"{match[1]}{match[2].lower()}"
