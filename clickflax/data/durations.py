"""Durations such as 30m, in microseconds."""

import re

SECOND = 1_000_000  # microseconds, the unit of all times
HOUR = 3600 * SECOND
DAY = 24 * HOUR
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # seconds
LONGEST = 2**62  # microseconds: a time plus a duration is an int64


def parse_gap(name: str, text: str) -> int:
    """Parses `90s`, `30m`, `2h` or `1d`; returns microseconds.

    Raises ValueError, with the name of the flag or knob, for any other text.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    microseconds = float(match[1]) * UNITS[match[2]] * SECOND if match else 0.0
    if not 0 < microseconds < LONGEST:
        raise ValueError(f"{name}={text} is not a time such as 90s, 30m, 2h or 1d.")
    return round(microseconds)
