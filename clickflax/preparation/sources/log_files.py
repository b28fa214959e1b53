"""The files of a log: their paths, format and columns.

Text is read as text: a token stays as it is written ("007"), and a value that does not parse is
reported later, with its file and line.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping

from clickflax.preparation.engines.base import Engine, Staged
from clickflax.preparation.locate import check_columns
from clickflax.preparation.options import Options
from clickflax.preparation.parquet_files import check_types, names_of_all
from clickflax.preparation.text_files import (
    check_text,
    find_delimiter,
    first_record,
    is_compressed,
)

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
PACKED = (".gz", ".zst", ".zip", ".bz2", ".xz", ".7z", ".rar", ".lz4", ".tar", ".tgz", ".z")


@dataclasses.dataclass(frozen=True)
class LogFiles:
    """The files of a log in the order of their names, their format, and their columns.

    A column of text without a name is called "". `lines` names the table of the lines of JSON in
    the engine.
    """

    paths: tuple[pathlib.Path, ...]
    format: str  # parquet, jsonl, or the delimiter of text
    names: tuple[str, ...]
    header: bool = False
    quote: str = ""
    lines: str = ""

    def __str__(self) -> str:
        """How the files are read, for the report."""
        files = "1 file" if len(self.paths) == 1 else f"{len(self.paths):,} files"
        if self.format in ("parquet", "jsonl"):
            return f"{files} of {'Parquet' if self.format == 'parquet' else 'JSON lines'}"
        header = "with a header" if self.header else "without a header"
        return f"{files} of text {header}, its fields separated by {self.format!r}"


def find_log_files(
    engine: Engine, path: pathlib.Path, options: Options, header: bool, table: str = "events"
) -> LogFiles:
    """Returns a CSV, TSV, Parquet or JSON-lines file, or the files of a folder of one format."""
    paths = _list_files(path)
    format = _format_of(paths[0])
    if format in ("parquet", "jsonl"):
        if options.delimiter is not None or not header or options.quote != Options.quote:
            raise ValueError(
                f"--delimiter, --no-header and --quote apply to text, not to {paths[0]}."
            )
        if format == "parquet":
            return LogFiles(paths, format, names_of_all(paths))
        check_text(paths)
        lines = f"{table}_lines"
        engine.read_lines(paths, lines)
        return LogFiles(paths, format, tuple(engine.json_keys(lines)), lines=lines)
    check_text(paths)
    quote = "" if options.quote == "none" else options.quote
    delimiter = options.delimiter or ("\t" if format == "tsv" else find_delimiter(paths[0], quote))
    names = first_record(paths[0], delimiter, quote)
    if header:
        _check_header(paths[0], names)
        _check_same_header(paths, names, delimiter, quote)
    else:
        names = tuple(str(number) for number in range(1, len(names) + 1))
    return LogFiles(paths, delimiter, names, header, quote)


def stage_log(
    engine: Engine,
    log: LogFiles,
    wanted: Mapping[str, str],
    table: str = "events",
    lists: Iterable[str] = (),
) -> Staged:
    """Reads columns of a log, {new name: name}, into the engine.

    Values of JSON may be arrays in the columns `lists`; in others, they make a row malformed.
    """
    if log.names or log.format != "jsonl":  # lines without any object are reported as malformed
        check_columns(log.paths[0], [name for name in log.names if name], wanted)
    if log.format == "parquet":
        check_types(log.paths, wanted)
        return engine.read_parquet(log.paths, wanted, table)
    if log.format == "jsonl":
        return engine.parse_json_lines(log.lines, log.paths, wanted, tuple(lists), table)
    return engine.read_text(
        log.paths,
        log.names,
        wanted,
        delimiter=log.format,
        header=log.header,
        quote=log.quote,
        table=table,
    )


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
    """Returns the format of a file, by its name in any case.

    Raises ValueError for another name, and for a file that must be unpacked first.
    """
    suffix = path.suffix.lower()
    if suffix in PACKED:
        inner = path.with_suffix("").suffix.lower()
        is_text = FORMAT_OF_SUFFIX.get(inner, "parquet") != "parquet"
        if not is_compressed(path) or not is_text:
            raise ValueError(
                f"{path} is packed: unpack it. Text may end in .gz or .zst, in lower case, after "
                "the suffix of its format, such as events.csv.gz."
            )
        suffix = inner
    if suffix not in FORMAT_OF_SUFFIX:
        raise ValueError(
            f"{path} ends in {suffix!r}; a log ends in one of {sorted(FORMAT_OF_SUFFIX)}."
        )
    return FORMAT_OF_SUFFIX[suffix]


def _check_header(path: pathlib.Path, names: tuple[str, ...]) -> None:
    """Raises ValueError if two columns have one name. Columns without a name are not read."""
    for name in names:
        if name and names.count(name) > 1:
            raise ValueError(f"{path}, line 1: {name!r} appears twice in the header. Rename one.")


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
