"""`clickflax recommend`: the best next items for histories, of known users or of anybody.

from clickflax.inference import recommend

run = recommend.load("runs/quickstart")
recommend.top_k(run, [["Toy Story (1995)", "Antz (1998)"]], k=5)
"""

import argparse
import functools
import json
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import rich.console
import rich.table
from jaxtyping import Float, Int, Shaped

from clickflax.batch import NEXT_EVENT, RESERVED, UNK
from clickflax.config.check import check_given
from clickflax.config.default import override
from clickflax.data.batches import Windows
from clickflax.data.store import Dataset, Vocabulary
from clickflax.data.variables import missing_column, read_columns
from clickflax.inference.predictor import Predictor, make_predictor
from clickflax.run.folder import (
    Run,
    encode_condition,
    load_run,
    open_data,
    parse_condition,
    read_config,
)
from clickflax.run.sharded_tables import make_run_mesh, place_on_mesh
from clickflax.run.targets import hidden_after, mask_columns
from clickflax.runtime import sharding
from clickflax.tasks.ranks import top_k_items

load = load_run


class Recommendation(NamedTuple):
    """An item, by its token and, where the catalog has them, its title."""

    item: str
    title: str | None
    score: float


# The columns of a file of lists.
RECOMMENDATION_SCHEMA = pa.schema(
    {
        "user": pa.string(),
        "rank": pa.int32(),
        "item": pa.string(),
        "title": pa.string(),
        "score": pa.float32(),
    }
)


class TopItems(NamedTuple):
    """The best items of some histories, ids from best to worst; -1 where there are no more."""

    example: Int[np.ndarray, " N"]
    item: Int[np.ndarray, "N K"]
    score: Float[np.ndarray, "N K"]


@functools.lru_cache(maxsize=2)
def params_on_devices(run: Run) -> Any:
    """The parameters of a run on the devices, once for all that it is asked."""
    return place_on_mesh(run.params, make_run_mesh(run.config))


@functools.lru_cache(maxsize=8)
def compile_top_k(run: Run, k: int, given: tuple[str, ...]) -> tuple[Predictor, Callable[..., Any]]:
    """What answers for a run, kept so that a second question does not compile again."""
    config = override(run.config, [f"config.eval.given={given}"])
    mesh = make_run_mesh(config)
    check_given(config)
    name = item_task(run)
    told = encode_condition(config, name, run.tasks[name], run.variables, run.vocabularies)
    asker = make_predictor(config, run.model, run.tasks[name], mesh, run.given, told)
    finish = functools.partial(top_k_items, k=k, top_k=sharding.find_top_k(mesh))
    return asker, asker.compile(finish)


def item_task(run: Run) -> str:
    """The task of a run whose answers are items."""
    for name, task in run.tasks.items():
        if task.head == "item":
            return name
    raise ValueError(f"{run.folder} answers {list(run.tasks)}, which are no items to recommend.")


def check_k(run: Run, k: int) -> None:
    """Refuses lists that are longer than the catalog."""
    items = run.items.size - RESERVED
    if not 1 <= k <= items:
        raise ValueError(f"k={k} must lie between 1 and the {items} items of the catalog.")


def recommend_batches(
    run: Run,
    columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
    history: Windows,
    k: int,
    filter_seen: bool,
    given: tuple[str, ...],
) -> Iterator[TopItems]:
    """The best `k` items after each history, a batch of histories at a time."""
    check_k(run, k)
    asker, answer = compile_top_k(run, k, given)
    for example, (score, item) in asker.ask(
        params_on_devices(run), answer, columns, history, filter_seen
    ):
        there = example >= 0
        item = np.where(np.isneginf(score), -1, item + RESERVED)
        yield TopItems(example[there], item[there], score[there])


