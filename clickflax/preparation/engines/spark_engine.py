"""The Spark engine, for logs that do not fit on one machine."""

import functools
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType

from clickflax.preparation.engines.base import Staged
from clickflax.preparation.engines.spark_text import (
    balanced_quotes,
    check_time_pattern,
    escape_glob,
    line_of,
    path_key,
    path_uri,
    rejection_reason,
)
from clickflax.preparation.engines.spark_values import (
    json_keys,
    json_list_values,
    json_row,
    parse_time,
)
from clickflax.preparation.locate import LISTED, SHOWN, BadRow
from clickflax.preparation.parquet_files import locate_parquet_row
from clickflax.preparation.reasons import NOT_UTF_8
from clickflax.runtime.files import local

# Java also reads 1d and 0x1p3 as numbers, and a year alone as a time.
NUMBER = r"(?i)^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$|^\s*[+-]?(nan|inf|infinity)\s*$"
DATE = r"^\s*(\d{4,6})[-/\\ ](\d{1,2})[-/\\ ](\d{1,2})"
TIME = DATE + r"([ T]\d{1,2}:\d{1,2}.*)?\s*$"
DECIMAL = "decimal(38, 20)"  # writes out a number that Java writes with an exponent
MAX_LINE = 1 << 20  # characters, and fields
FIELDS = ArrayType(StringType())
FILE_BLOCK = ("_path", "_start")  # the key of a block of a file, which one task reads


@ibis.udf.scalar.builtin(signature=(("timestamp('UTC')",), "int64"))
def unix_micros(time): ...


parse_time_udf = ibis.udf.scalar.python(signature=(("string", "string"), "string"))(parse_time)
json_list_udf = ibis.udf.scalar.python(signature=(("string",), "array<string>"))(json_list_values)


