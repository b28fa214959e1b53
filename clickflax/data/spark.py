"""Spark as the engine of the preparation, for logs that outgrow a machine.

Where `spark-submit` or `spark-defaults.conf` name a cluster, it works there, and the folder that is
written must be one that all its machines see; otherwise on this machine.
"""

import contextlib
import csv
import functools
import itertools
import os
import pathlib
import re
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from clickflax.data.engine import Staged
from clickflax.data.options import Options
from clickflax.data.places import LISTED, BadRow, Place, check_types, locate_row
from clickflax.data.spark_values import list_values, parse_time, values
from clickflax.data.store import DISK_FULL

try:
    from py4j.protocol import Py4JError
    from pyspark.conf import SparkConf
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, StringType
except ModuleNotFoundError as error:
    raise ValueError(
        f"{error}: --engine=pyspark needs the extra `spark`: pip install 'clickflax[spark]', and "
        "Java 17 or newer."
    ) from error

# Java reads 1d and 0x1p3 as numbers, too, and a year alone as a time
NUMBER = r"(?i)^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$|^\s*[+-]?(nan|inf|infinity)\s*$"
DATE = r"^\s*(\d{4,6})[-/\\ ](\d{1,2})[-/\\ ](\d{1,2})"
TIME = DATE + r"([ T]\d{1,2}:\d{1,2}.*)?\s*$"
DIGITS = "decimal(38, 20)"  # of a number that Java writes with an exponent, written out
LONGEST = 1 << 20  # signs of a line of text, and fields
NOT_UTF_8 = "it is not UTF-8"
BLOCK = ("_path", "_start")  # a block of a file, which one task reads


@ibis.udf.scalar.builtin(signature=(("timestamp('UTC')",), "int64"))
def unix_micros(time): ...


parsed = ibis.udf.scalar.python(signature=(("string", "string"), "string"))(parse_time)
listed = ibis.udf.scalar.python(signature=(("string",), "array<string>"))(list_values)


