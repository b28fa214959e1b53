"""`clickflax recommend`: the top-k next items of histories, of known users or of anybody.

import clickflax

run = clickflax.load("runs/quickstart")
clickflax.top_k(run, [["Toy Story (1995)", "Antz (1998)"]], k=5)
"""

import argparse
import functools
import json
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import rich.table
from jaxtyping import Float, Int, Shaped

from clickflax.batch import NEXT_EVENT, RESERVED, UNK
from clickflax.config.check import check_conditions
from clickflax.config.default import override
from clickflax.data.batches import Windows
from clickflax.data.store import Dataset
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
from clickflax.run.targets import hidden_conditions, mask_columns
from clickflax.runtime import sharding
from clickflax.runtime.files import atomic, local, read_parquet, text_lines
from clickflax.runtime.redact import without_secrets
from clickflax.runtime.terminal import Console, say
from clickflax.tasks.ranks import top_k_items
from clickflax.tasks.task import Task

load = load_run  # `from clickflax import recommend; recommend.load(DIR)` of 0.1.0


class Recommendation(NamedTuple):
    """An item, by its token and, where the catalog has them, its title."""

    item: str
    title: str | None
    score: float


# Columns of the Parquet file of recommendations; rank 1 is best.
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
    """The top items of some histories, ids from best to worst; -1 where there are no more."""

    example: Int[np.ndarray, " N"]
    item: Int[np.ndarray, "N K"]
    score: Float[np.ndarray, "N K"]


class Recommender:
    """Recommendations of a run: its parameters on the devices, its programs and titles."""

    def __init__(self, run: Run):
        self.run = run
        self.task = item_task(run)
        self.mesh = make_run_mesh(run.config)
        self.params = place_on_mesh(run.params, self.mesh)
        self.titles = run.items.titles()
        # The first item of every title.
        self.ids: dict[str, int] = {}
        for i, title in enumerate(self.titles):
            if title is not None:
                self.ids.setdefault(title, i + RESERVED)
        self._programs: dict[Any, tuple[Predictor, Callable[..., Any]]] = {}

    def _program(self, k: int, given: tuple[str, ...]) -> tuple[Predictor, Callable[..., Any]]:
        """The predictor and the compiled program of `k` items under these conditions."""
        if (k, given) not in self._programs:
            run = self.run
            config = override(run.config, [f"config.eval.given={given}"])
            check_conditions(config, run.tasks)
            conditions = encode_condition(config, self.task, run.variables, run.vocabularies)
            predictor = make_predictor(
                config, run.model, self.task, self.mesh, run.constants, conditions
            )
            top_k = sharding.find_top_k(self.mesh)
            finish = functools.partial(top_k_items, k=k, top_k=top_k)
            self._programs[k, given] = (predictor, predictor.compile(finish))
        return self._programs[k, given]

    def batches(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
        history: Windows,
        k: int,
        filter_seen: bool,
        given: tuple[str, ...],
    ) -> Iterator[TopItems]:
        """The top `k` items after each history, a batch of histories at a time."""
        check_k(self.run, k)
        predictor, compiled = self._program(k, given)
        for example, (score, item) in predictor.predict(
            self.params, compiled, columns, history, filter_seen
        ):
            there = example >= 0
            item = np.where(np.isneginf(score), -1, item + RESERVED)
            yield TopItems(example[there], item[there], score[there])

    def find_items(self, names: Any) -> tuple[Int[np.ndarray, " N"], list[str]]:
        """The ids of the known tokens or titles of a history, and the unknown ones."""
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise ValueError(f"A history must be a list of items, not {names!r}.")
        names = [str(name) for name in names]
        ids = [
            self.ids.get(name, UNK) if id == UNK else int(id)
            for name, id in zip(names, self.run.items.ids(names), strict=True)
        ]
        unknown = [name for name, id in zip(names, ids, strict=True) if id == UNK]
        return np.array([id for id in ids if id != UNK], np.int32), unknown

    def find_histories(self, histories: Iterable[Any]) -> list[Int[np.ndarray, " N"]]:
        """The ids of the known items of each history; warns of unknown items and empty histories.

        Raises ValueError for what is not a list of lists, and if no history has a known item.
        """
        if isinstance(histories, Mapping):
            raise ValueError(
                "The histories are a dict: pass list(histories.values()); the lists come in that "
                "order."
            )
        pairs = []
        for index, history in enumerate(histories):
            try:
                pairs.append(self.find_items(history))
            except ValueError as error:
                raise ValueError(f"history {index}: {error}") from None
        ids = [known for known, _ in pairs]
        unknown = list(dict.fromkeys(name for _, names in pairs for name in names))
        empty = [index for index, known in enumerate(ids) if not len(known)]
        if ids and len(empty) == len(ids):
            raise ValueError(f"The run knows no item of this history: {unknown[:20]}.")
        if unknown:
            names = ", ".join(unknown[:20]) + (" ..." if len(unknown) > 20 else "")
            warnings.warn(f"{len(unknown)} unknown items are left out: {names}", stacklevel=3)
        if empty:
            indices = ", ".join(map(str, empty[:20])) + (" ..." if len(empty) > 20 else "")
            warnings.warn(
                f"{len(empty)} of {len(ids)} histories have no known item, and get empty lists: "
                f"those at {indices}",
                stacklevel=3,
            )
        return ids

    def named(self, item: int, score: float) -> Recommendation:
        """A recommendation of an id."""
        return Recommendation(self.run.items.token(item), self.titles[item - RESERVED], score)


