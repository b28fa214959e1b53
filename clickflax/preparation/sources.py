"""Known data sets: how the raw files of each become events, a catalog and sequence features."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping

import ibis
import pyarrow as pa
from ibis import _

from clickflax.preparation import readers, recbole
from clickflax.preparation.catalog import (
    TEXT,
    TEXTS,
    WHOLE,
    features,
    fields,
    read_attributes,
    read_items,
    read_names,
)
from clickflax.preparation.engines.base import Engine, Staged
from clickflax.preparation.index import as_tokens, kind_of
from clickflax.preparation.locate import Place, check_columns
from clickflax.preparation.options import Options

WITHIN = 1 << 30  # `_row` of an event within a line: (part * WITHIN + line) * WITHIN + position


@dataclasses.dataclass(frozen=True)
class Raw:
    """What a source hands over.

    The events have `_row` (the order of the file), sequence, item, time if there is one, further
    variables, and `_part` (0 train, 1 test) if there are two. Those of `several` values are lists
    of tokens. Catalog and sequence features have `token` first. `left_out` names columns that are
    not taken up.
    """

    staged: Staged
    numeric: tuple[str, ...] = ()
    catalog: pa.Table | None = None
    sequences: pa.Table | None = None
    left_out: tuple[str, ...] = ()
    several: tuple[str, ...] = ()


Read = Callable[[Engine, pathlib.Path, Options], Raw]


@dataclasses.dataclass(frozen=True)
class Source:
    """How a source is read, what `--raw` names, and the options that belong to it."""

    read: Read
    raw: str
    takes: tuple[str, ...] = ()


def read_ml_1m(engine: Engine, raw: pathlib.Path, options: Options) -> Raw:
    """MovieLens-1M as GroupLens hands it out, or as SASRec does, with maps to the original ids."""
    folder = raw if raw.is_dir() else raw.parent
    catalog = features(
        {"token": TEXT, "title": TEXT, "genres": TEXTS},
        (
            (movie, title, genres.split("|"))
            for movie, title, genres in fields(file(folder / "movies.dat"), "::", "latin-1")
        ),
    )
    users = None
    if (folder / "users.dat").is_file():
        users = features(
            {"token": TEXT, "gender": TEXT, "age": WHOLE, "occupation": WHOLE, "zip": TEXT},
            (
                (user, gender, int(age), int(occupation), zip)
                for user, gender, age, occupation, zip in fields(
                    folder / "users.dat", "::", "latin-1"
                )
            ),
        )
    ratings, sequences = folder / "ratings.dat", folder / "sequences.txt"
    if raw != sequences and (ratings.is_file() or not sequences.is_file()):
        names = ("sequence", "item", "rating", "time")
        return Raw(_text(engine, ratings, names, "::"), ("rating",), catalog, users)
    staged = _text(engine, sequences, ("sequence", "item"), " ")
    staged = _rename(engine, staged, "sequence", folder / "sas_to_original_users.txt")
    staged = _rename(engine, staged, "item", folder / "sas_to_original_items.txt")
    return Raw(staged, (), catalog, users)


def read_ml_100k(engine: Engine, raw: pathlib.Path, options: Options) -> Raw:
    """MovieLens-100K as GroupLens hands it out."""
    staged = _text(engine, raw / "u.data", ("sequence", "item", "rating", "time"), "\t")
    genres = [name for name, _number in fields(file(raw / "u.genre"), "|", "latin-1")]
    catalog = features(
        {"token": TEXT, "title": TEXT, "genres": TEXTS},
        (
            (row[0], row[1], [g for g, flag in zip(genres, row[5:], strict=True) if flag == "1"])
            for row in fields(file(raw / "u.item"), "|", "latin-1")
        ),
    )
    users = None
    if (raw / "u.user").is_file():
        users = features(
            {"token": TEXT, "age": WHOLE, "gender": TEXT, "occupation": TEXT, "zip": TEXT},
            (
                (user, int(age), *rest)
                for user, age, *rest in fields(raw / "u.user", "|", "latin-1")
            ),
        )
    return Raw(staged, ("rating",), catalog, users)


def read_pairs(engine: Engine, raw: pathlib.Path, options: Options) -> Raw:
    """Lines of `user item`, those of a user in order of time."""
    delimiter = options.delimiter or readers.find_delimiter(file(raw))
    return Raw(_text(engine, raw, ("sequence", "item"), delimiter))


def read_sequences(engine: Engine, raw: pathlib.Path, options: Options) -> Raw:
    """Lines of `user item item ...`, with or without JSON of item -> attributes."""
    lines = _words(engine.read_lines([file(raw)], "lines"))
    events = lines.select("_row", sequence=lines["words"][0], item=lines["words"][1:])
    catalog = None
    if options.attributes is not None:
        catalog = features(
            {"token": TEXT, "attributes": TEXTS}, read_attributes(file(options.attributes))
        )
    return Raw(_unroll(engine, events, (raw,)), (), catalog)


def read_sessions(engine: Engine, raw: pathlib.Path, options: Options) -> Raw:
    """Lines of one session each, in a train and a test file."""
    paths = (raw, options.test) if options.test else _train_and_test(raw)
    parts = []
    for part, (name, path) in enumerate(zip(("train", "test"), paths, strict=True)):
        lines = _words(engine.read_lines([file(path)], f"lines_{name}"))
        number = (_["_row"] + 1).cast("string")
        parts.append(
            lines.select(
                _row=_["_row"] + part * WITHIN,
                sequence=f"{name}/" + number,
                item=lines["words"],
                _part=ibis.literal(part, "int8"),
            )
        )
    return Raw(_unroll(engine, ibis.union(*parts), paths))


def read_recbole(engine: Engine, raw: pathlib.Path, options: Options) -> Raw:
    """RecBole's atomic files: X.inter, and X.item and X.user where they are."""
    inter = recbole.find(raw, ".inter")
    if inter is None:
        raise FileNotFoundError(f"{raw} has no file that ends in .inter.")
    types = recbole.types(inter)
    wanted = {column.name: column.source for column in options.columns} or recbole.columns(types)
    check_columns(inter, tuple(types), wanted)
    names = tuple(f"{name}:{type}" for name, type in types.items())
    full = {new: f"{old}:{types[old]}" for new, old in wanted.items()}
    kinds = {new: _kind(options, new, recbole.KINDS[types[old]]) for new, old in wanted.items()}
    staged = engine.read_text([inter], names, full, delimiter="\t", header=True)
    return Raw(
        _split(engine, staged, _of_kind(kinds, "several"), " "),
        _of_kind(kinds, "numeric"),
        recbole.read_features(recbole.find(raw, ".item"), wanted["item"]),
        recbole.read_features(recbole.find(raw, ".user"), wanted["sequence"]),
        tuple(name for name in types if name not in wanted.values()),
        _of_kind(kinds, "several"),
    )


