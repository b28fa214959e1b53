"""Writes the data set: sorted events are filtered, get their final ids, and are stored.

The filters work on the sorted columns, so that every engine leads to the same bytes.
"""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int32, Int64

from clickflax.batch import PAD, RESERVED
from clickflax.data.arrays import array_writer
from clickflax.data.store import read_column, write_array, write_table
from clickflax.preparation import filters
from clickflax.preparation.collect import SortedEvents
from clickflax.preparation.features import attach_features
from clickflax.preparation.options import Options
from clickflax.preparation.sources.base import RawLog
from clickflax.preparation.warnings import (
    count_known,
    describe_reading,
    warn_of_features,
    warn_of_tokens,
)


def write_events(folder: pathlib.Path, events: SortedEvents, log: RawLog, options: Options) -> dict:
    """Filters the sorted events, writes what is kept, and returns the counts of dataset.json.

    Raises ValueError if the filters drop every event.
    """
    offsets = np.concatenate([[0], np.cumsum(events.sequences["events"].to_numpy())])
    bounds = offsets  # of sessions
    if options.session_gap is not None:
        bounds = filters.cut_sessions(offsets, events.column("time"), options.session_gap)
    keep, dropped = filters.filter_events(
        bounds,
        {name: events.column(name) for name in events.variables.with_tokens},
        merge_repeats=options.repeats == "merge",
        min_item_events=options.min_item_events,
        min_sequence_events=options.min_sequence_events,
        max_sequence_events=options.max_length,
    )
    dropped = {**events.dropped, **{reason: count for reason, count in dropped.items() if count}}
    lengths = filters.count_kept(bounds, keep)
    if not lengths.any():
        raise ValueError(f"nothing is left of {events.read} events: {dropped}. Loosen the filters.")
    _write_columns(folder, events, bounds, keep, log)
    write_array(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths[lengths > 0])]))
    _write_sequences(folder, events, offsets, bounds, lengths, log)
    counts = {
        "read": events.read,
        "dropped": dropped,
        "kept": int(lengths.sum()),
        "bad_rows": [dataclasses.asdict(row) for row in events.bad_rows],
        "left_out": list(log.unused_columns),
    }
    if events.variables.has_time:
        counts["same_time"] = filters.count_shared_times(offsets, events.column("time"))
        kept = np.load(folder / "events" / "time.npy", mmap_mode="r")
        counts["first_time"] = _format_time(kept.min())
        counts["last_time"] = _format_time(kept.max())
    warnings = []
    if log.item_features is not None:
        tokens = read_column(folder / "vocab" / "item.parquet", "token") or []
        counts["with_features"] = count_known(tokens, log.item_features)
        warnings += warn_of_features("item", counts["with_features"], tokens, log.item_features)
    if log.sequence_features is not None:
        key = "user" if len(bounds) > len(offsets) else "token"
        tokens = read_column(folder / "vocab" / "sequence.parquet", key) or []
        known = count_known(tokens, log.sequence_features)
        warnings += warn_of_features("sequence", known, tokens, log.sequence_features)
    counts["read_as"] = describe_reading(events, log)
    counts["warnings"] = [*warn_of_tokens(folder, events), *warnings]
    return counts


def _write_columns(
    folder: pathlib.Path,
    events: SortedEvents,
    bounds: Int64[np.ndarray, " bounds"],
    keep: Bool[np.ndarray, " E"],
    log: RawLog,
) -> None:
    """Writes the kept events and the vocabularies; ids go by frequency and then by token."""
    kept = int(np.count_nonzero(keep))
    for name in events.variables.names:
        column = events.column(name)
        if name in events.tokens:
            counts = filters.count_ids(bounds, keep, column)
            ids = _write_vocabulary(folder, name, counts, events, log)
        shape = (kept, *column.shape[1:])
        with array_writer(folder / "events" / f"{name}.npy", column.dtype, shape) as append:
            for block in filters.sequence_blocks(bounds):
                values = column[block.events][keep[block.events]]
                append(sort_values(ids[values]) if name in events.tokens else values)


def sort_values(ids: Int32[np.ndarray, "E ..."]) -> Int32[np.ndarray, "E ..."]:
    """Returns the ids with the values of each event in rising order, PAD last."""
    if ids.ndim == 1:
        return ids
    last = np.iinfo(ids.dtype).max
    ordered = np.sort(np.where(ids == PAD, last, ids), axis=1)
    return np.where(ordered == last, PAD, ordered)


def _write_vocabulary(
    folder: pathlib.Path,
    name: str,
    counts: Int64[np.ndarray, " ids"],
    events: SortedEvents,
    log: RawLog,
) -> Int32[np.ndarray, " ids"]:
    """Writes the kept tokens of a variable and returns the final id of each provisional one."""
    counts = counts[RESERVED:]
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    if name == "item" and len(order) < 2:
        raise ValueError(
            f"all {counts.sum()} events are of one item, {events.tokens[name][order[0]].as_py()!r}:"
            " a recommender needs at least two."
        )
    table = pa.table({"token": events.tokens[name].take(pa.array(order)), "count": counts[order]})
    if name == "item":
        table = attach_features(table, log.item_features)
    write_table(folder / "vocab" / f"{name}.parquet", table)
    ids = np.arange(RESERVED + len(counts), dtype=np.int32)
    ids[RESERVED + order] = np.arange(RESERVED, RESERVED + len(order), dtype=np.int32)
    return ids


def _write_sequences(
    folder: pathlib.Path,
    events: SortedEvents,
    offsets: Int64[np.ndarray, " bounds"],
    bounds: Int64[np.ndarray, " session_bounds"],
    lengths: Int64[np.ndarray, " sessions"],
    log: RawLog,
) -> None:
    """Writes the tokens, features and splits of the sequences, or sessions, with kept events."""
    first_session = np.searchsorted(bounds, offsets[:-1])
    sessions = np.diff([*first_session, len(lengths)])
    sequence_of_session = np.repeat(np.arange(len(first_session)), sessions)
    kept = np.flatnonzero(lengths)
    sequence = sequence_of_session[kept]
    rows = events.sequences.take(pa.array(sequence))
    table = rows.select(["token"])
    key = "token"
    if len(bounds) > len(offsets):
        number = pa.array(kept - first_session[sequence] + 1).cast(pa.string())
        token = pc.call_function(
            "binary_join_element_wise", [rows["token"], number, pa.scalar("/")]
        )
        table = pa.table({"token": token, "user": rows["token"]})
        key = "user"
    table = attach_features(table, log.sequence_features, key)
    write_table(folder / "vocab" / "sequence.parquet", table)
    if "split" in rows.column_names:
        write_array(folder / "part.npy", rows["split"].to_numpy().astype(np.int8))


def _format_time(time: np.int64) -> str:
    """Returns microseconds since 1970 as text, rounded down to the second."""
    return f"{np.datetime64(int(time), 'us').astype('datetime64[s]')}Z"
