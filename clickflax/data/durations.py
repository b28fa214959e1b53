"""Durations such as 30m, in microseconds."""

import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SECOND = 1_000_000  # microseconds


def parse_gap(name: str, text: str) -> int:
    """`90s`, `30m`, `2h` or `1d` in microseconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match or float(match[1]) == 0:
        raise ValueError(f"{name}={text} is not a time such as 90s, 30m, 2h or 1d.")
    return round(float(match[1]) * UNITS[match[2]] * SECOND)