def find_items(run: Run, names: Sequence[str]) -> Int[np.ndarray, " N"]:
    """Ids of tokens or titles, the unknown ones left out with a warning that names them.

    Raises ValueError when none is known.
    """
    if isinstance(names, str):
        raise ValueError(f"A history is a list of items, not the text {names!r}.")
    names = [str(name) for name in names]
    ids = run.items.ids(names)
    by_title = titles_to_ids(run.items)
    ids = np.array(
        [by_title.get(n, UNK) if i == UNK else i for n, i in zip(names, ids, strict=True)]
    )
    unknown = [name for name, id in zip(names, ids, strict=True) if id == UNK]
    known = ids[ids != UNK].astype(np.int32)
    if not len(known):
        raise ValueError(f"This history has no item that the run knows: {list(names)}.")
    if unknown:
        warnings.warn(f"unknown items are left out: {', '.join(unknown)}", stacklevel=3)
    return known


@functools.lru_cache(maxsize=8)
def titles_to_ids(items: Vocabulary) -> dict[str, int]:
    """The first item of every title."""
    titles = items.column("title") or []
    return {titles[i]: i + RESERVED for i in reversed(range(len(titles)))}


@functools.lru_cache(maxsize=8)
def titles_of(items: Vocabulary) -> list[str | None]:
    """The title of every item, None for each where the catalog has no titles."""
    return items.column("title") or [None] * (items.size - RESERVED)


def top_k(
    run: Run,
    histories: Sequence[Sequence[str]],
    k: int = 10,
    filter_seen: bool | None = None,
    given: Sequence[str] | None = None,
) -> list[list[Recommendation]]:
    """The best `k` next items for each history of tokens or titles, oldest first.

    The users need not be known. Items of the history are left out as `config.eval.filter_seen`
    says, unless `filter_seen` does; of the next event is told what `given`, such as
    `["action=buy"]`, or else `config.eval.given` says. Variables other than the item are missing.
    """
    item_task(run)
    if not histories:
        return []
    others = sorted(
        name for name in set(run.variables) - {"item"} if not name.startswith(NEXT_EVENT)
    )
    if others:
        warnings.warn(f"the histories have no {', '.join(others)}: taken as missing", stacklevel=2)
    found = [find_items(run, history) for history in histories]
    bounds = np.concatenate([[0], np.cumsum([len(ids) for ids in found])])
    columns = {
        name: missing_column(variable, int(bounds[-1])) for name, variable in run.variables.items()
    }
    columns = mask_columns(
        columns, frozenset(name for name in columns if name.startswith(NEXT_EVENT))
    )
    columns["item"] = np.concatenate(found)
    filter_seen = bool(run.config.eval.filter_seen if filter_seen is None else filter_seen)
    given = tuple(run.config.eval.given if given is None else given)
    answers: list[list[Recommendation]] = [[] for _ in histories]
    windows = Windows(bounds[:-1], bounds[1:])
    for lists in recommend_batches(run, columns, windows, k, filter_seen, given):
        for example, items, scores in zip(*lists, strict=True):
            answers[example] = [
                Recommendation(
                    run.items.token(int(i)), titles_of(run.items)[i - RESERVED], float(s)
                )
                for i, s in zip(items, scores, strict=True)
                if i >= 0
            ]
    return answers


def write_recommendations(
    run: Run,
    users: Sequence[str] | None,
    data: str | None,
    out: pathlib.Path,
    k: int,
    filter_seen: bool,
    given: tuple[str, ...],
) -> int:
    """Recommends for users of the data set (None: all of them) into a Parquet file of
    user, rank (1 is best), item, title, score; returns how many users.
    """
    dataset = open_data(run, data)
    keys = user_keys(dataset)
    chosen = np.arange(len(keys))
    if users is not None:
        users = list(dict.fromkeys(users))
        options = pc.SetLookupOptions(value_set=keys)
        place_on_mesh = pc.call_function("index_in", [pa.array(users, pa.string())], options)
        if place_on_mesh.null_count:
            missing = [
                user for user, i in zip(users, place_on_mesh.to_pylist(), strict=True) if i is None
            ]
            raise ValueError(
                f"{len(missing):,} of {len(users):,} users are not in {dataset.path}: "
                f"{', '.join(missing[:5])}. For people it does not know, use --history."
            )
        chosen = place_on_mesh.to_numpy().astype(np.int64)
    history = dataset.position_ranges(Windows(dataset.offsets[chosen], dataset.offsets[chosen + 1]))
    task = item_task(run)
    columns = read_columns(dataset, run.variables)
    columns = mask_columns(columns, hidden_after(run.config, task, run.tasks[task]))
    check_k(run, k)
    out.parent.mkdir(parents=True, exist_ok=True)
    tokens, titles = (
        pa.array(names, pa.string()) for names in (run.items.tokens(), titles_of(run.items))
    )
    partial = out.with_name(f".{out.name}.tmp")
    with pq.ParquetWriter(partial, RECOMMENDATION_SCHEMA) as writer:
        for lists in recommend_batches(run, columns, history, k, filter_seen, given):
            row, place_on_mesh = np.nonzero(lists.item >= 0)
            item = lists.item[row, place_on_mesh] - RESERVED
            writer.write_table(
                pa.table(
                    {
                        "user": keys.take(chosen[lists.example[row]]),
                        "rank": (place_on_mesh + 1).astype(np.int32),
                        "item": tokens.take(item),
                        "title": titles.take(item),
                        "score": lists.score[row, place_on_mesh],
                    },
                    schema=RECOMMENDATION_SCHEMA,
                )
            )
    partial.replace(out)
    return len(chosen)