def read_log(engine: Engine, raw: pathlib.Path, options: Options) -> Raw:
    """Any CSV, TSV, Parquet or JSON-lines file, or a folder of them, with `--columns`."""
    quote = "" if options.quote == "none" else options.quote
    log = readers.find_log(raw, options.delimiter, options.header, quote)
    if not options.columns:
        raise ValueError(
            "source log needs --columns sequence=COLUMN,item=COLUMN and so on; "
            f"{log.paths[0]} has the columns {list(log.names)}."
        )
    wanted = {column.name: column.source for column in options.columns}
    staged = readers.read_log(engine, log, wanted)
    kinds = {name: _kind(options, name, kind_of(staged.events[name].type())) for name in wanted}
    several = _of_kind(kinds, "several")
    catalog = None
    if options.items is not None:
        found = readers.find_log(options.items, options.delimiter, True, quote)
        catalog = read_items(engine, found, wanted["item"])
    return Raw(
        _split(engine, staged, several, options.separator, log.form == "jsonl"),
        _of_kind(kinds, "numeric"),
        catalog,
        None,
        tuple(sorted(set(log.names) - {*wanted.values()})),
        several,
    )


SOURCES: Mapping[str, Source] = {
    "ml-1m": Source(read_ml_1m, "folder with ratings.dat, or with sequences.txt and its id maps"),
    "ml-100k": Source(read_ml_100k, "folder with u.data, u.item, u.genre and u.user"),
    "pairs": Source(read_pairs, "file of `user item` lines", ("delimiter",)),
    "sequences": Source(read_sequences, "file of `user item item ...` lines", ("attributes",)),
    "sessions": Source(read_sessions, "folder with a train and a test file, or --test", ("test",)),
    "recbole": Source(read_recbole, "folder with .inter, .item and .user files", ("columns",)),
    "log": Source(
        read_log,
        "CSV, TSV, Parquet or JSON-lines file, or a folder of them",
        ("columns", "delimiter", "quote", "header", "separator", "items"),
    ),
}


