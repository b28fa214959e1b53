"""A session of Spark.

Where `spark-submit` or `spark-defaults.conf` name a cluster, it works there, and the folder that is
written must be one that all its machines see; otherwise on this machine.
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
from clickflax.preparation.engines.spark_text import uri
from clickflax.preparation.options import Options


@contextlib.contextmanager
def open_spark(folder: pathlib.Path, options: Options) -> Iterator[Spark]:
    """A session of Spark with its tables in `folder`."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if SparkSession.getActiveSession() is not None:
        raise ValueError("a session of Spark is open here: prepare in a process of its own.")
    builder = SparkSession.builder.appName("clickflax prepare")
    if SparkConf().contains("spark.master"):
        for name in ("memory", "threads"):
            if getattr(options, name) != getattr(Options, name):
                raise ValueError(f"--{name} is for Spark on this machine; a cluster is set up.")
    else:
        builder = builder.master(f"local[{options.threads}]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.driver.memory", _jvm_memory(options.memory))
        builder = builder.config("spark.driver.host", "localhost")
        builder = builder.config("spark.sql.shuffle.partitions", str(4 * options.threads))
    # it warns of each numbering of rows that one task does it
    builder = builder.config("spark.log.level", "ERROR")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    builder = builder.config("spark.sql.warehouse.dir", uri(folder / "warehouse"))
    builder = builder.config("spark.sql.catalogImplementation", "in-memory")
    try:
        session = builder.getOrCreate()
        try:
            engine = Spark(session, folder)  # Ibis makes the zone of the session UTC
            # times that name no zone are read in the zone of the session
            session.conf.set("spark.sql.session.timeZone", options.time_zone)
            yield engine
        finally:
            session.stop()
    except (PySparkException, Py4JError) as error:
        raise _translated(error) from error


def _translated(error: Exception) -> Exception:
    """A failure of Spark as an error for people: the last of its causes."""
    lines = str(error).splitlines()
    causes = [line.partition(": ")[2] for line in lines if line.startswith("Caused by: ")]
    for code in DISK_FULL:
        if any(os.strerror(code) in line for line in lines):
            return OSError(code, os.strerror(code))
    return ValueError(f"Spark: {[*lines[:1], *causes][-1]}")


def _jvm_memory(memory: str) -> str:
    """`2GB` as Java has it."""
    found = re.fullmatch(r"(\d+)\s*([KMGT])i?B", memory, re.IGNORECASE)
    if found is None:
        raise ValueError(f"--memory={memory} is not a size such as 2GB.")
    return f"{found[1]}{found[2].lower()}"
