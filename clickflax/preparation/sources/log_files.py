"""The files of a log: their paths, format and columns.

Text is read as text: a token stays as it is written ("007"), and a value that does not parse is
reported later, with its file and line.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Mapping

import pyarrow.parquet as pq

from clickflax.preparation.engines.base import Engine, Staged
from clickflax.preparation.locate import check_columns, open_text, records

DELIMITERS = (",", "\t", ";", "|", " ")
FORMAT_OF_SUFFIX = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
SAMPLED_OBJECTS = 1000  # of a JSON-lines file, to find its keys


@dataclasses.dataclass(frozen=True)
class LogFiles:
    """The files of a log in the order of their names, their format, and their columns."""

    paths: tuple[pathlib.Path, ...]
    format: str  # parquet, jsonl, or the delimiter of text
    names: tuple[str, ...]
    header: bool = False
    quote: str = ""


def find_log_files(path: pathlib.Path, delimiter: str | None, header: bool, quote: str) -> LogFiles:
    """Returns a CSV, TSV, Parquet or JSON-lines file, or the files of a folder of one format."""
    paths = _list_files(path)
    format = _format_of(paths[0])
    if format in ("parquet", "jsonl"):
        if delimiter is not None or not header or quote != '"':
            raise ValueError(
                f"--delimiter, --no-header and --quote apply to text, not to {paths[0]}."
            )
        is_parquet = format == "parquet"
        names = pq.read_schema(paths[0]).names if is_parquet else _json_keys(paths[0])
        return LogFiles(paths, format, tuple(names))
    delimiter = delimiter or ("\t" if format == "tsv" else find_delimiter(paths[0]))
    names = first_record(paths[0], delimiter, quote)
    if header:
        _check_same_header(paths, names, delimiter, quote)
    else:
        names = tuple(str(number) for number in range(1, len(names) + 1))
    return LogFiles(paths, delimiter, names, header, quote)


def stage_log(
    engine: Engine, log: LogFiles, wanted: Mapping[str, str], table: str = "events"
) -> Staged:
    """Reads columns of a log, {new name: name}, into the engine."""
    check_columns(log.paths[0], log.names, wanted)
    if log.format == "parquet":
        return engine.read_parquet(log.paths, wanted, table)
    if log.format == "jsonl":
        return engine.read_json_lines(log.paths, wanted, table)
    return engine.read_text(
        log.paths,
        log.names,
        wanted,
        delimiter=log.format,
        header=log.header,
        quote=log.quote,
        table=table,
    )


def find_delimiter(path: pathlib.Path) -> str:
    """Returns the delimiter that splits the first line into most fields."""
    with open_text(path) as file:
        line = file.readline()
    if not line.strip():
        raise ValueError(f"{path}: line 1 is blank. Remove it." if line else f"{path} is empty.")
    return max(DELIMITERS, key=line.count)


def first_record(path: pathlib.Path, delimiter: str, quote: str) -> tuple[str, ...]:
    """Returns the fields of the first line of a text file."""
    for line, record in records(path, delimiter, quote):
        if line > 1:
            raise ValueError(f"{path}: line 1 is blank. Remove it.")
        return tuple(record)
    raise ValueError(f"{path} is empty.")


def _list_files(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Returns the files of a log in the order of their names. Raises ValueError if formats mix."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    paths = [path]
    if path.is_dir():
        entries = sorted(p for p in path.iterdir() if p.name[0] not in "._")
        paths = [p for p in entries if not p.is_dir()]
        folders = [p.name for p in entries if p.is_dir()]
        if folders:
            raise ValueError(f"{path} has the subfolders {folders}: name a folder of files only.")
        if not paths:
            raise ValueError(f"{path} is an empty folder.")
    name_of_format = {_format_of(p): p.name for p in paths}
    if len(name_of_format) > 1:
        raise ValueError(
            f"{path} mixes formats: {sorted(name_of_format.values())}. Name a file, or a folder "
            "with files of one format."
        )
    return tuple(paths)


def _format_of(path: pathlib.Path) -> str:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix not in FORMAT_OF_SUFFIX:
        raise ValueError(
            f"{path} ends in {suffix!r}; a log ends in one of {sorted(FORMAT_OF_SUFFIX)}."
        )
    return FORMAT_OF_SUFFIX[suffix]


def _check_same_header(
    paths: tuple[pathlib.Path, ...], names: tuple[str, ...], delimiter: str, quote: str
) -> None:
    """Raises ValueError if a file has another header than the first one."""
    for path in paths[1:]:
        other = first_record(path, delimiter, quote)
        if other != names:
            raise ValueError(
                f"{path} begins with {list(other)}, {paths[0]} with {list(names)}: the files of a "
                "folder must have the same header."
            )


def _json_keys(path: pathlib.Path) -> list[str]:
    """Returns the keys of the first objects."""
    names: dict[str, None] = {}
    with open_text(path) as file:
        for line in itertools.islice(file, SAMPLED_OBJECTS):
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                continue  # counted, with its line, when the file is read
            if isinstance(value, dict):
                names.update(dict.fromkeys(value))
    return list(names)