def user_keys(dataset: Dataset) -> pa.Array:
    """The keys of all sequences, as Arrow: a million of them are no million Python objects."""
    path = dataset.path / "vocab" / "sequence.parquet"
    return pq.read_table(path, columns=["token"])["token"].combine_chunks()


def print_recommendations(answers: list[Recommendation]) -> None:
    """A table, and as the last line the same as JSON."""
    lines = rich.table.Table()
    for name in ("", "item", "title", "score"):
        lines.add_column(name, justify="right" if name in ("", "score") else "left")
    for rank, (item, title, score) in enumerate(answers, 1):
        lines.add_row(str(rank), item, title or "", f"{score:.3f}")
    rich.console.Console().print(lines)
    print(json.dumps([answer._asdict() for answer in answers]))


def read_users(path: str) -> list[str] | None:
    """One user a line; None, which is everybody, for `all`."""
    if path == "all":
        return None
    users = [line for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() if line]
    if not users:
        raise ValueError(f"{path} names no user.")
    return users


def main(argv: list[str]) -> None:
    """`clickflax recommend --run DIR --history "A|B"`, or `--users FILE --out FILE.parquet`."""
    parser = argparse.ArgumentParser(
        prog="clickflax recommend", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--run", required=True, help="the folder of a run")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--history", help="items or titles, oldest first, separated by |")
    who.add_argument("--users", help="a file with a user a line, or `all`; needs --out")
    parser.add_argument("--out", help="the Parquet file to write: user, rank, item, title, score")
    parser.add_argument("--data", help="another prepared data set with the same catalog")
    parser.add_argument("--k", type=int, default=10, help="items for each history (10)")
    parser.add_argument(
        "--filter-seen", action=argparse.BooleanOptionalAction, help="default: config.eval"
    )
    parser.add_argument("--given", help="what is told of the next event, such as action=buy")
    flags = parser.parse_args(argv)
    if (flags.users is None) != (flags.out is None):
        parser.error("--users and --out go together")
    if flags.history is not None and flags.data is not None:
        parser.error(f"--data={flags.data} has users; a --history is told, and needs none")
    sharding.use_devices(read_config(flags.run).train.cpu_devices)
    run = load(flags.run)
    told = parse_condition(flags.given)
    given = tuple(run.config.eval.given) if told is None else told
    if flags.history is not None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = [name.strip() for name in flags.history.split("|")]
            answers = top_k(run, [history], flags.k, flags.filter_seen, given)
        for warning in caught:
            print(f"clickflax recommend: warning: {warning.message}", file=sys.stderr)
        print_recommendations(answers[0])
        return
    filter_seen = run.config.eval.filter_seen if flags.filter_seen is None else flags.filter_seen
    users = read_users(flags.users)
    out = pathlib.Path(flags.out)
    count = write_recommendations(run, users, flags.data, out, flags.k, filter_seen, given)
    print(json.dumps({"users": count, "k": flags.k, "out": flags.out}))
