"""A raw events table becomes ids in order: check, clean, index, sort, as Ibis expressions.

Ids are provisional here: tokens in the order of their text, since their frequencies are known only
after the filters. Sequences are numbered by their first appearance.
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

UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}  # microseconds
EARLIEST, LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999  # years 1 to 9999
MISSING = (NO_SEQUENCE, NO_ITEM) = ("no sequence", "no item")  # dropped without being bad
MALFORMED = "malformed JSON"
LARGEST = 3.4e38  # float32
SAMPLE = 1000  # rows that decide what form the times have
MOST = 64  # values of an event in one variable: all of its events take the room of the longest


@dataclasses.dataclass(frozen=True)
class Variables:
    """The variables of an events table by kind; `item` is the first of the categorical ones."""

    categorical: tuple[str, ...]
    several: tuple[str, ...]
    numeric: tuple[str, ...]
    time: bool

    @property
    def names(self) -> tuple[str, ...]:
        return self.with_tokens + self.numeric + ("time",) * self.time

    @property
    def with_tokens(self) -> tuple[str, ...]:
        """Those that have a vocabulary."""
        return self.categorical + self.several


def variables(events: ibis.Table, numeric: Sequence[str], several: Sequence[str]) -> Variables:
    """The variables of an events table: numeric ones, those of several values, and all others."""
    others = ("sequence", "time", "item", *numeric, *several)
    rest = [name for name in events.columns if name[0] != "_" and name not in others]
    return Variables(("item", *rest), tuple(several), tuple(numeric), "time" in events.columns)


def check(engine: Engine, events: ibis.Table, kinds: Variables, options: Options) -> ibis.Table:
    """The events with clean columns, a `_problem` or null, and the `_value` that has it."""
    clean: dict[str, Any] = {
        "_row": events["_row"],
        "sequence": as_token(engine, events["sequence"]),
    }
    clean.update({name: as_token(engine, events[name]) for name in kinds.categorical})
    clean.update({name: events[name] for name in kinds.several})
    if "_part" in events.columns:
        clean["_part"] = events["_part"]
    problems = [(clean["sequence"].isnull(), NO_SEQUENCE), (clean["item"].isnull(), NO_ITEM)]
    values = []
    if "_malformed" in events.columns:
        problems.insert(0, (events["_malformed"], MALFORMED))
    if kinds.time:
        clean["time"] = _time(engine, events, options)
        does_not_parse = ~clean["time"].between(EARLIEST, LATEST).fill_null(False)
        problems += [(events["time"].isnull(), "no time"), (does_not_parse, "time does not parse")]
        values.append((does_not_parse, events["time"].cast("string")))
    for name in kinds.numeric:
        number = _number(engine, events[name])
        # Ibis takes NaN for null in some engines
        is_none = number.isnull() & ~number.isnan().fill_null(False) & events[name].notnull()
        problems.append((is_none, f"{name} is not a number"))
        values.append((is_none, events[name].cast("string")))
        clean[name] = number.fill_null(float("nan")).cast("float32")
    for name in kinds.several:
        lists: Any = events[name]
        count = lists.length()
        too_many = (count > MOST).fill_null(False)
        problems.append((too_many, f"{name} has more than {MOST} values"))
        values.append((too_many, count.cast("string")))
    value = ibis.cases(*values) if values else ibis.null("string")
    return events.select(_problem=ibis.cases(*problems), _value=value, **clean)


def problem_counts(engine: Engine, checked: ibis.Table) -> dict[str | None, int]:
    """How many events have which problem; None is none."""
    counts = engine.table(checked.group_by("_problem").agg(n=checked.count()))
    return dict(zip(*(counts[name].to_pylist() for name in ("_problem", "n")), strict=True))


def first_problems(
    engine: Engine, checked: ibis.Table, reasons: Sequence[str], count: int
) -> list[dict]:
    """The first events with one of these problems: `_row`, `_problem` and `_value`."""
    found = checked.filter(_["_problem"].isin(reasons)).order_by("_row").limit(count)
    return engine.table(found.select("_row", "_problem", "_value")).to_pylist()


def index_sequences(engine: Engine, clean: ibis.Table) -> pa.Table:
    """Numbers the sequences by first appearance; token, events and part of each, in that order."""
    summary = {"_first": clean["_row"].min(), "events": clean.count()}
    if "_part" in clean.columns:
        summary["part"] = clean["_part"].min()
    found = clean.group_by("sequence").agg(**summary)
    found = found.mutate(_id=ibis.row_number().over(order_by="_first").cast("int32"))
    engine.con.create_table("ids_sequence", found)
    ids = engine.con.table("ids_sequence").order_by("_id")
    return engine.table(ids.mutate(token=ids["sequence"].cast("string")).drop("sequence"))


def index_tokens(engine: Engine, clean: ibis.Table, name: str) -> pa.ChunkedArray:
    """Gives the tokens of a variable provisional ids, in the order of their text."""
    values: Any = clean[name]
    if values.type().is_array():
        values = values.unnest().name(name)
    found = clean.select(values).distinct().filter(_[name].notnull())
    found = found.mutate(_token=found[name].cast("string"))
    number = ibis.row_number().over(order_by="_token") + RESERVED
    engine.con.create_table(f"ids_{name}", found.mutate(_id=number.cast("int32")))
    ids = engine.con.table(f"ids_{name}").order_by("_id")
    return engine.table(ids.select("_token"))["_token"]


def sorted_events(engine: Engine, clean: ibis.Table, kinds: Variables) -> Iterator[pa.RecordBatch]:
    """The events of each sequence in order of time, ties and logs without time as in the file."""
    ids = engine.con.table("ids_sequence").select("sequence", _sequence="_id")
    events = clean.join(ids, "sequence")
    for name in kinds.categorical:
        ids = engine.con.table(f"ids_{name}").select(**{"_key": name, "_id": "_id"})
        events = events.left_join(ids, [(name, "_key")]).drop("_key", name)
        events = events.mutate(_["_id"].fill_null(ibis.literal(NA, "int32")).name(name)).drop("_id")
    for name in kinds.several:
        ids = engine.con.table(f"ids_{name}").select(**{"_key": name, "_id": "_id"})
        values: Any = clean[name]
        each = clean.select("_row", _key=values.unnest()).join(ids, "_key")
        lists = each.group_by(_event="_row").agg(_ids=each["_id"].collect().sort())
        events = events.drop(name).left_join(lists, [("_row", "_event")]).drop("_event")
        events = events.rename({name: "_ids"})
    order = ["_sequence", *(["time"] if kinds.time else []), "_row"]
    return engine.stream(events.order_by(order).select(*kinds.names))


def most_values(engine: Engine, clean: ibis.Table, name: str) -> int:
    """The most values that an event has in a variable; 1 where none has any."""
    values: Any = clean[name]
    most = values.length().max().fill_null(0)
    return max(1, engine.table(most.name("most").as_table())["most"][0].as_py())


def kind_of(type: dt.DataType) -> str:
    """The kind of a variable that nothing else is said of."""
    if isinstance(type, dt.Array) and not is_fraction(type.value_type):
        return "several"
    return "numeric" if is_fraction(type) else "categorical"


def is_fraction(kind: dt.DataType) -> bool:
    """Whether a column of this type holds fractions."""
    return kind.is_floating() or (isinstance(kind, dt.Decimal) and kind.scale != 0)


def as_token(engine: Engine, value: Any) -> Any:
    """A value as what names something: never empty, whole numbers without a fraction."""
    kind = value.type()
    if kind.is_string():
        return value.nullif("")
    if kind.is_integer():
        return value
    if is_fraction(kind):  # such as ids that a missing value once turned into fractions
        value = value.cast("float64")
        whole = value.try_cast("int64")
        token = ibis.ifelse(whole == value, whole.cast("string"), engine.shortest(value))
        return ibis.ifelse(value.isnan(), ibis.null("string"), token)
    return value.cast("string")


def as_tokens(engine: Engine, value: Any, separator: str, json: bool) -> Any:
    """The different tokens of a list, or of a text with a separator, in their order; where rows
    are JSON, a text may be an array.
    """
    if not value.type().is_array():
        text = value.cast("string")
        value = engine.pieces(text, separator)
        if json:
            value = ibis.coalesce(engine.json_list(text), value)
    tokens = value.map(lambda one: as_token(engine, one).cast("string"))
    return tokens.filter(lambda one: one.notnull()).unique().sort()


def _number(engine: Engine, value: Any) -> Any:
    """A value as a float64 that a float32 can hold; null where there is none, NaN stays."""
    number = engine.number(value) if value.type().is_string() else value.cast("float64")
    fits = number.isnan() | (number.abs() <= LARGEST)
    return ibis.ifelse(fits, number, ibis.null("float64"))


def _time(engine: Engine, events: ibis.Table, options: Options) -> Any:
    """Times as microseconds since 1970 UTC, null where they do not parse."""
    time: Any = events["time"]
    form = options.time_format
    if time.type().is_temporal():
        if form != "auto":
            raise ValueError(
                f"--time-format={form} is for text and numbers; the time is a {time.type()}."
            )
        return engine.microseconds(time.cast("timestamp('UTC')"))
    if form == "auto":
        form = _find_form(engine, events)
    if form in UNITS:
        scaled = _number(engine, time) * UNITS[form]
        # what is far out of range would overflow the integer: null, it does not parse
        fits: Any = ibis.ifelse(scaled.abs() < 1e18, scaled, ibis.null("float64"))
        return fits.round().cast("int64")
    if form == "iso":
        return engine.microseconds(engine.moment(time.cast("string"), ""))
    if "%" not in form:
        raise ValueError(
            f"--time-format={form!r} is not one of {['auto', *UNITS, 'iso']}, "
            "nor a pattern such as %Y-%m-%d."
        )
    return engine.microseconds(engine.moment(time.cast("string"), form))


def _find_form(engine: Engine, events: ibis.Table) -> str:
    """The form of most of the first times: numbers by their size, all of one unit, or ISO text."""
    first = events.order_by("_row").limit(SAMPLE)
    text = first.select(time=first["time"].cast("string"))
    values = engine.table(text)["time"].to_pylist()
    numbers = [abs(float(value)) for value in values if value and _is_number(value)]
    if len(numbers) * 2 < sum(value is not None for value in values) or not numbers:
        return "iso"
    limits: Mapping[str, float] = {"s": 1e11, "ms": 1e14, "us": 1e17}
    units = {next((u for u, limit in limits.items() if n < limit), "ns") for n in numbers}
    if len(units) > 1:
        raise ValueError(
            f"the first times go from {min(numbers):.15g} to {max(numbers):.15g}: they could be "
            f"any of {sorted(units)}. Say which, such as with --time-format=ms."
        )
    return units.pop()


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
