"""Sources: one module per kind of raw data. Importing this package registers its sources."""

from clickflax.preparation.sources import (
    log,
    ml_1m,
    ml_100k,
    pairs,
    recbole,
    sequences,
    sessions,
)
from clickflax.preparation.sources.base import SOURCES, RawLog, register_source, stage_events

__all__ = [
    "SOURCES",
    "RawLog",
    "log",
    "ml_100k",
    "ml_1m",
    "pairs",
    "recbole",
    "register_source",
    "sequences",
    "sessions",
    "stage_events",
]
