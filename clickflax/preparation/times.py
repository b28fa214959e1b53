"""Times of events: their format, found from all rows, and their microseconds since 1970 UTC."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import ibis

from clickflax.preparation.engines.base import Engine
from clickflax.preparation.options import Options

TIME_UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}  # microseconds
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
LARGEST_OF_UNIT: Mapping[str, float] = {"s": 1e11, "ms": 1e14, "us": 1e17}
# Share of the numbers that must look like dates for them to be taken for dates.
DATE_SHARE = 0.9
YEARS = (1900, 2100)
DAYS = (10_000, 80_000)  # from 1997 on if they are since 1970, up to 2119 if since 1900


@dataclasses.dataclass(frozen=True)
class DateDigits:
    """Digits that people read as a date.

    `time` is 10 to the power of the number of digits after the date; `form` is what the digits of
    the date are: y year, Y year of two digits, m month, d day. The numbers are from `first` on, and
    below `end`.
    """

    example: str
    form: str
    time: int = 1

    @property
    def first(self) -> int:
        return {"ymd": 19000101, "ym": 190001, "Ymd": 100101, "y": YEARS[0]}[self.form] * self.time

    @property
    def end(self) -> int:
        last = {"ymd": 21001231, "ym": 210012, "Ymd": 991231, "y": YEARS[1]}[self.form]
        return (last + 1) * self.time


DATE_DIGITS = (
    DateDigits("%Y%m%d%H%M%S%f", "ymd", 10**9),
    DateDigits("%Y%m%d%H%M%S", "ymd", 10**6),
    DateDigits("%Y%m%d%H%M", "ymd", 10**4),
    DateDigits("%Y%m%d%H", "ymd", 10**2),
    DateDigits("%Y%m%d", "ymd"),
    DateDigits("%Y%m", "ym"),
    DateDigits("%y%m%d", "Ymd"),
    DateDigits("%Y", "y"),
)


def find_time_format(engine: Engine, events: ibis.Table, options: Options) -> str:
    """Returns the format of the column `time`: a unit of TIME_UNITS, iso, a pattern, or "" if the
    column holds timestamps.

    Without `--time-format`, it is told from all rows: numbers have a unit by their size, if most of
    the times are numbers, and other times are ISO 8601.

    Raises ValueError if the numbers could have several units, or be dates.
    """
    time: Any = events["time"]
    type = time.type()
    format = options.time_format
    if type.is_temporal() and not type.is_time():
        if format != "auto":
            raise ValueError(
                f"--time-format={format} applies to text and numbers, but the column of the time "
                f"is a {type}. Leave the flag out."
            )
        return ""
    if not type.is_string() and not type.is_numeric() or type.is_boolean():
        raise ValueError(f"time has values of the type {type}: convert them to text or timestamps.")
    if format == "auto":
        return _format_of_all(engine, events)
    if format not in (*TIME_UNITS, "iso") and "%" not in format:
        raise ValueError(
            f"--time-format={format!r} is not one of {['auto', *TIME_UNITS, 'iso']}, "
            "nor a pattern such as %Y-%m-%d."
        )
    return format


def describe_format(format: str) -> str:
    """Returns a format of `find_time_format` in words, for the report."""
    if format in TIME_UNITS:
        return f"{UNIT_NAMES[format]} since 1970"
    return {"": "timestamps", "iso": "ISO 8601"}.get(format, f"the pattern {format}")


def parse_times(engine: Engine, time: Any, format: str) -> Any:
    """Returns times of a format as microseconds since 1970 UTC, null if they do not parse."""
    if not format:
        return engine.microseconds(time.cast("timestamp('UTC')"))
    if format in TIME_UNITS:
        scaled = as_number(engine, time) * TIME_UNITS[format]
        # A number far out of range would overflow the integer; as null it does not parse.
        in_range: Any = ibis.ifelse(scaled.abs() < 1e18, scaled, ibis.null("float64"))
        return in_range.round().cast("int64")
    pattern = "" if format == "iso" else format
    return engine.microseconds(engine.parse_timestamp(time.cast("string"), pattern))


def as_number(engine: Engine, value: Any) -> Any:
    """Returns a float64, null if the text is not a number."""
    return engine.parse_number(value) if value.type().is_string() else value.cast("float64")


def _format_of_all(engine: Engine, events: ibis.Table) -> str:
    """Returns the format of all times: a unit or iso."""
    time: Any = events["time"]
    number = as_number(engine, time)
    finite = ~number.isnan() & (number.abs() <= sys.float_info.max)
    size: Any = ibis.ifelse(finite, number.abs(), ibis.null("float64"))
    rows: Any = events.select(size=size, known=time.notnull())
    summary = rows.agg(
        known=rows["known"].sum(),
        numbers=rows["size"].count(),
        least=rows["size"].min(),
        most=rows["size"].max(),
    )
    (row,) = engine.to_arrow(summary).to_pylist()
    if not row["numbers"] or row["numbers"] * 2 < row["known"]:
        return "iso"
    _check_dates(engine, rows, row)
    span = f"the times go from {row['least']:.15g} to {row['most']:.15g}"
    if _unit(row["least"]) != _unit(row["most"]):
        raise ValueError(
            f"{span}: their unit could be {_unit_names(row)}. Name it, such as with "
            "--time-format=ms."
        )
    return _unit(row["most"])


def _check_dates(engine: Engine, rows: Any, row: Mapping[str, Any]) -> None:
    """Raises ValueError if most of the numbers could be dates; `row` summarises them."""
    least, most = row["least"], row["most"]
    possible = [one for one in DATE_DIGITS if one.first <= most and least < one.end]
    days = DAYS[0] <= most and least <= DAYS[1]
    if not possible and not days:  # as for seconds of our days: the rows need no further look
        return
    counts = {str(k): _is_date(rows["size"], one).sum() for k, one in enumerate(possible)}
    counts["days"] = rows["size"].between(*map(float, DAYS)).sum()
    (found,) = engine.to_arrow(rows.agg(**counts)).to_pylist()
    enough = DATE_SHARE * row["numbers"]
    span = f"the times go from {least:.15g} to {most:.15g}"
    for k, one in enumerate(possible):
        if (found[str(k)] or 0) >= enough:
            raise ValueError(
                f"{span}: dates such as {one.example}, or {_unit_names(row)} since 1970? Say which "
                f"with --time-format={one.example} or --time-format={_unit(most)}."
            )
    if (found["days"] or 0) >= enough:
        raise ValueError(
            f"{span}: days since 1900 or 1970, or seconds since 1970? Say --time-format=s, or "
            "write the days as dates."
        )


def _unit(size: float) -> str:
    """Returns the unit in which a number of this size is a time of our days."""
    return next((unit for unit, limit in LARGEST_OF_UNIT.items() if size < limit), "ns")


def _unit_names(row: Mapping[str, Any]) -> str:
    """Returns the units of the smallest and the largest number in words."""
    units = dict.fromkeys((_unit(row["least"]), _unit(row["most"])))
    return " or ".join(UNIT_NAMES[unit] for unit in units)


def _is_date(number: Any, digits: DateDigits) -> Any:
    """Returns whether the digits of a number are a date of this form between 1900 and 2100."""
    date = (number / digits.time).floor()
    whole = number == number.floor()
    is_date = whole
    if "d" in digits.form:
        day = date - (date / 100).floor() * 100
        is_date = is_date & day.between(1.0, 31.0)
        date = (date / 100).floor()
    if "m" in digits.form:
        month = date - (date / 100).floor() * 100
        is_date = is_date & month.between(1.0, 12.0)
        date = (date / 100).floor()
    years = (0.0, 99.0) if "Y" in digits.form else tuple(map(float, YEARS))
    if "Y" in digits.form:
        is_date = is_date & (number >= 100_000.0)
    return is_date & date.between(*years)
