"""`clickflax prepare`: a raw log is checked, cleaned, filtered, indexed, sorted and stored.

An engine reads, checks, numbers and sorts the events (collect.py); numpy filters the sorted columns
and writes the data set (write.py).
"""

import argparse
import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from clickflax.data.manifest import write_manifest
from clickflax.data.remote import check_overwrite, is_url, publish
from clickflax.data.scratch import remove_left_overs, scratch_folder
from clickflax.data.store import new_dataset_folder
from clickflax.preparation.collect import collect_events
from clickflax.preparation.engines.open import open_engine
from clickflax.preparation.fetch import fetch_log
from clickflax.preparation.options import Options, add_flags, from_flags
from clickflax.preparation.report import print_report
from clickflax.preparation.sources import SOURCES
from clickflax.preparation.write import write_events
from clickflax.runtime.redact import without_secrets


def main(argv: list[str]) -> None:
    """Runs `clickflax prepare` with these arguments."""
    flags = _parser().parse_args(argv)
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
        local = pathlib.Path(tempfile.gettempdir(), "clickflax")
        remove_left_overs(local)
        with scratch_folder(local) as temporary:
            folder = temporary / "new"
            info = prepare(source, raw, folder, options)
            publish(folder, str(out), overwrite)
            return info
    with new_dataset_folder(out, overwrite) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        with (
            _local_log(str(raw), scratch, options) as path,
            open_engine(scratch, options) as engine,
        ):
            log = SOURCES.find(source, "source").read(engine, path, options)
            events = collect_events(engine, log, scratch, options)
            events = events.with_log_path(str(path), without_secrets(str(raw)))
        # The engine is closed, and its memory free, before the columns are filtered.
        counts = write_events(folder, events, log, options)
        shutil.rmtree(scratch)
        stored_options = {"raw": without_secrets(str(raw)), **_options_as_json(options)}
        return write_manifest(folder, source=source, options=stored_options, counts=counts)


def _parser() -> argparse.ArgumentParser:
    """Returns the parser, whose help lists the registered sources."""
    lines = [f"  {name:<10} {source.raw}" for name, source in SOURCES.items()]
    parser = argparse.ArgumentParser(
        prog="clickflax prepare",
        description="Check, clean, filter, index, sort and store a raw log.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["sources:", *lines]),
    )
    parser.add_argument("source", help="a source of the list below")
    parser.add_argument(
        "--raw", required=True, help="file or folder of the source, its URL, or a table of --engine"
    )
    parser.add_argument("--out", required=True, help="folder to write, or its URL")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set in --out")
    add_flags(parser)
    return parser


@contextlib.contextmanager
def _local_log(raw: str, scratch: pathlib.Path, options: Options) -> Iterator[pathlib.Path]:
    """Yields the path of the log on this machine; errors name the original."""
    if not is_url(raw) and not is_url(options.engine):
        yield pathlib.Path(raw)
        return
    folder = scratch / "raw"
    folder.mkdir()
    copy = fetch_log(raw, folder, options)
    try:
        yield copy
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(str(error).replace(str(copy), without_secrets(raw))) from error


def _check_options(source: str, options: Options) -> None:
    """Raises ValueError for an unknown source, and for an option that the source does not take."""
    if is_url(options.engine) and source != "log":
        raise ValueError(
            f"--engine={without_secrets(options.engine)} reads a table: the source must be "
            f"log, not {source}."
        )
    own_options = SOURCES.find(source, "source").options
    for name in sorted({name for entry in SOURCES.values() for name in entry.options}):
        if name not in own_options and getattr(options, name) != getattr(Options, name):
            takers = [other for other, entry in SOURCES.items() if name in entry.options]
            flag = "no-header" if name == "header" else name
            raise ValueError(f"--{flag} applies to the sources {takers}, not to {source}.")


def _options_as_json(options: Options) -> dict:
    """Returns the options that decide what is stored, in types of JSON."""
    values = dataclasses.asdict(options)
    for name in ("engine", "memory", "threads"):  # they do not change the data set
        del values[name]
    return {n: str(v) if isinstance(v, pathlib.Path) else v for n, v in values.items()}