def file(path: pathlib.Path) -> pathlib.Path:
    """The path of a file, if it is there."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the file in it.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there.")
    return path


def _text(engine: Engine, path: pathlib.Path, names: tuple[str, ...], delimiter: str) -> Staged:
    """Delimited text without a header, every column taken under its own name."""
    wanted = {name: name for name in names}
    return engine.read_text([file(path)], names, wanted, delimiter=delimiter)


def _rename(engine: Engine, staged: Staged, name: str, path: pathlib.Path) -> Staged:
    """The events with the tokens of `name` renamed by a file of `token new_token` lines."""
    names = features({"_old": TEXT, "_new": TEXT}, read_names(file(path)))
    known = ibis.memtable(names)
    lost = staged.events.anti_join(known, [(name, "_old")]).order_by("_row").limit(1)
    for row in engine.table(lost.select("_row", name)).to_pylist():
        where, line = staged.locate(row["_row"])
        raise ValueError(f"{where}, line {line}: {name} {row[name]!r} has no name in {path}.")
    table = engine.con.create_table(f"names_{name}", ibis.memtable(names))
    events = staged.events.left_join(table, [(name, "_old")]).drop("_old", name)
    events = events.rename({name: "_new"})
    return dataclasses.replace(staged, events=events)


def _words(lines: ibis.Table) -> ibis.Table:
    """Lines that are not empty, with their words."""
    lines = lines.filter(_["line"].strip() != "")
    return lines.mutate(words=_["line"].strip().re_split(r"\s+"))


def _unroll(engine: Engine, lines: ibis.Table, paths: tuple[pathlib.Path, ...]) -> Staged:
    """Lines with a list of items each as one event per item."""
    events = lines.unnest("item", offset="_position")
    rest = [name for name in lines.columns if name != "_row"]
    events = events.select(*rest, _row=_["_row"] * WITHIN + _["_position"])
    return Staged(engine.con.create_table("events", events), functools.partial(_locate, paths))


def _locate(paths: tuple[pathlib.Path, ...], row: int) -> Place:
    """The file and line of an event that was unrolled."""
    part, line = divmod(row // WITHIN, WITHIN)
    return str(paths[part]), line + 1


def _kind(options: Options, name: str, by_type: str) -> str:
    """The kind of a variable: as asked, otherwise as its type has it."""
    if name in ("sequence", "item", "time"):
        return "categorical"
    return options.kind(name) or by_type


def _of_kind(kinds: Mapping[str, str], kind: str) -> tuple[str, ...]:
    """The names of the variables of a kind."""
    return tuple(name for name, own in kinds.items() if own == kind)


def _split(
    engine: Engine, staged: Staged, several: tuple[str, ...], separator: str, json: bool = False
) -> Staged:
    """The events with lists of tokens in the columns of several values."""
    events = staged.events
    lists = {name: as_tokens(engine, events[name], separator, json) for name in several}
    return dataclasses.replace(staged, events=events.mutate(**lists))


def _train_and_test(raw: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The train and the test file of a folder."""
    if not raw.is_dir():
        raise ValueError(f"{raw} is no folder: name the test file too, with --test FILE.")
    found = []
    for name in ("train", "test"):
        files = sorted(path for path in raw.iterdir() if name in path.name and path.is_file())
        if len(files) != 1:
            names = [path.name for path in files]
            raise ValueError(
                f"{raw} has {len(files)} files with {name!r} in their name {names}, not one. "
                "Name them: --raw TRAIN --test TEST."
            )
        found.append(files[0])
    return found[0], found[1]