def recommender_of(run: Run) -> Recommender:
    """The recommender of a run, kept with it so that a second call does not compile again."""
    if "recommender" not in run.cache:
        run.cache["recommender"] = Recommender(run)
    return run.cache["recommender"]


def item_task(run: Run) -> Task:
    """The task of a run that ranks items. Raises ValueError if it has none."""
    for task in run.tasks.values():
        if task.head == "item":
            return task
    raise ValueError(
        f"{run.folder} was trained on {list(run.tasks)}, which do not rank items: there is nothing "
        "to recommend."
    )


def check_k(run: Run, k: int) -> None:
    """Raises ValueError for lists that are longer than the catalog."""
    items = run.items.size - RESERVED
    if not 1 <= k <= items:
        raise ValueError(f"k={k} must be from 1 to {items}, the number of items of the catalog.")


def top_k(
    run: Run,
    histories: Iterable[Any],
    k: int = 10,
    filter_seen: bool | None = None,
    given: Sequence[str] | None = None,
) -> list[list[Recommendation]]:
    """The top `k` next items for each history of tokens or titles, oldest first.

    Histories are lists, tuples, arrays, Series or generators of these. One without a known item
    gets an empty list, with a warning. The users need not be known. `filter_seen` leaves items of
    the history out, by default as `config.eval.filter_seen` says. `given` conditions on the next
    event, such as ["action=buy"], by default as `config.eval.given` says. Variables other than the
    item are missing.
    """
    recommender = recommender_of(run)
    ids = recommender.find_histories(histories)
    lists: list[list[Recommendation]] = [[] for _ in ids]
    answered = [index for index, known in enumerate(ids) if len(known)]
    if not answered:
        return lists
    others = sorted(set(run.variables) - {"item"})
    others = [name for name in others if not name.startswith(NEXT_EVENT)]
    if others:
        warnings.warn(f"the histories have no {', '.join(others)}: taken as missing", stacklevel=2)
    bounds = np.concatenate([[0], np.cumsum([len(ids[index]) for index in answered])])
    events = int(bounds[-1])
    columns = {name: missing_column(variable, events) for name, variable in run.variables.items()}
    hidden = frozenset(name for name in columns if name.startswith(NEXT_EVENT))
    columns = mask_columns(columns, hidden) | {"item": np.concatenate(ids)}
    filter_seen = bool(run.config.eval.filter_seen if filter_seen is None else filter_seen)
    given = tuple(run.config.eval.given if given is None else given)
    windows = Windows(bounds[:-1], bounds[1:])
    for batch in recommender.batches(columns, windows, k, filter_seen, given):
        for example, items, scores in zip(*batch, strict=True):
            lists[answered[example]] = [
                recommender.named(int(item), float(score))
                for item, score in zip(items, scores, strict=True)
                if item >= 0
            ]
    return lists


