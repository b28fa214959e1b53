"""Features that hang on items and sequences: small tables whose first column is `token`."""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import ibis
import pyarrow as pa
import pyarrow.compute as pc
from ibis import _

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.index import MALFORMED, as_token
from clickflax.preparation.locate import BadRow, Place
from clickflax.preparation.readers import Log, read_log

TEXT, WHOLE, FRACTION = pa.string(), pa.int64(), pa.float64()
TEXTS, FRACTIONS = pa.list_(TEXT), pa.list_(FRACTION)
TAKEN = ("token", "count", "_row", "_malformed")


def features(columns: Mapping[str, pa.DataType], rows: Iterable[Sequence]) -> pa.Table:
    """A table of features from rows of values, one for each column."""
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [pa.array(v, type) for v, type in zip(values, columns.values(), strict=True)]
    return pa.table(arrays, names=list(columns))


def attach(table: pa.Table, found: pa.Table | None, key: str = "token") -> pa.Table:
    """The table with the features of its tokens, null where a token has none."""
    if found is None:
        return table
    options = pc.SetLookupOptions(value_set=found["token"].combine_chunks())
    rows = pc.call_function("index_in", [table[key]], options)
    for name in found.column_names:
        if name == "token":
            continue
        if name in table.column_names:
            raise ValueError(
                f"a feature cannot be named {name!r}: {table.column_names} are taken. Rename it."
            )
        table = table.append_column(name, found[name].take(rows))
    return table


def fields(path: pathlib.Path, delimiter: str, encoding: str) -> Iterator[list[str]]:
    """The fields of each line of a small file; no quoting."""
    return (row for _number, row in numbered_fields(path, delimiter, encoding))


def numbered_fields(
    path: pathlib.Path, delimiter: str, encoding: str
) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of each line of a small file that is not blank; no quoting."""
    with path.open(encoding=encoding) as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n").split(delimiter)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not {encoding}: {error}.") from error


def read_items(engine: Engine, found: Log, item: str) -> pa.Table:
    """The features in a table of items, one row for each; no bad row is left out here."""
    rest = {name: name for name in found.names if name != item}
    for name in rest:
        if name.lower() in TAKEN:
            raise ValueError(f"{found.paths[0]}: a feature cannot be named {name!r}. Rename it.")
    staged = read_log(engine, found, {"token": item, **rest}, "catalog")
    if staged.malformed:
        more = f", and {staged.malformed - 1} more such rows" if staged.malformed > 1 else ""
        raise ValueError(f"{staged.rejected[0]}{more}. Mend it: no item may lose its features.")
    rows = staged.events.order_by("_row")
    rows = rows.mutate(token=as_token(engine, rows["token"]).cast("string"))
    if "_malformed" in rows.columns:
        bad = engine.table(rows.filter(_["_malformed"]).select("_row").limit(1))
        for row in bad["_row"].to_pylist():
            raise ValueError(f"{BadRow(*staged.locate(row), None, MALFORMED)}. Mend it.")
    check_unique(engine, rows, "token", staged.locate)
    rows = rows.select("token", *rest)
    table, schema = engine.table(rows), rows.schema().to_pyarrow()
    columns = {}
    for name, kind in zip(schema.names, schema.types, strict=True):
        # engines name what is in a list differently, which a file keeps and a cast does not see
        nested = pa.types.is_nested(kind)
        columns[name] = pa.array(table[name].to_pylist(), kind) if nested else table[name]
    return pa.table({name: with_one_nan(values) for name, values in columns.items()})


def with_one_nan(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The same numbers: NaN, which there are many of, is one of them, whatever made it."""
    if not pa.types.is_floating(values.type):
        return values
    nan = pa.scalar(math.nan, values.type)
    return pc.call_function("if_else", [pc.call_function("is_nan", [values]), nan, values])


def check_unique(
    engine: Engine, rows: ibis.Table, name: str, locate: Callable[[int], Place]
) -> None:
    """Refuses a table in which a value of a column stands twice."""
    twice = rows.filter(_[name].notnull()).group_by(name).agg(_row=_["_row"].max(), n=_.count())
    found = engine.table(twice.filter(_["n"] > 1).order_by("_row").limit(1)).to_pylist()
    for row in found:
        file, line = locate(row["_row"])
        raise ValueError(f"{file}, line {line}: {row[name]!r} is there twice. Keep one row of it.")


def read_attributes(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """The items of a JSON file and the attributes of each."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON in UTF-8: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object of item -> list of attributes.")
    for item, many in found.items():
        if not isinstance(many, list) or any(isinstance(one, list | dict) for one in many):
            raise ValueError(f"{path}: the attributes of {item!r} are no list, but {many!r}.")
        yield item, [str(one) for one in many]


def read_names(path: pathlib.Path) -> Iterator[list[str]]:
    """The lines of `old new` of a file, which names no old one twice."""
    seen = set()
    for number, pair in numbered_fields(path, " ", "utf-8"):
        if len(pair) != 2:
            raise ValueError(f"{path}, line {number}: {' '.join(pair)!r} is not `old new`.")
        if pair[0] in seen:
            raise ValueError(f"{path}, line {number}: {pair[0]!r} is there twice.")
        seen.add(pair[0])
        yield pair
