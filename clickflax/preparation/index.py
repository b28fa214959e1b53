"""Ids of raw events: rows are checked, cleaned, numbered and sorted, as Ibis expressions.

Ids are provisional here: tokens in alphabetical order, since their frequencies are known only after
the filters. Sequences are numbered by their first appearance.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import pyarrow as pa
from ibis import _

from clickflax.batch import NA, RESERVED
from clickflax.preparation.engines.base import Engine
from clickflax.preparation.options import Options

TIME_UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}  # microseconds
# The first and the last microsecond of the years 1 to 9999.
EARLIEST = -62_135_596_800_000_000
LATEST = 253_402_300_799_999_999
NO_SEQUENCE = "no sequence"
NO_ITEM = "no item"
MISSING = (NO_SEQUENCE, NO_ITEM)  # dropped and counted, but not bad rows
MALFORMED_JSON = "malformed JSON"
LARGEST_NUMBER = 3.4e38  # float32
SAMPLED_TIMES = 1000  # to detect the format of times
MAX_VALUES = 64  # per event and variable: every event takes the memory of the longest


@dataclasses.dataclass(frozen=True)
class Variables:
    """The variables of an events table by kind; `item` is the first categorical one."""

    categorical: tuple[str, ...]
    several: tuple[str, ...]
    numeric: tuple[str, ...]
    has_time: bool

    @property
    def names(self) -> tuple[str, ...]:
        time = ("time",) if self.has_time else ()
        return self.with_tokens + self.numeric + time

    @property
    def with_tokens(self) -> tuple[str, ...]:
        """The variables with a vocabulary."""
        return self.categorical + self.several


def find_variables(events: ibis.Table, numeric: Sequence[str], several: Sequence[str]) -> Variables:
    """Returns the variables of an events table; those not named here are categorical."""
    others = ("sequence", "time", "item", *numeric, *several)
    categorical = [name for name in events.columns if name[0] != "_" and name not in others]
    has_time = "time" in events.columns
    return Variables(("item", *categorical), tuple(several), tuple(numeric), has_time)


def check_events(
    engine: Engine, events: ibis.Table, variables: Variables, options: Options
) -> ibis.Table:
    """Returns the events with clean columns, their `_problem` or null, and its `_value`."""
    clean: dict[str, Any] = {
        "_row": events["_row"],
        "sequence": as_token(engine, events["sequence"]),
    }
    clean.update({name: as_token(engine, events[name]) for name in variables.categorical})
    clean.update({name: events[name] for name in variables.several})
    if "_split" in events.columns:
        clean["_split"] = events["_split"]
    problems = [(clean["sequence"].isnull(), NO_SEQUENCE), (clean["item"].isnull(), NO_ITEM)]
    values = []
    if "_malformed" in events.columns:
        problems.insert(0, (events["_malformed"], MALFORMED_JSON))
    if variables.has_time:
        clean["time"] = _parse_times(engine, events, options)
        does_not_parse = ~clean["time"].between(EARLIEST, LATEST).fill_null(False)
        problems += [(events["time"].isnull(), "no time"), (does_not_parse, "time does not parse")]
        values.append((does_not_parse, events["time"].cast("string")))
    for name in variables.numeric:
        number = _parse_float32(engine, events[name])
        # With some engines, Ibis treats NaN as null.
        not_a_number = number.isnull() & ~number.isnan().fill_null(False) & events[name].notnull()
        problems.append((not_a_number, f"{name} is not a number"))
        values.append((not_a_number, events[name].cast("string")))
        clean[name] = number.fill_null(float("nan")).cast("float32")
    for name in variables.several:
        lists: Any = events[name]
        count = lists.length()
        too_many = (count > MAX_VALUES).fill_null(False)
        problems.append((too_many, f"{name} has more than {MAX_VALUES} values"))
        values.append((too_many, count.cast("string")))
    value = ibis.cases(*values) if values else ibis.null("string")
    return events.select(_problem=ibis.cases(*problems), _value=value, **clean)


def problem_counts(engine: Engine, checked: ibis.Table) -> dict[str | None, int]:
    """Returns the number of events with each problem; None counts the good ones."""
    counts = engine.to_arrow(checked.group_by("_problem").agg(n=checked.count()))
    return dict(zip(counts["_problem"].to_pylist(), counts["n"].to_pylist(), strict=True))


def first_problems(
    engine: Engine, checked: ibis.Table, reasons: Sequence[str], count: int
) -> list[dict]:
    """Returns `_row`, `_problem` and `_value` of the first events with one of these problems."""
    rows = checked.filter(_["_problem"].isin(reasons)).order_by("_row").limit(count)
    return engine.to_arrow(rows.select("_row", "_problem", "_value")).to_pylist()


def index_sequences(engine: Engine, clean: ibis.Table) -> pa.Table:
    """Numbers the sequences by first appearance; returns token, events and split of each."""
    summary = {"_first": clean["_row"].min(), "events": clean.count()}
    if "_split" in clean.columns:
        summary["split"] = clean["_split"].min()
    sequences = clean.group_by("sequence").agg(**summary)
    sequences = sequences.mutate(_id=ibis.row_number().over(order_by="_first").cast("int32"))
    engine.con.create_table("ids_sequence", sequences)
    ids = engine.con.table("ids_sequence").order_by("_id")
    return engine.to_arrow(ids.mutate(token=ids["sequence"].cast("string")).drop("sequence"))


def index_tokens(engine: Engine, clean: ibis.Table, name: str) -> pa.ChunkedArray:
    """Numbers the tokens of a variable alphabetically; returns them in that order."""
    values: Any = clean[name]
    if values.type().is_array():
        values = values.unnest().name(name)
    tokens = clean.select(values).distinct().filter(_[name].notnull())
    tokens = tokens.mutate(_token=tokens[name].cast("string"))
    number = ibis.row_number().over(order_by="_token") + RESERVED
    engine.con.create_table(f"ids_{name}", tokens.mutate(_id=number.cast("int32")))
    ids = engine.con.table(f"ids_{name}").order_by("_id")
    return engine.to_arrow(ids.select("_token"))["_token"]


def sorted_events(
    engine: Engine, clean: ibis.Table, variables: Variables
) -> Iterator[pa.RecordBatch]:
    """Yields the events by sequence and time; events without or of equal time in log order."""
    ids = engine.con.table("ids_sequence").select("sequence", _sequence="_id")
    events = clean.join(ids, "sequence")
    for name in variables.categorical:
        ids = engine.con.table(f"ids_{name}").select(**{"_key": name, "_id": "_id"})
        events = events.left_join(ids, [(name, "_key")]).drop("_key", name)
        events = events.mutate(_["_id"].fill_null(ibis.literal(NA, "int32")).name(name)).drop("_id")
    for name in variables.several:
        ids = engine.con.table(f"ids_{name}").select(**{"_key": name, "_id": "_id"})
        values: Any = clean[name]
        each = clean.select("_row", _key=values.unnest()).join(ids, "_key")
        lists = each.group_by(_event="_row").agg(_ids=each["_id"].collect().sort())
        events = events.drop(name).left_join(lists, [("_row", "_event")]).drop("_event")
        events = events.rename({name: "_ids"})
    order = ["_sequence", "time", "_row"] if variables.has_time else ["_sequence", "_row"]
    return engine.batches(events.order_by(order).select(*variables.names))


def max_values(engine: Engine, clean: ibis.Table, name: str) -> int:
    """Returns the maximum number of values per event in a variable, at least 1."""
    values: Any = clean[name]
    maximum = values.length().max().fill_null(0)
    table = engine.to_arrow(maximum.name("maximum").as_table())
    return max(1, table["maximum"][0].as_py())


def default_kind(type: dt.DataType) -> str:
    """Returns the kind of a variable whose column has this type."""
    if isinstance(type, dt.Array) and not is_fraction(type.value_type):
        return "several"
    return "numeric" if is_fraction(type) else "categorical"


def is_fraction(type: dt.DataType) -> bool:
    """Returns whether a column of this type holds fractions."""
    return type.is_floating() or (isinstance(type, dt.Decimal) and type.scale != 0)


def as_token(engine: Engine, value: Any) -> Any:
    """Returns a value as a token: null if empty, whole numbers without a fraction."""
    type = value.type()
    if type.is_string():
        return value.nullif("")
    if type.is_integer():
        return value
    if is_fraction(type):  # such as ids that a missing value once turned into fractions
        value = value.cast("float64")
        whole = value.try_cast("int64")
        token = ibis.ifelse(whole == value, whole.cast("string"), engine.format_number(value))
        return ibis.ifelse(value.isnan(), ibis.null("string"), token)
    return value.cast("string")


def as_tokens(engine: Engine, value: Any, separator: str, json: bool) -> Any:
    """Returns the distinct tokens of a list, or of a text with a separator, in sorted order.

    With `json`, a text may be a JSON array.
    """
    if not value.type().is_array():
        text = value.cast("string")
        value = engine.split_text(text, separator)
        if json:
            value = ibis.coalesce(engine.parse_json_list(text), value)
    tokens = value.map(lambda element: as_token(engine, element).cast("string"))
    return tokens.filter(lambda element: element.notnull()).unique().sort()


def _parse_float32(engine: Engine, value: Any) -> Any:
    """Returns a float64 in the range of float32; null if it is not a number, NaN for NaN."""
    number = engine.parse_number(value) if value.type().is_string() else value.cast("float64")
    fits = number.isnan() | (number.abs() <= LARGEST_NUMBER)
    return ibis.ifelse(fits, number, ibis.null("float64"))


def _parse_times(engine: Engine, events: ibis.Table, options: Options) -> Any:
    """Returns times as microseconds since 1970 UTC, null if they do not parse."""
    time: Any = events["time"]
    format = options.time_format
    if time.type().is_temporal():
        if format != "auto":
            raise ValueError(
                f"--time-format={format} applies to text and numbers, but the column of the time "
                f"is a {time.type()}. Leave the flag out."
            )
        return engine.microseconds(time.cast("timestamp('UTC')"))
    if format == "auto":
        format = _detect_time_format(engine, events)
    if format in TIME_UNITS:
        scaled = _parse_float32(engine, time) * TIME_UNITS[format]
        # A number far out of range would overflow the integer; as null it does not parse.
        in_range: Any = ibis.ifelse(scaled.abs() < 1e18, scaled, ibis.null("float64"))
        return in_range.round().cast("int64")
    if format == "iso":
        return engine.microseconds(engine.parse_timestamp(time.cast("string"), ""))
    if "%" not in format:
        raise ValueError(
            f"--time-format={format!r} is not one of {['auto', *TIME_UNITS, 'iso']}, "
            "nor a pattern such as %Y-%m-%d."
        )
    return engine.microseconds(engine.parse_timestamp(time.cast("string"), format))


def _detect_time_format(engine: Engine, events: ibis.Table) -> str:
    """Returns the format of most of the first times: a unit, by the size of numbers, or iso.

    Raises ValueError if the numbers could have several units.
    """
    first = events.order_by("_row").limit(SAMPLED_TIMES)
    text = first.select(time=first["time"].cast("string"))
    values = engine.to_arrow(text)["time"].to_pylist()
    numbers = [abs(float(value)) for value in values if value and _is_finite_number(value)]
    if len(numbers) * 2 < sum(value is not None for value in values) or not numbers:
        return "iso"
    limits: Mapping[str, float] = {"s": 1e11, "ms": 1e14, "us": 1e17}
    units = {next((u for u, limit in limits.items() if n < limit), "ns") for n in numbers}
    if len(units) > 1:
        raise ValueError(
            f"the first times range from {min(numbers):.15g} to {max(numbers):.15g}: their unit "
            f"could be any of {sorted(units)}. Name it, such as with --time-format=ms."
        )
    return units.pop()


def _is_finite_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
