"""Which files a log is, in which form, and which columns they have.

Text is read as text: a token stays as it is written ("007"), and a value that does not parse is
found later, with its file and line.
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


@dataclasses.dataclass(frozen=True)
class Log:
    """The files of a log in the order of their names, their form, and the columns they have."""

    paths: tuple[pathlib.Path, ...]
    form: str  # parquet, jsonl, or the delimiter of text
    names: tuple[str, ...]
    header: bool = False
    quote: str = ""


def find_log(path: pathlib.Path, delimiter: str | None, header: bool, quote: str) -> Log:
    """A CSV, TSV, Parquet or JSON-lines file, or a folder of files of one such form."""
    paths = log_files(path)
    form = _form(paths[0])
    if form in ("parquet", "jsonl") and (delimiter is not None or not header or quote != '"'):
        raise ValueError(f"--delimiter, --no-header and --quote are for text, not for {paths[0]}.")
    if form == "parquet":
        return Log(paths, form, tuple(pq.read_schema(paths[0]).names))
    if form == "jsonl":
        return Log(paths, form, _json_names(paths[0]))
    delimiter = delimiter or ("\t" if form == "tsv" else find_delimiter(paths[0]))
    names = first_fields(paths[0], delimiter, quote)
    for path in paths[1:] if header else ():
        other = first_fields(path, delimiter, quote)
        if other != names:
            raise ValueError(
                f"{path} begins with {list(other)}, {paths[0]} with {list(names)}: the files of a "
                "folder must have the same header."
            )
    if not header:
        names = tuple(str(number) for number in range(1, len(names) + 1))
    return Log(paths, delimiter, names, header, quote)


def read_log(engine: Engine, log: Log, wanted: Mapping[str, str], table: str = "events") -> Staged:
    """Reads the wanted columns, {new name: name}, of a log."""
    check_columns(log.paths[0], log.names, wanted)
    if log.form == "parquet":
        return engine.read_parquet(log.paths, wanted, table)
    if log.form == "jsonl":
        return engine.read_json_lines(log.paths, wanted, table)
    return engine.read_text(
        log.paths,
        log.names,
        wanted,
        delimiter=log.form,
        header=log.header,
        quote=log.quote,
        table=table,
    )


def log_files(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The files of a log in the order of their names; all of one form."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there.")
    paths = [path]
    if path.is_dir():
        entries = sorted(p for p in path.iterdir() if p.name[0] not in "._")
        paths = [p for p in entries if not p.is_dir()]
        folders = [p.name for p in entries if p.is_dir()]
        if folders:
            raise ValueError(f"{path} has the subfolders {folders}: name one folder of files.")
        if not paths:
            raise ValueError(f"{path} is an empty folder.")
    forms = {_form(p): p.name for p in paths}
    if len(forms) > 1:
        raise ValueError(f"{path} mixes forms: {sorted(forms.values())}. Name one file or form.")
    return tuple(paths)


FORMS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}


def _form(path: pathlib.Path) -> str:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix not in FORMS:
        raise ValueError(f"{path} ends in {suffix!r}; a log ends in one of {sorted(FORMS)}.")
    return FORMS[suffix]


def first_fields(path: pathlib.Path, delimiter: str, quote: str) -> tuple[str, ...]:
    """The fields of the first line of a text file."""
    for line, record in records(path, delimiter, quote):
        if line > 1:
            raise ValueError(f"{path}: line 1 is blank. Take it out.")
        return tuple(record)
    raise ValueError(f"{path} is empty.")


def find_delimiter(path: pathlib.Path) -> str:
    """The delimiter that splits the first line into most fields."""
    with open_text(path) as file:
        line = file.readline()
    if not line.strip():
        raise ValueError(f"{path}: line 1 is blank. Take it out." if line else f"{path} is empty.")
    return max(DELIMITERS, key=line.count)


def _json_names(path: pathlib.Path) -> tuple[str, ...]:
    """The keys of the first thousand objects."""
    names: dict[str, None] = {}
    with open_text(path) as file:
        for line in itertools.islice(file, 1000):
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                continue  # counted, with its line, when the file is read
            if isinstance(found, dict):
                names.update(dict.fromkeys(found))
    return tuple(names)
