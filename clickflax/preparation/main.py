"""`clickflax prepare`: a raw log is checked, cleaned, filtered, indexed, sorted and stored.

The engine reads, checks, numbers and sorts the events. What stays is decided on the sorted columns,
a block at a time, so that any engine leads to the same bytes.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32

from clickflax.batch import PAD, RESERVED
from clickflax.data.manifest import array_writer, write_manifest
from clickflax.data.remote import check_overwrite, is_url, publish, without_secrets
from clickflax.data.store import new_dataset_folder, read_column, write_array, write_table
from clickflax.preparation import filters
from clickflax.preparation.catalog import attach
from clickflax.preparation.collect import Sorted, collect
from clickflax.preparation.engines.open import open_engine
from clickflax.preparation.fetch import bring
from clickflax.preparation.options import Options, add_flags, from_flags
from clickflax.preparation.report import print_report
from clickflax.preparation.sources import SOURCES, Raw


def main(argv: list[str]) -> None:
    """The command: a source, its raw files, the folder to write."""
    parser = argparse.ArgumentParser(
        prog="clickflax prepare",
        description="Checks, cleans, filters, indexes, sorts and stores a raw log.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="sources:\n" + "\n".join(f"  {name:<10} {s.raw}" for name, s in SOURCES.items()),
    )
    parser.add_argument("source", help="one of the sources below")
    parser.add_argument(
        "--raw", required=True, help="its file or folder, a URL of one, or a table of --engine=URL"
    )
    parser.add_argument("--out", required=True, help="the folder to write, or its URL")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set there")
    add_flags(parser)
    flags = parser.parse_args(argv)
    info = prepare(flags.source, flags.raw, flags.out, from_flags(flags), flags.overwrite)
    print_report(info, flags.out)


def prepare(
    source: str,
    raw: str | pathlib.Path,
    out: str | pathlib.Path,
    options: Options | None = None,
    overwrite: bool = False,
) -> dict:
    """Writes the data set `out` and returns its dataset.json. Both paths may be URLs."""
    options = options or Options()
    _check_options(source, options)
    if is_url(out):
        check_overwrite(str(out), overwrite)
        with tempfile.TemporaryDirectory() as room:
            info = prepare(source, raw, pathlib.Path(room, "new"), options)
            publish(pathlib.Path(room, "new"), str(out), overwrite)
            return info
    with new_dataset_folder(out, overwrite) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        with _brought(str(raw), scratch, options) as found, open_engine(scratch, options) as engine:
            read = SOURCES[source].read(engine, found, options)
            events = collect(engine, read, scratch, options).told_of(
                str(found), without_secrets(str(raw))
            )
        # the engine is closed, and its memory free, before the columns are filtered
        counts = _store(folder, events, read, options)
        shutil.rmtree(scratch)
        given = {"raw": without_secrets(str(raw)), **_as_json(options)}
        return write_manifest(folder, source=source, options=given, counts=counts)


@contextlib.contextmanager
def _brought(raw: str, scratch: pathlib.Path, options: Options) -> Iterator[pathlib.Path]:
    """The log on this machine; what is wrong in it is told of where it was."""
    if not is_url(raw) and not is_url(options.engine):
        yield pathlib.Path(raw)
        return
    (scratch / "raw").mkdir()
    found = bring(raw, scratch / "raw", options)
    try:
        yield found
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(str(error).replace(str(found), without_secrets(raw))) from error


def _store(folder: pathlib.Path, events: Sorted, raw: Raw, options: Options) -> dict:
    """Filters the sorted events and writes what stays; the counts of what was read and dropped."""
    offsets = np.concatenate([[0], np.cumsum(events.sequences["events"].to_numpy())])
    bounds = offsets
    if options.session_gap is not None:
        bounds = filters.cut_sessions(offsets, events.column("time"), options.session_gap)
    keep, dropped = filters.survivors(
        bounds,
        {name: events.column(name) for name in events.variables.with_tokens},
        merge=options.repeats == "merge",
        rarest=options.rarest,
        shortest=options.shortest,
        longest=options.max_length,
    )
    dropped = {**events.dropped, **{reason: count for reason, count in dropped.items() if count}}
    lengths = filters.count_kept(bounds, keep)
    if not lengths.any():
        raise ValueError(f"nothing is left of {events.read} events: {dropped}.")
    _write_columns(folder, events, bounds, keep, raw)
    write_array(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths[lengths > 0])]))
    _write_sequences(folder, events, offsets, bounds, lengths, raw)
    counts = {
        "read": events.read,
        "dropped": dropped,
        "kept": int(lengths.sum()),
        "bad_rows": [dataclasses.asdict(row) for row in events.bad_rows],
        "left_out": list(raw.left_out),
    }
    if events.variables.time:
        counts["same_time"] = filters.count_shared_times(offsets, events.column("time"))
        kept = np.load(folder / "events" / "time.npy", mmap_mode="r")
        counts["first_time"], counts["last_time"] = map(_as_text, (kept.min(), kept.max()))
    if raw.catalog is not None:
        known = set(raw.catalog["token"].to_pylist())
        tokens = read_column(folder / "vocab" / "item.parquet", "token") or []
        counts["with_features"] = sum(token in known for token in tokens)
    return counts


def _write_columns(
    folder: pathlib.Path, events: Sorted, bounds: np.ndarray, keep: np.ndarray, raw: Raw
) -> None:
    """Writes the kept events, ids by frequency and then by token, and the vocabularies."""
    kept = int(np.count_nonzero(keep))
    for name in events.variables.names:
        column = events.column(name)
        if name in events.tokens:
            counts = filters.count_ids(bounds, keep, column)
            ids = _write_vocabulary(folder, name, counts, events, raw)
        shape = (kept, *column.shape[1:])
        with array_writer(folder / "events" / f"{name}.npy", column.dtype, shape) as append:
            for block in filters.blocks(bounds):
                values = column[block.events][keep[block.events]]
                append(in_order(ids[values]) if name in events.tokens else values)


def in_order(ids: Int32[np.ndarray, "E ..."]) -> Int32[np.ndarray, "E ..."]:
    """The same ids; several of an event ascending, with PAD after them."""
    if ids.ndim == 1:
        return ids
    beyond = np.iinfo(ids.dtype).max
    found = np.sort(np.where(ids == PAD, beyond, ids), axis=1)
    return np.where(found == beyond, PAD, found)


def _write_vocabulary(
    folder: pathlib.Path, name: str, counts: np.ndarray, events: Sorted, raw: Raw
) -> np.ndarray:
    """Writes the tokens that are left of a variable; the final id of each provisional one."""
    counts = counts[RESERVED:]
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    if name == "item" and len(order) < 2:
        raise ValueError(
            f"all {counts.sum()} events are of one item, {events.tokens[name][order[0]].as_py()!r}:"
            " there is nothing to choose from."
        )
    table = pa.table({"token": events.tokens[name].take(pa.array(order)), "count": counts[order]})
    if name == "item":
        table = attach(table, raw.catalog)
    write_table(folder / "vocab" / f"{name}.parquet", table)
    ids = np.arange(RESERVED + len(counts), dtype=np.int32)
    ids[RESERVED + order] = np.arange(RESERVED, RESERVED + len(order), dtype=np.int32)
    return ids


def _write_sequences(
    folder: pathlib.Path,
    events: Sorted,
    offsets: np.ndarray,
    bounds: np.ndarray,
    lengths: np.ndarray,
    raw: Raw,
) -> None:
    """Writes the tokens, features and parts of the sequences that have events left."""
    first = np.searchsorted(bounds, offsets[:-1])  # the first session of each sequence
    of = np.repeat(np.arange(len(first)), np.diff([*first, len(lengths)]))
    left = np.flatnonzero(lengths)
    rows = events.sequences.take(pa.array(of[left]))
    table, key = rows.select(["token"]), "token"
    if len(bounds) > len(offsets):
        number = pa.array(left - first[of[left]] + 1).cast(pa.string())
        token = pc.call_function(
            "binary_join_element_wise", [rows["token"], number, pa.scalar("/")]
        )
        table, key = pa.table({"token": token, "user": rows["token"]}), "user"
    write_table(folder / "vocab" / "sequence.parquet", attach(table, raw.sequences, key))
    if "part" in rows.column_names:
        write_array(folder / "part.npy", rows["part"].to_numpy().astype(np.int8))


def _check_options(source: str, options: Options) -> None:
    """Refuses a source that is not known, and options that it would not look at."""
    if is_url(options.engine) and source != "log":
        raise ValueError(
            f"--engine={without_secrets(options.engine)} reads a table: the source must be "
            f"log, not {source}."
        )
    if source not in SOURCES:
        raise ValueError(f"source {source!r} is not one of {sorted(SOURCES)}.")
    for name in sorted({name for entry in SOURCES.values() for name in entry.takes}):
        takers = [other for other, entry in SOURCES.items() if name in entry.takes]
        if source not in takers and getattr(options, name) != getattr(Options, name):
            flag = "no-header" if name == "header" else name
            raise ValueError(f"--{flag} is for the sources {takers}, not for {source}.")


def _as_text(time: np.int64) -> str:
    """Microseconds since 1970 as the second that they fall in."""
    return f"{np.datetime64(int(time), 'us').astype('datetime64[s]')}Z"


def _as_json(options: Options) -> dict:
    """The options that decide what is stored, in types that JSON has."""
    values = dataclasses.asdict(options)
    for name in ("engine", "memory", "threads"):  # they change no byte
        del values[name]
    return {n: str(v) if isinstance(v, pathlib.Path) else v for n, v in values.items()}