class Spark:
    """Tables of a cluster, or of this machine."""

    def __init__(self, session: SparkSession, folder: pathlib.Path) -> None:
        self.session, self.folder = session, folder
        self.con = ibis.pyspark.connect(session)

    def read_text(
        self,
        paths: Sequence[pathlib.Path],
        names: Sequence[str],
        wanted: Mapping[str, str],
        *,
        delimiter: str,
        header: bool = False,
        quote: str = "",
        table: str = "events",
    ) -> Staged:
        lines, begins = self._lines(paths, f"{table}_lines")
        lines = lines.where("value != ''")
        if header:
            lines = lines.where(~F.col("_row").isin(list(begins)))
        bad = ~F.col("_valid") | F.col("_fields._bad").isNotNull() | F.col("_fields").isNull()
        if quote:
            self._check_quotes(lines, paths, begins, delimiter, quote)
        columns = [f"_{k}" for k in range(len(names))]
        schema = ", ".join(f"{name} string" for name in (*columns, "_bad"))
        options = {
            "sep": delimiter,
            "quote": quote,
            "escape": quote or "\0",
            "maxColumns": str(LONGEST),
            "columnNameOfCorruptRecord": "_bad",
        }
        # a line of more fields than the parser can hold would end the job
        text = F.when(F.length("value") < LONGEST, F.col("value"))
        fields = F.from_csv(text, schema, options)
        parsed = lines.select("_row", "value", "_valid", fields.alias("_fields"))
        chosen = [F.col(f"_fields._{names.index(old)}").alias(new) for new, old in wanted.items()]
        self._keep(parsed.select("_row", *chosen, F.when(bad, F.col("value")).alias("_bad")), table)
        rows = self._table(table)
        locate = functools.partial(_locate, paths, begins)
        refused = rows.where("_bad IS NOT NULL")
        malformed = refused.count()
        first = refused.orderBy("_row").limit(LISTED).select("_row", "_bad").collect()
        reason = functools.partial(_reason, names, delimiter, quote)
        rejected = [BadRow(*locate(one["_row"]), one["_bad"], reason(one["_bad"])) for one in first]
        good = rows.where("_bad IS NULL").drop("_bad")
        return Staged(self._as_ibis(good, table), locate, malformed, tuple(rejected))

    def read_lines(self, paths: Sequence[pathlib.Path], table: str) -> ibis.Table:
        lines, begins = self._lines(paths, table)
        broken = lines.where("NOT _valid").orderBy("_row").limit(1).collect()
        for row in broken:
            file, line = _locate(paths, begins, row["_row"])
            raise ValueError(f"{file}, line {line}: {NOT_UTF_8}")
        return self._as_ibis(lines.selectExpr("_row", "nullif(value, '') AS line"), table)

    def read_json_lines(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        lines, begins = self._lines(paths, f"{table}_lines")
        lines = lines.where("value != ''")
        keys = list(wanted.values())
        found = F.udf(functools.partial(values, keys), ArrayType(StringType()))
        rows = lines.select("_row", F.when(F.col("_valid"), found("value")).alias("_found"))
        chosen = [F.col("_found")[k].alias(new) for k, new in enumerate(wanted)]
        self._keep(
            rows.select("_row", *chosen, F.col("_found").isNull().alias("_malformed")), table
        )
        locate = functools.partial(_locate, paths, begins)
        return Staged(self._as_ibis(self._table(table), table), locate)

    def read_parquet(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        check_types(paths, wanted)
        for name in wanted.values():
            kind = pq.read_schema(paths[0]).field(name).type
            if pa.types.is_timestamp(kind) and kind.unit == "ns":
                raise ValueError(
                    f"{paths[0]}: {name!r} has nanoseconds, which Spark does not read. Write it "
                    "with microseconds, such as by to_parquet(..., coerce_timestamps='us')."
                )
        counts = [pq.read_metadata(path).num_rows for path in paths]
        begins = dict(zip(map(_key, paths), itertools.accumulate([0, *counts]), strict=False))
        rows = self.session.read.parquet(*map(_escaped, paths))
        path = F.col("_metadata.file_path").alias("_path")
        found = [row["_path"] for row in rows.select(path).distinct().collect()]
        shift = self._small(
            [(one, begins[_key(one)]) for one in found], "_path string, _begin long"
        )
        chosen = [_column(old).alias(new) for new, old in wanted.items()]
        rows = rows.select(*chosen, path, F.col("_metadata.row_index").alias("_index"))
        number = (F.col("_begin") + F.col("_index")).alias("_row")
        self._keep(rows.join(shift, "_path").select(*map(_column, wanted), number), table)
        events = self._as_ibis(self._table(table), table)
        return Staged(events, functools.partial(locate_row, paths))

    def table(self, rows: ibis.Table) -> pa.Table:
        # Ibis goes by pandas, which has no whole number that is missing
        return self._frame(rows).toArrow().cast(rows.schema().to_pyarrow())

    def stream(self, table: ibis.Table) -> Iterator[pa.RecordBatch]:
        # sorted, the files of a table follow one another in the order of their names
        self._keep(self._frame(table), "stream")
        for path in sorted((self.folder / "tables" / "stream").glob("part-*.parquet")):
            yield from pq.ParquetFile(path).iter_batches()

    def microseconds(self, time: Any) -> Any:
        return unix_micros(time)

    def moment(self, text: Any, pattern: str) -> Any:
        if pattern:
            _check_pattern(pattern)
            text = parsed(text, ibis.literal(pattern))
        time = text.re_replace(DATE, "$1-$2-$3").try_cast("timestamp('UTC')")
        return ibis.ifelse(text.re_search(TIME), time, ibis.null(time.type()))

    def number(self, text: Any) -> Any:
        found = text.try_cast("float64")
        return ibis.ifelse(text.re_search(NUMBER), found, ibis.null("float64"))

    def shortest(self, number: Any) -> Any:
        # Java writes 1.25E7, 5.0E-5 and Infinity, others 12500000, 5e-05 and inf
        text = number.cast("string")
        exponent = text.re_extract(r"E(-?\d+)$", 1)
        written = text.cast(DIGITS).cast("string").re_replace(r"\.?0*$", "")
        signed = ibis.ifelse(exponent.startswith("-"), "-", "+")
        digits = exponent.re_replace("^-", "").lpad(2, "0")
        scientific = text.re_replace(r"(\.0)?E.*$", "") + "e" + signed + digits
        in_reach = (number.abs() >= 1e-4) & (number.abs() < 1e16)
        return ibis.cases(
            (text == "Infinity", "inf"),
            (text == "-Infinity", "-inf"),
            (~text.contains("E"), text),
            (in_reach, written),
            else_=scientific,
        )

    def pieces(self, text: Any, separator: str) -> Any:
        return text.re_split(re.escape(separator))  # Spark splits by patterns

    def json_list(self, text: Any) -> Any:
        return listed(text)

    def _lines(self, paths: Sequence[pathlib.Path], table: str) -> tuple[DataFrame, list[int]]:
        """The lines of files, with `_row`, `value` and whether it is UTF-8; the rows with which the
        files begin.
        """
        lines = self.session.read.text([_escaped(path) for path in paths])
        lines = lines.select(
            F.col("_metadata.file_path").alias("_path"),
            F.col("_metadata.file_block_start").alias("_start"),
            F.monotonically_increasing_id().alias("_number"),
            F.col("value"),
            F.is_valid_utf8("value").alias("_valid"),
        )
        self._keep(lines, table)
        lines = self._table(table)
        # lines of a block are numbered one by one, as a task reads it from its begin to its end
        count = [F.min("_number").alias("_first"), F.count("*").alias("_count")]
        of = {_key(path): k for k, path in enumerate(paths)}
        blocks = [
            (of[_key(row["_path"])], row["_start"], row["_path"], row["_first"], row["_count"])
            for row in lines.groupBy(*BLOCK).agg(*count).collect()
        ]
        counts, offsets = [0] * len(paths), []
        for which, start, path, first, many in sorted(blocks):
            offsets.append((path, start, sum(counts) - first))
            counts[which] += many
        begins = [0, *itertools.accumulate(counts)][:-1]
        shift = self._small(offsets, "_path string, _start long, _offset long")
        row = (F.col("_number") + F.col("_offset")).alias("_row")
        text = F.when(row.isin(begins), F.ltrim("value", F.lit("\ufeff"))).otherwise(F.col("value"))
        joined = lines.join(shift, list(BLOCK))
        return joined.select(row, text.alias("value"), "_valid"), begins

    def _check_quotes(
        self,
        lines: DataFrame,
        paths: Sequence[pathlib.Path],
        begins: Sequence[int],
        delimiter: str,
        quote: str,
    ) -> None:
        """Refuses a field that begins with a quote and does not end with one in its line."""
        broken = lines.where(~F.col("value").rlike(_quoted(delimiter, quote)))
        for row in broken.orderBy("_row").limit(1).select("_row").collect():
            file, line = _locate(paths, begins, row["_row"])
            raise ValueError(
                f"{file}, line {line}: a quote is opened and not closed in its line, where for "
                "--engine=pyspark a record must end. Mend it, or read quotes as any other "
                "character with --quote=none."
            )

    def _small(self, rows: Sequence[tuple], schema: str) -> DataFrame:
        """A table that goes to every task."""
        return F.broadcast(self.session.createDataFrame(list(rows), schema))

    def _keep(self, frame: DataFrame, table: str) -> None:
        """Writes a table, whose rows are then what they are, however often they are read."""
        frame.write.mode("overwrite").parquet(_uri(self.folder / "tables" / table))

    def _table(self, table: str) -> DataFrame:
        return self.session.read.parquet(_uri(self.folder / "tables" / table))

    def _as_ibis(self, frame: DataFrame, table: str) -> ibis.Table:
        frame.createOrReplaceTempView(table)
        return self.con.table(table)

    def _frame(self, table: ibis.Table) -> DataFrame:
        """An expression of Ibis for Spark."""
        self.con._run_pre_execute_hooks(table)  # what it calls of Python is made known
        return self.session.sql(self.con.compile(table))


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
    builder = builder.config("spark.sql.warehouse.dir", _uri(folder / "warehouse"))
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


def _column(name: str) -> Any:
    """The column of this very name."""
    return F.col(f"`{name.replace('`', '``')}`")


def _quoted(delimiter: str, quote: str) -> str:
    """What a line is whose quotes are right: a field begins with one and ends with one, or does not
    begin with one. What is matched is not given back: long lines would take all of the stack.
    """
    q, d = re.escape(quote), re.escape(delimiter)
    field = f"(?:{q}[^{q}]*+(?:{q}{q}[^{q}]*+)*+{q} *|[^{q}{d}][^{d}]*+|)"
    return f"^{field}(?:{d}{field})*+$"


def _check_pattern(pattern: str) -> None:
    """Refuses a pattern that no time could have."""
    try:
        datetime.strptime("", pattern)
    except ValueError as error:
        if "format" in str(error) and "does not match" not in str(error):
            raise ValueError(f"--time-format={pattern!r}: {error}.") from error


def _reason(names: Sequence[str], delimiter: str, quote: str, line: str) -> str:
    """Why a line is refused, in the words of DuckDB."""
    rows = csv.reader([line], delimiter=delimiter, quotechar=quote) if quote else [[]]
    found = len(next(iter(rows))) if quote else len(line.split(delimiter))
    if found == len(names):
        return NOT_UTF_8
    # DuckDB stops counting at the first one too many
    return f"Expected Number of Columns: {len(names)} Found: {min(found, len(names) + 1)}"


def _locate(paths: Sequence[pathlib.Path], begins: Sequence[int], row: int) -> Place:
    """The file and line of a line, counted over all files."""
    which = max(k for k, begin in enumerate(begins) if begin <= row)
    return str(paths[which]), row - begins[which] + 1


def _key(path: pathlib.Path | str) -> str:
    """A path, or how Spark writes it, without what may be written in two ways."""
    if isinstance(path, pathlib.Path):
        return str(path.resolve())
    return urllib.parse.unquote(urllib.parse.urlsplit(path).path)


def _uri(path: pathlib.Path) -> str:
    return path.resolve().as_uri()


def _escaped(path: pathlib.Path) -> str:
    """A path of which Spark takes no sign for a pattern."""
    return re.sub(r"([*?\[\]{}\\])", r"\\\1", str(path.resolve()))


def _jvm_memory(memory: str) -> str:
    """`2GB` as Java has it."""
    found = re.fullmatch(r"(\d+)\s*([KMGT])i?B", memory, re.IGNORECASE)
    if found is None:
        raise ValueError(f"--memory={memory} is not a size such as 2GB.")
    return f"{found[1]}{found[2].lower()}"
