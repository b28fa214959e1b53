"""What a preparation reports besides counts: how the log was read, and what looks wrong."""

import pathlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from clickflax.data.store import read_column
from clickflax.preparation.collect import SortedEvents
from clickflax.preparation.sources.base import RawLog
from clickflax.preparation.times import describe_format

# Texts by which systems write a missing value, in lower case.
MISSING_WORDS = frozenset(
    ("null", "none", "nan", "na", "n/a", "nil", "nat", "<na>", "\\n", "undefined", "-", "?")
)


def describe_reading(events: SortedEvents, log: RawLog) -> list[str]:
    """Returns sentences on what was found rather than given: files, times, tokens."""
    lines = [log.form] if log.form else []
    if events.time_format is not None:
        lines.append(f"times: {describe_format(events.time_format)}")
    return lines


def warn_of_tokens(folder: pathlib.Path, events: SortedEvents) -> list[str]:
    """Returns warnings of tokens with a fraction, and of those that may stand for a missing value.

    `folder` has the vocabularies.
    """
    warnings = [
        f"every {name} is written with a fraction, such as 10.0, as whole numbers are beside "
        "missing ones; whole numbers are read without it, as 10."
        for name in events.fractions
    ]
    most_frequent = {
        name: read_column(folder / "vocab" / f"{name}.parquet", "token")
        for name in events.variables.with_tokens
    }
    sizes = events.sequences["events"]
    longest = pc.call_function("index", [sizes], pc.IndexOptions(pc.call_function("max", [sizes])))
    most_frequent["sequence"] = [events.sequences["token"][longest.as_py()].as_py()]
    for name, tokens in most_frequent.items():
        if tokens and tokens[0].strip().lower() in MISSING_WORDS:
            warnings.append(
                f"the most frequent {name} is {tokens[0]!r}: if it stands for a missing value, say "
                f"so with --missing={tokens[0]}."
            )
    return warnings


def count_known(tokens: Sequence[str], features: pa.Table) -> int:
    """Returns the number of tokens that a table of features has."""
    known = set(features["token"].to_pylist())
    return sum(token in known for token in tokens)


def warn_of_features(name: str, known: int, tokens: Sequence[str], features: pa.Table) -> list[str]:
    """Returns a warning if none of the tokens has features."""
    if known or not len(features):
        return []
    return [
        f"no {name} of the log has features: the log has {name}s such as {tokens[0]!r}, the "
        f"features are of {name}s such as {features['token'][0].as_py()!r}."
    ]