class Spark:
    """An engine on a cluster, or on this machine."""

    def __init__(self, session: SparkSession, folder: pathlib.Path) -> None:
        self.session = session
        self.folder = folder
        self.con = ibis.pyspark.connect(session)
        self.begins: dict[str, list[int]] = {}  # of each table of lines: first row of each file

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
            "maxColumns": str(MAX_LINE),
            "columnNameOfCorruptRecord": "_bad",
        }
        # A line with more fields than the parser can hold would end the job.
        text = F.when(F.length("value") < MAX_LINE, F.col("value"))
        fields = F.from_csv(text, schema, options)
        parsed = lines.select("_row", "value", "_valid", fields.alias("_fields"))
        selected = [F.col(f"_fields._{names.index(old)}").alias(new) for new, old in wanted.items()]
        self._store(
            parsed.select("_row", *selected, F.when(bad, F.col("value")).alias("_bad")), table
        )
        rows = self._table(table)
        locate = functools.partial(line_of, paths, begins)
        rejected = rows.where("_bad IS NOT NULL")
        malformed = rejected.count()
        first = rejected.orderBy("_row").limit(LISTED).select("_row", "_bad").collect()
        reason = functools.partial(rejection_reason, names, delimiter, quote)
        rejected_rows = [
            BadRow(*locate(row["_row"]), row["_bad"][:SHOWN], reason(row["_bad"])) for row in first
        ]
        good = rows.where("_bad IS NULL").drop("_bad")
        return Staged(self._as_ibis(good, table), locate, malformed, tuple(rejected_rows))

    def read_lines(self, paths: Sequence[pathlib.Path], table: str) -> ibis.Table:
        lines, begins = self._lines(paths, f"{table}_text")
        broken = lines.where("NOT _valid").orderBy("_row").limit(1).collect()
        for row in broken:
            file, line = line_of(paths, begins, row["_row"])
            raise ValueError(f"{file}, line {line}: {NOT_UTF_8}.")
        self.begins[table] = begins
        return self._as_ibis(lines.selectExpr("_row", "nullif(value, '') AS line"), table)

    def json_keys(self, lines: str) -> list[str]:
        keys = F.udf(json_keys, FIELDS)
        text = self.session.table(lines).where("line IS NOT NULL")
        rows = text.select("_row", F.explode(keys("line")).alias("_key"))
        first = rows.groupBy("_key").agg(F.min("_row").alias("_first"))
        return [row["_key"] for row in first.orderBy("_first", "_key").collect()]

    def parse_json_lines(
        self,
        lines: str,
        paths: Sequence[pathlib.Path],
        wanted: Mapping[str, str],
        lists: Sequence[str] = (),
        table: str = "events",
    ) -> Staged:
        parse = F.udf(functools.partial(json_row, dict(wanted), tuple(lists)), FIELDS)
        text = self.session.table(lines).where("trim(line) != ''")
        rows = text.select("_row", "line", parse("line").alias("_fields"))
        selected = [F.col("_fields")[k].alias(new) for k, new in enumerate(wanted)]
        reason = F.col("_fields")[len(wanted)]
        shown = F.when(reason.isNotNull(), F.substring("line", 1, SHOWN)).alias("_text")
        self._store(rows.select("_row", *selected, reason.alias("_malformed"), shown), table)
        locate = functools.partial(line_of, paths, self.begins[lines])
        return Staged(self._as_ibis(self._table(table), table), locate)

    def read_parquet(
        self, paths: Sequence[pathlib.Path], wanted: Mapping[str, str], table: str = "events"
    ) -> Staged:
        for name in wanted.values():
            type = pq.read_schema(local(paths[0])).field(name).type
            if pa.types.is_timestamp(type) and type.unit == "ns":
                raise ValueError(
                    f"{paths[0]}: {name!r} has nanoseconds, which Spark does not read. Write it "
                    "with microseconds, such as by to_parquet(..., coerce_timestamps='us')."
                )
        counts = [pq.read_metadata(local(path)).num_rows for path in paths]
        begins = dict(zip(map(path_key, paths), itertools.accumulate([0, *counts]), strict=False))
        rows = self.session.read.parquet(*map(escape_glob, paths))
        path = F.col("_metadata.file_path").alias("_path")
        uris = [row["_path"] for row in rows.select(path).distinct().collect()]
        shift = self._broadcast(
            [(uri, begins[path_key(uri)]) for uri in uris], "_path string, _begin long"
        )
        selected = [_column(old).alias(new) for new, old in wanted.items()]
        rows = rows.select(*selected, path, F.col("_metadata.row_index").alias("_index"))
        number = (F.col("_begin") + F.col("_index")).alias("_row")
        self._store(rows.join(shift, "_path").select(*map(_column, wanted), number), table)
        events = self._as_ibis(self._table(table), table)
        return Staged(events, functools.partial(locate_parquet_row, paths))

    def to_arrow(self, rows: ibis.Table) -> pa.Table:
        # Ibis converts through pandas, whose integers cannot be missing.
        return self._frame(rows).toArrow().cast(rows.schema().to_pyarrow())

    def batches(self, rows: ibis.Table) -> Iterator[pa.RecordBatch]:
        # The files of a sorted table follow one another in the order of their names.
        self._store(self._frame(rows), "stream")
        for path in sorted((self.folder / "tables" / "stream").glob("part-*.parquet")):
            yield from pq.ParquetFile(local(path)).iter_batches()

    def microseconds(self, time: Any) -> Any:
        return unix_micros(time)

    def parse_timestamp(self, text: Any, pattern: str) -> Any:
        if pattern:
            check_time_pattern(pattern)
            text = parse_time_udf(text, ibis.literal(pattern))
        time = text.re_replace(DATE, "$1-$2-$3").try_cast("timestamp('UTC')")
        return ibis.ifelse(text.re_search(TIME), time, ibis.null(time.type()))

    def parse_number(self, text: Any) -> Any:
        number = text.try_cast("float64")
        return ibis.ifelse(text.re_search(NUMBER), number, ibis.null("float64"))

    def format_number(self, number: Any) -> Any:
        # Java writes 1.25E7, 5.0E-5 and Infinity, DuckDB 12500000, 5e-05 and inf.
        text = number.cast("string")
        exponent = text.re_extract(r"E(-?\d+)$", 1)
        written_out = text.cast(DECIMAL).cast("string").re_replace(r"\.?0*$", "")
        signed = ibis.ifelse(exponent.startswith("-"), "-", "+")
        digits = exponent.re_replace("^-", "").lpad(2, "0")
        scientific = text.re_replace(r"(\.0)?E.*$", "") + "e" + signed + digits
        fits_written_out = (number.abs() >= 1e-4) & (number.abs() < 1e16)
        return ibis.cases(
            (text == "Infinity", "inf"),
            (text == "-Infinity", "-inf"),
            (~text.contains("E"), text),
            (fits_written_out, written_out),
            else_=scientific,
        )

    def split_text(self, text: Any, separator: str) -> Any:
        return text.re_split(re.escape(separator))  # Spark splits by regular expressions

    def parse_json_list(self, text: Any) -> Any:
        return json_list_udf(text)

    def _lines(self, paths: Sequence[pathlib.Path], table: str) -> tuple[DataFrame, list[int]]:
        """Returns the lines of files, and the first `_row` of each file.

        The lines have the columns `_row`, `value`, and `_valid`: whether the line is UTF-8.
        """
        for path in paths:
            if path.suffix == ".zst":
                raise ValueError(f"{path}: Spark does not read .zst. Unpack it, or pack it as .gz.")
        lines = self.session.read.text([escape_glob(path) for path in paths])
        lines = lines.select(
            F.col("_metadata.file_path").alias("_path"),
            F.col("_metadata.file_block_start").alias("_start"),
            F.monotonically_increasing_id().alias("_number"),
            F.col("value"),
            F.is_valid_utf8("value").alias("_valid"),
        )
        self._store(lines, table)
        lines = self._table(table)
        # One task reads a block from its begin to its end: its lines have consecutive numbers.
        summary = [F.min("_number").alias("_first"), F.count("*").alias("_count")]
        file_number = {path_key(path): k for k, path in enumerate(paths)}
        blocks = [
            (
                file_number[path_key(row["_path"])],
                row["_start"],
                row["_path"],
                row["_first"],
                row["_count"],
            )
            for row in lines.groupBy(*FILE_BLOCK).agg(*summary).collect()
        ]
        counts = [0] * len(paths)
        offsets = []
        for file, start, path, first, count in sorted(blocks):
            offsets.append((path, start, sum(counts) - first))
            counts[file] += count
        begins = [0, *itertools.accumulate(counts)][:-1]
        shift = self._broadcast(offsets, "_path string, _start long, _offset long")
        row = (F.col("_number") + F.col("_offset")).alias("_row")
        text = F.when(row.isin(begins), F.ltrim("value", F.lit("\ufeff"))).otherwise(F.col("value"))
        joined = lines.join(shift, list(FILE_BLOCK))
        return joined.select(row, text.alias("value"), "_valid"), begins

    def _check_quotes(
        self,
        lines: DataFrame,
        paths: Sequence[pathlib.Path],
        begins: Sequence[int],
        delimiter: str,
        quote: str,
    ) -> None:
        """Raises ValueError if a quote is opened and not closed in its line."""
        broken = lines.where(~F.col("value").rlike(balanced_quotes(delimiter, quote)))
        for row in broken.orderBy("_row").limit(1).select("_row").collect():
            file, line = line_of(paths, begins, row["_row"])
            raise ValueError(
                f"{file}, line {line}: a quote is opened and not closed in its line. With "
                "--engine=pyspark a record must end in its line: correct it, or read quotes as "
                "ordinary characters with --quote=none."
            )

    def _broadcast(self, rows: Sequence[tuple], schema: str) -> DataFrame:
        """Returns a small table that every task gets."""
        return F.broadcast(self.session.createDataFrame(list(rows), schema))

    def _store(self, frame: DataFrame, table: str) -> None:
        """Writes a table, so that each read of it returns the same rows."""
        frame.write.mode("overwrite").parquet(path_uri(self.folder / "tables" / table))

    def _table(self, table: str) -> DataFrame:
        return self.session.read.parquet(path_uri(self.folder / "tables" / table))

    def _as_ibis(self, frame: DataFrame, table: str) -> ibis.Table:
        frame.createOrReplaceTempView(table)
        return self.con.table(table)

    def _frame(self, table: ibis.Table) -> DataFrame:
        """Returns an Ibis expression as a Spark frame."""
        self.con._run_pre_execute_hooks(table)  # registers its Python functions
        return self.session.sql(self.con.compile(table))


def _column(name: str) -> Any:
    """Returns the column of a name that may have dots or backticks."""
    return F.col(f"`{name.replace('`', '``')}`")
