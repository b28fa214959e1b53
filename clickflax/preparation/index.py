"""Ids of raw events: rows are checked, cleaned, numbered and sorted, as Ibis expressions.

Ids are provisional here: tokens in alphabetical order, since their frequencies are known only after
the filters. Sequences are numbered by their first appearance.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import ibis
import pyarrow as pa
from ibis import _

from clickflax.batch import NA, RESERVED
from clickflax.preparation.engines.base import Engine
from clickflax.preparation.times import as_number, parse_times
from clickflax.preparation.tokens import as_token, without_fraction

# The first and the last microsecond of the years 1 to 9999.
EARLIEST = -62_135_596_800_000_000
LATEST = 253_402_300_799_999_999
NO_SEQUENCE = "no sequence"
NO_ITEM = "no item"
MISSING = (NO_SEQUENCE, NO_ITEM)  # dropped and counted, but not bad rows
TIME_DOES_NOT_PARSE = "time does not parse"
NOT_A_NUMBER = "is not a number"
LARGEST_NUMBER = 3.4e38  # float32
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
    engine: Engine,
    events: ibis.Table,
    variables: Variables,
    time_format: str = "",
    fractions: Sequence[str] = (),
) -> ibis.Table:
    """Returns the events with clean columns, their `_problem` or null, and its `_value`.

    Tokens of the columns `fractions` are written without one. Raises ValueError for a column whose
    type is not that of its variable.
    """
    clean: dict[str, Any] = {"_row": events["_row"]}
    for name in ("sequence", *variables.categorical):
        value: Any = events[name]
        value = without_fraction(value) if name in fractions else value
        clean[name] = as_token(engine, name, value)
    clean.update({name: events[name] for name in variables.several})
    if "_split" in events.columns:
        clean["_split"] = events["_split"]
    problems = [(clean["sequence"].isnull(), NO_SEQUENCE), (clean["item"].isnull(), NO_ITEM)]
    values = []
    if variables.has_time:
        clean["time"] = parse_times(engine, events["time"], time_format)
        does_not_parse = ~clean["time"].between(EARLIEST, LATEST).fill_null(False)
        problems += [(events["time"].isnull(), "no time"), (does_not_parse, TIME_DOES_NOT_PARSE)]
        values.append((does_not_parse, events["time"].cast("string")))
    for name in variables.numeric:
        number = _parse_float32(engine, name, events[name])
        # With some engines, Ibis treats NaN as null.
        not_a_number = number.isnull() & ~number.isnan().fill_null(False) & events[name].notnull()
        problems.append((not_a_number, f"{name} {NOT_A_NUMBER}"))
        values.append((not_a_number, events[name].cast("string")))
        clean[name] = number.fill_null(float("nan")).cast("float32")
    for name in variables.several:
        lists: Any = events[name]
        count = lists.length()
        too_many = (count > MAX_VALUES).fill_null(False)
        problems.append((too_many, f"{name} has more than {MAX_VALUES} values"))
        values.append((too_many, count.cast("string")))
    problem: Any = ibis.cases(*problems)
    value = ibis.cases(*values) if values else ibis.null("string")
    if "_malformed" in events.columns:
        problem = ibis.coalesce(events["_malformed"], problem)
        value = ibis.coalesce(events["_text"], value)
    return events.select(_problem=problem, _value=value, **clean)


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


def _parse_float32(engine: Engine, name: str, value: Any) -> Any:
    """Returns a float64 in the range of float32; null if it is not a number, NaN for NaN.

    Raises ValueError if the column `name` has neither numbers nor text.
    """
    if not value.type().is_string() and not value.type().is_numeric():
        raise ValueError(
            f"{name} has values of the type {value.type()}, not numbers. Convert the column, or "
            f"write {name}=COLUMN:categorical in --columns."
        )
    number = as_number(engine, value)
    fits = number.isnan() | (number.abs() <= LARGEST_NUMBER)
    return ibis.ifelse(fits, number, ibis.null("float64"))
