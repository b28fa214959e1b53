"""Spark as the engine of the preparation, for logs that outgrow a machine."""

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
    NOT_UTF_8,
    check_pattern,
    escaped,
    key_of,
    line_of,
    quoted,
    reason_of,
    uri,
)
from clickflax.preparation.engines.spark_values import list_values, parse_time, values
from clickflax.preparation.locate import LISTED, BadRow, check_types, locate_row

# Java reads 1d and 0x1p3 as numbers, too, and a year alone as a time
NUMBER = r"(?i)^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$|^\s*[+-]?(nan|inf|infinity)\s*$"
DATE = r"^\s*(\d{4,6})[-/\\ ](\d{1,2})[-/\\ ](\d{1,2})"
TIME = DATE + r"([ T]\d{1,2}:\d{1,2}.*)?\s*$"
DIGITS = "decimal(38, 20)"  # of a number that Java writes with an exponent, written out
LONGEST = 1 << 20  # signs of a line of text, and fields
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
        locate = functools.partial(line_of, paths, begins)
        refused = rows.where("_bad IS NOT NULL")
        malformed = refused.count()
        first = refused.orderBy("_row").limit(LISTED).select("_row", "_bad").collect()
        reason = functools.partial(reason_of, names, delimiter, quote)
        rejected = [BadRow(*locate(one["_row"]), one["_bad"], reason(one["_bad"])) for one in first]
        good = rows.where("_bad IS NULL").drop("_bad")
        return Staged(self._as_ibis(good, table), locate, malformed, tuple(rejected))

    def read_lines(self, paths: Sequence[pathlib.Path], table: str) -> ibis.Table:
        lines, begins = self._lines(paths, table)
        broken = lines.where("NOT _valid").orderBy("_row").limit(1).collect()
        for row in broken:
            file, line = line_of(paths, begins, row["_row"])
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
        locate = functools.partial(line_of, paths, begins)
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
        begins = dict(zip(map(key_of, paths), itertools.accumulate([0, *counts]), strict=False))
        rows = self.session.read.parquet(*map(escaped, paths))
        path = F.col("_metadata.file_path").alias("_path")
        found = [row["_path"] for row in rows.select(path).distinct().collect()]
        shift = self._small(
            [(one, begins[key_of(one)]) for one in found], "_path string, _begin long"
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
            check_pattern(pattern)
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
        lines = self.session.read.text([escaped(path) for path in paths])
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
        of = {key_of(path): k for k, path in enumerate(paths)}
        blocks = [
            (of[key_of(row["_path"])], row["_start"], row["_path"], row["_first"], row["_count"])
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
        broken = lines.where(~F.col("value").rlike(quoted(delimiter, quote)))
        for row in broken.orderBy("_row").limit(1).select("_row").collect():
            file, line = line_of(paths, begins, row["_row"])
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
        frame.write.mode("overwrite").parquet(uri(self.folder / "tables" / table))

    def _table(self, table: str) -> DataFrame:
        return self.session.read.parquet(uri(self.folder / "tables" / table))

    def _as_ibis(self, frame: DataFrame, table: str) -> ibis.Table:
        frame.createOrReplaceTempView(table)
        return self.con.table(table)

    def _frame(self, table: ibis.Table) -> DataFrame:
        """An expression of Ibis for Spark."""
        self.con._run_pre_execute_hooks(table)  # what it calls of Python is made known
        return self.session.sql(self.con.compile(table))


def _column(name: str) -> Any:
    """The column of this very name."""
    return F.col(f"`{name.replace('`', '``')}`")
