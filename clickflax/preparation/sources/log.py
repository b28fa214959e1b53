"""Logs in CSV, TSV, Parquet or JSON lines, whose columns `--columns` names."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ibis
import pyarrow as pa
from ibis import _

from clickflax.preparation.engines.base import Engine, Staged
from clickflax.preparation.features import with_one_nan
from clickflax.preparation.locate import BadRow, Location
from clickflax.preparation.options import Options
from clickflax.preparation.sources.base import RawLog, register_source
from clickflax.preparation.sources.columns import kind_of_column, names_of_kind, split_values
from clickflax.preparation.sources.log_files import LogFiles, find_log_files, stage_log
from clickflax.preparation.tokens import (
    as_token,
    default_kind,
    find_fractions,
    null_if_missing,
    without_fraction,
)

RESERVED_FEATURE_NAMES = ("token", "count", "_row", "_malformed")


@register_source(
    "log",
    raw="CSV, TSV, Parquet or JSON-lines file, or a folder of them",
    options=("columns", "delimiter", "quote", "header", "separator", "missing", "items"),
)
def read_any_log(engine: Engine, raw: pathlib.Path, options: Options) -> RawLog:
    """Reads the columns of a log that `--columns` names, and the features of `--items`."""
    log = find_log_files(engine, raw, options, options.header)
    if not options.columns:
        raise ValueError(
            "source log needs --columns sequence=COLUMN,item=COLUMN and so on; "
            f"{log.paths[0]} has the columns {list(log.names)}."
        )
    wanted = {column.name: column.source for column in options.columns}
    lists = [column.name for column in options.columns if column.kind == "several"]
    staged = stage_log(engine, log, wanted, lists=lists)
    kinds = {
        name: kind_of_column(options, name, default_kind(staged.events[name].type()))
        for name in wanted
    }
    several = names_of_kind(kinds, "several")
    item_features = None
    if options.items is not None:
        items = find_log_files(engine, options.items, options, header=True, table="catalog")
        item_features = read_items_file(engine, items, wanted["item"], options.missing)
    return RawLog(
        split_values(engine, staged, several, options.separator, log.format == "jsonl"),
        names_of_kind(kinds, "numeric"),
        several,
        item_features=item_features,
        unused_columns=tuple(sorted({name for name in log.names if name} - {*wanted.values()})),
        form=str(log),
    )


def read_items_file(
    engine: Engine, items: LogFiles, item: str, missing: Sequence[str] = ()
) -> pa.Table:
    """Returns the features of a table with one row per item.

    Raises ValueError at the first bad row, even with `--on-bad-rows skip`.
    """
    names = [name for name in items.names if name and name != item]
    for name in names:
        if name.lower() in RESERVED_FEATURE_NAMES:
            raise ValueError(
                f"{items.paths[0]}: a feature cannot be named {name!r}. Rename the column."
            )
    # Engines do not distinguish title and Title.
    features = {f"feature{position}": name for position, name in enumerate(names)}
    staged = stage_log(engine, items, {"token": item, **features}, "catalog", lists=features)
    if staged.malformed:
        more = f", and {staged.malformed - 1} more such rows" if staged.malformed > 1 else ""
        raise ValueError(
            f"{staged.rejected[0]}{more}. Correct them: every row of --items must be readable."
        )
    rows = null_if_missing(staged.events.order_by("_row"), missing)
    token: Any = rows["token"]
    if find_fractions(engine, rows, ("token",)):
        token = without_fraction(token)
    rows = rows.mutate(token=as_token(engine, "item", token).cast("string"))
    _check_readable(engine, rows, staged)
    check_unique(engine, rows, "token", staged.locate)
    table = engine.to_arrow(rows.select("token", *features))
    schema = rows.schema().to_pyarrow()
    columns = {}
    for name in ("token", *features):
        # Engines name the elements of a list differently; files keep that name, casts ignore it.
        type = schema.field(name).type
        nested = pa.types.is_nested(type)
        values = pa.array(table[name].to_pylist(), type) if nested else table[name]
        columns[features.get(name, name)] = with_one_nan(values)
    return pa.table(columns)


def _check_readable(engine: Engine, rows: ibis.Table, staged: Staged) -> None:
    """Raises ValueError for a row of `--items` that is malformed or names no item."""
    problem: Any = ibis.ifelse(rows["token"].isnull(), "it has no item", ibis.null("string"))
    text: Any = ibis.null("string")
    if "_malformed" in rows.columns:
        problem = ibis.coalesce(rows["_malformed"], problem)
        text = rows["_text"]
    problems = rows.select(row=rows["_row"], problem=problem, text=text)
    first = problems.filter(_["problem"].notnull()).order_by("row").limit(1)
    for found in engine.to_arrow(first).to_pylist():
        bad_row = BadRow(*staged.locate(found["row"]), found["text"], found["problem"])
        raise ValueError(f"{bad_row}. Correct it: every row of --items must be readable.")


def check_unique(
    engine: Engine, rows: ibis.Table, name: str, locate: Callable[[int], Location]
) -> None:
    """Raises ValueError if a value of a column appears twice."""
    counts = rows.filter(_[name].notnull()).group_by(name).agg(_row=_["_row"].max(), n=_.count())
    repeated = counts.filter(_["n"] > 1).order_by("_row").limit(1)
    for row in engine.to_arrow(repeated).to_pylist():
        file, line = locate(row["_row"])
        raise ValueError(f"{file}, line {line}: {row[name]!r} appears twice. Keep one row of it.")