def write_recommendations(
    run: Run,
    users: Sequence[str] | None,
    data: str | None,
    out: pathlib.Path,
    k: int,
    filter_seen: bool,
    given: tuple[str, ...],
) -> int:
    """Writes the top `k` items of users of the data set (None: all) to a Parquet file of
    RECOMMENDATION_SCHEMA; returns the number of users.
    """
    recommender = recommender_of(run)
    dataset = open_data(run, data)
    keys = user_keys(dataset)
    chosen = find_users(users, keys, dataset)
    history = dataset.position_ranges(Windows(dataset.offsets[chosen], dataset.offsets[chosen + 1]))
    columns = read_columns(dataset, run.variables)
    columns = mask_columns(columns, hidden_conditions(run.config, recommender.task))
    check_k(run, k)
    tokens = pa.array(run.items.tokens(), pa.string())
    titles = pa.array(recommender.titles, pa.string())
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as partial, pq.ParquetWriter(local(partial), RECOMMENDATION_SCHEMA) as writer:
        for batch in recommender.batches(columns, history, k, filter_seen, given):
            row, rank = np.nonzero(batch.item >= 0)
            item = batch.item[row, rank] - RESERVED
            rows = {
                "user": keys.take(chosen[batch.example[row]]),
                "rank": (rank + 1).astype(np.int32),
                "item": tokens.take(item),
                "title": titles.take(item),
                "score": batch.score[row, rank],
            }
            writer.write_table(pa.table(rows, schema=RECOMMENDATION_SCHEMA))
    return len(chosen)


def find_users(
    users: Sequence[str] | None, keys: pa.Array, dataset: Dataset
) -> Int[np.ndarray, " N"]:
    """The numbers of users among the keys of a data set; None: of all of them."""
    if users is None:
        return np.arange(len(keys))
    users = list(dict.fromkeys(users))
    options = pc.SetLookupOptions(value_set=keys)
    numbers = pc.call_function("index_in", [pa.array(users, pa.string())], options)
    if numbers.null_count:
        missing = [user for user, i in zip(users, numbers.to_pylist(), strict=True) if i is None]
        raise ValueError(
            f"{len(missing):,} of {len(users):,} users are not in {dataset.path}: "
            f"{', '.join(missing[:5])}. For people it does not know, use --history."
        )
    return numbers.to_numpy().astype(np.int64)


def user_keys(dataset: Dataset) -> pa.Array:
    """The keys of all sequences, as Arrow: a million Python objects would be slow."""
    path = dataset.path / "vocab" / "sequence.parquet"
    return read_parquet(path, {"token": "text"})["token"].cast(pa.string()).combine_chunks()


def print_recommendations(items: list[Recommendation]) -> None:
    """Prints a table, and as the last line the same as JSON."""
    table = rich.table.Table()
    for name in ("", "item", "title", "score"):
        table.add_column(name, justify="right" if name in ("", "score") else "left")
    for rank, (item, title, score) in enumerate(items, 1):
        table.add_row(str(rank), item, title or "", f"{score:.3f}")
    Console().print(table)
    print(json.dumps([item._asdict() for item in items]))


def read_users(path: str) -> list[str] | None:
    """The users of a file with one per line; None, which means all users, for `all`."""
    if path == "all":
        return None
    lines = (line.rstrip("\r\n") for _, line in text_lines(path))
    users = [line for line in lines if line]
    if not users:
        raise ValueError(f"{path} has no users: write one per line.")
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
        "--filter-seen",
        action=argparse.BooleanOptionalAction,
        help="leave items of the history out; default: config.eval",
    )
    parser.add_argument("--given", help="condition on the next event, such as action=buy")
    flags = parser.parse_args(argv)
    if (flags.users is None) != (flags.out is None):
        parser.error("--users and --out go together")
    if flags.history is not None and flags.data is not None:
        parser.error(
            f"--data={without_secrets(flags.data)} is for --users; a --history needs no data set"
        )
    sharding.use_devices(read_config(flags.run).train.cpu_devices)
    run = load_run(flags.run)
    given = parse_condition(flags.given)
    given = tuple(run.config.eval.given) if given is None else given
    if flags.history is not None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = [name.strip() for name in flags.history.split("|")]
            lists = top_k(run, [history], flags.k, flags.filter_seen, given)
        for warning in caught:
            say(f"clickflax recommend: warning: {warning.message}", error=True)
        print_recommendations(lists[0])
        return
    filter_seen = run.config.eval.filter_seen if flags.filter_seen is None else flags.filter_seen
    users = read_users(flags.users)
    out = pathlib.Path(flags.out)
    count = write_recommendations(run, users, flags.data, out, flags.k, filter_seen, given)
    print(json.dumps({"users": count, "k": flags.k, "out": flags.out}))
