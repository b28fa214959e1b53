"""Logs in CSV, TSV, Parquet or JSON lines, whose columns `--columns` names."""

import pathlib
from collections.abc import Callable

import ibis
import pyarrow as pa
from ibis import _

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.features import with_one_nan
from clickflax.preparation.index import MALFORMED_JSON, as_token, default_kind
from clickflax.preparation.locate import BadRow, Location
from clickflax.preparation.options import Options
from clickflax.preparation.sources.base import RawLog, register_source
from clickflax.preparation.sources.columns import kind_of_column, names_of_kind, split_values
from clickflax.preparation.sources.log_files import LogFiles, find_log_files, stage_log

RESERVED_FEATURE_NAMES = ("token", "count", "_row", "_malformed")


@register_source(
    "log",
    raw="CSV, TSV, Parquet or JSON-lines file, or a folder of them",
    options=("columns", "delimiter", "quote", "header", "separator", "items"),
)
def read_any_log(engine: Engine, raw: pathlib.Path, options: Options) -> RawLog:
    """Reads the columns of a log that `--columns` names, and the features of `--items`."""
    quote = "" if options.quote == "none" else options.quote
    log = find_log_files(raw, options.delimiter, options.header, quote)
    if not options.columns:
        raise ValueError(
            "source log needs --columns sequence=COLUMN,item=COLUMN and so on; "
            f"{log.paths[0]} has the columns {list(log.names)}."
        )
    wanted = {column.name: column.source for column in options.columns}
    staged = stage_log(engine, log, wanted)
    kinds = {
        name: kind_of_column(options, name, default_kind(staged.events[name].type()))
        for name in wanted
    }
    several = names_of_kind(kinds, "several")
    item_features = None
    if options.items is not None:
        items = find_log_files(options.items, options.delimiter, True, quote)
        item_features = read_items_file(engine, items, wanted["item"])
    return RawLog(
        split_values(engine, staged, several, options.separator, log.format == "jsonl"),
        names_of_kind(kinds, "numeric"),
        several,
        item_features=item_features,
        unused_columns=tuple(sorted(set(log.names) - {*wanted.values()})),
    )


def read_items_file(engine: Engine, items: LogFiles, item: str) -> pa.Table:
    """Returns the features of a table with one row per item.

    Raises ValueError at the first bad row, even with `--on-bad-rows skip`.
    """
    features = {name: name for name in items.names if name != item}
    for name in features:
        if name.lower() in RESERVED_FEATURE_NAMES:
            raise ValueError(
                f"{items.paths[0]}: a feature cannot be named {name!r}. Rename the column."
            )
    staged = stage_log(engine, items, {"token": item, **features}, "catalog")
    if staged.malformed:
        more = f", and {staged.malformed - 1} more such rows" if staged.malformed > 1 else ""
        raise ValueError(
            f"{staged.rejected[0]}{more}. Correct them: every row of --items must be readable."
        )
    rows = staged.events.order_by("_row")
    rows = rows.mutate(token=as_token(engine, rows["token"]).cast("string"))
    if "_malformed" in rows.columns:
        malformed = rows.filter(_["_malformed"]).select("_row").limit(1)
        for row in engine.to_arrow(malformed)["_row"].to_pylist():
            bad_row = BadRow(*staged.locate(row), None, MALFORMED_JSON)
            raise ValueError(f"{bad_row}. Correct it: every row of --items must be readable.")
    check_unique(engine, rows, "token", staged.locate)
    rows = rows.select("token", *features)
    table = engine.to_arrow(rows)
    schema = rows.schema().to_pyarrow()
    columns = {}
    for name, type in zip(schema.names, schema.types, strict=True):
        # Engines name the elements of a list differently; files keep that name, casts ignore it.
        nested = pa.types.is_nested(type)
        columns[name] = pa.array(table[name].to_pylist(), type) if nested else table[name]
    return pa.table({name: with_one_nan(values) for name, values in columns.items()})


def check_unique(
    engine: Engine, rows: ibis.Table, name: str, locate: Callable[[int], Location]
) -> None:
    """Raises ValueError if a value of a column appears twice."""
    counts = rows.filter(_[name].notnull()).group_by(name).agg(_row=_["_row"].max(), n=_.count())
    repeated = counts.filter(_["n"] > 1).order_by("_row").limit(1)
    for row in engine.to_arrow(repeated).to_pylist():
        file, line = locate(row["_row"])
        raise ValueError(f"{file}, line {line}: {row[name]!r} appears twice. Keep one row of it.")
