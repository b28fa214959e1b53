"""The engine of the preparation, and its failures in clear words."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import duckdb
import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend

from clickflax.data.options import Options
from clickflax.data.store import DISK_FULL


@contextlib.contextmanager
def duckdb_engine(folder: pathlib.Path, options: Options) -> Iterator[Backend]:
    """DuckDB with its tables and what spills out of memory in `folder`."""
    try:
        con = ibis.duckdb.connect(
            folder / "engine.duckdb",
            memory_limit=options.memory,
            threads=options.threads,
            temp_directory=str(folder / "spill"),
        )
        try:
            con.raw_sql("SET enable_progress_bar = false")  # it writes to standard output
            # times that name no zone are read in the zone of the session
            con.raw_sql(f"SET TimeZone = '{options.time_zone}'")
            yield con
        finally:
            con.disconnect()
    except duckdb.Error as error:
        raise _translated(error, options) from error


def stream(con: Backend, table: ibis.Table) -> Iterator[pa.RecordBatch]:
    """The rows of an expression in its order, a batch at a time."""
    # Arrow's own stream protocol: Ibis's to_pyarrow_batches calls what DuckDB 2 no longer has
    return iter(pa.RecordBatchReader.from_stream(con.con.sql(con.compile(table))))


def _translated(error: duckdb.Error, options: Options) -> Exception:
    """A failure of DuckDB as an error for people."""
    text = str(error)
    for code in DISK_FULL:
        if os.strerror(code) in text:
            return OSError(code, os.strerror(code))
    if isinstance(error, duckdb.OutOfMemoryException):
        return OSError(
            f"DuckDB needs more than --memory {options.memory}, or the disk that it spills to is "
            f"too small: {text.splitlines()[0]}"
        )
    if "state machine reached an invalid state" in text:
        return ValueError(
            "the lines of the file end in different ways (CR LF and LF). Convert it, such as with "
            "dos2unix FILE."
        )
    return ValueError(f"DuckDB: {text.splitlines()[0]}")
