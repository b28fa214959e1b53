"""The lists that a task answers the questions of a part with, and what they are like."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Array, Float, Int, Shaped

from clickflax.batch import RESERVED
from clickflax.data.splits.common import Examples, events_inside
from clickflax.data.store import Dataset, Vocabulary
from clickflax.evaluation.evaluator import Evaluator
from clickflax.evaluation.record import protocol
from clickflax.inference.predictor import Predictor
from clickflax.model.heads import Answers
from clickflax.run.targets import TaskData
from clickflax.runtime import sharding
from clickflax.runtime.files import read_json
from clickflax.tasks.list_metrics import beyond_hits, feature_table, training_counts
from clickflax.tasks.ranks import TopK, top_k_items

Columns = Mapping[str, Shaped[np.ndarray, "E ..."]]


def targets_of(part: Examples) -> Int[np.ndarray, "Q T"]:
    """The targets of every question, 0 ... V-1 and -1 for none."""
    most = max(1, int(np.bincount(part.owner).max()))
    found = np.full((len(part), most), -1)
    first = np.searchsorted(part.owner, np.arange(len(part)))
    found[part.owner, np.arange(len(part.owner)) - first[part.owner]] = part.targets - RESERVED
    return found


def top_k_with_targets(
    answers: Answers,
    seen: Int[Array, "N 2"],
    chunk: int,
    targets: Int[Array, "A T"],
    k: int,
    top_k: TopK,
) -> tuple[Float[Array, "A K"], Int[Array, "A K"]]:
    """As `top_k_items`, but that targets are never left out."""
    wanted = (targets[seen[:, 0]] == seen[:, 1:]).any(1)
    return top_k_items(answers, jnp.where(wanted[:, None], -1, seen), chunk, k, top_k)


def top_k_lists(
    asker: Predictor, params: Any, columns: Columns, part: Examples, k: int, filter_seen: bool
) -> tuple[Int[np.ndarray, "Q K"], Float[np.ndarray, "Q K"]]:
    """The best `k` items after every history, 0 ... V-1 and -1 for none, and their scores; a target
    is not filtered, as places have it.
    """
    items = np.full((len(part), k), -1, np.int32)
    scores = np.full((len(part), k), -np.inf, np.float32)
    top_k = sharding.find_top_k(asker.mesh)
    compiled = asker.compile(functools.partial(top_k_with_targets, k=k, top_k=top_k))
    wanted = targets_of(part)
    asked = asker.ask(
        params,
        compiled,
        columns,
        part.history,
        filter_seen,
        lambda example: np.where(example[..., None] >= 0, wanted[example], -1),
    )
    for example, (score, item) in asked:
        there = example >= 0
        items[example[there]] = np.where(np.isneginf(score), -1, item)[there]
        scores[example[there]] = score[there]
    return items, scores


def list_metrics_of(
    lists: Int[np.ndarray, "Q K"],
    asked: TaskData,
    part: Examples,
    dataset: Dataset,
    columns: Columns,
    cutoffs: Sequence[int],
    features: Sequence[str] = (),
    reference: Int[np.ndarray, "Q K"] | None = None,
) -> dict[str, float]:
    """The metrics of `tasks.lists`; diversity by these features of the catalog."""
    item = columns["item"]
    train = np.flatnonzero(events_inside(asked.train, len(item)) & (item >= RESERVED))
    sequence = np.searchsorted(dataset.sequence_starts, train, side="right")
    trained = training_counts(item[train] - RESERVED, sequence, dataset.size("item") - RESERVED)
    wanted = targets_of(part)
    relevant = np.zeros(lists.shape, bool)
    for targets in wanted.T:  # one at a time: nothing has the shape [Q, K, T]
        relevant |= (lists == targets[:, None]) & (lists >= 0)
    table = feature_table(features_of(dataset.vocabulary("item"), features)) if features else None
    return beyond_hits(lists, relevant, trained, cutoffs, table, reference)


def features_of(catalog: Vocabulary, names: Sequence[str]) -> dict[str, list]:
    """Columns of a catalog; one that is not there is refused."""
    known = catalog.feature_names()
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no feature of {catalog.path}, which has {known}.")
    return {name: catalog.column(name) or [] for name in names}


def rows_of_lists(
    items: Int[np.ndarray, "Q K"], scores: Float[np.ndarray, "Q K"]
) -> dict[str, np.ndarray]:
    """Columns with a line for each place of a list: question, place (0 is first), item, score."""
    question, place = np.nonzero(items >= 0)
    item = items[question, place] + RESERVED
    return {"question": question, "place": place, "item": item, "score": scores[question, place]}


def read_lists(path: pathlib.Path, questions: int, k: int) -> Int[np.ndarray, "Q K"]:
    """The lists of `rows_of_lists`, at most `k` long."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: `clickflax evaluate --run={path.parent} --lists` makes it."
        )
    table = pq.read_table(path)
    rows = {name: table[name].to_numpy() for name in ("question", "place", "item")}
    if rows["question"].max() >= questions:
        raise ValueError(
            f"{path} answers {rows['question'].max() + 1:,} questions, and there are {questions:,}:"
            " it is of another data set, or of another split."
        )
    found = np.full((questions, k), -1, np.int32)
    some = rows["place"] < k
    found[rows["question"][some], rows["place"][some]] = rows["item"][some] - RESERVED
    return found


class ListOptions(NamedTuple):
    """Whether lists are made, too, and what is asked of them."""

    features: tuple[str, ...] = ()  # of the catalog, by which they are diverse
    reference: str = ""  # the folder of a run whose lists they are compared with
    name: str = ""  # of the record, as `record_name` has it


def check_list_options(lists: bool, features: Sequence[str], reference: str) -> None:
    """Refuses what is about lists where none are made."""
    if (features or reference) and not lists:
        raise ValueError("--features and --reference are about lists: say --lists, too.")


def evaluate_lists(
    judge: Evaluator, params: Any, dataset: Dataset, which: str, name: str, listing: ListOptions
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics of the lists of a part, as long as the last cut-off, and their rows."""
    asked, config = judge.asked, judge.config
    part, k = getattr(asked, which), max(config.eval.cutoffs)
    if config.eval.negatives:
        raise ValueError(
            f"--lists are of all items, and eval.negatives={config.eval.negatives} ranks among few:"
            " --negatives=0 asks of all."
        )
    items, scores = top_k_lists(
        judge.rank.asker, params, judge.columns, part, k, config.eval.filter_seen
    )
    reference = None
    if listing.reference:
        told = protocol(config, dataset, name, asked.task, which)
        check_reference(listing, which, name, dataset, told, k)
        path = pathlib.Path(listing.reference) / f"{which}{listing.name}.{name}.lists.parquet"
        reference = read_lists(path, len(part), k)
    found = list_metrics_of(
        items,
        asked,
        part,
        dataset,
        judge.columns,
        tuple(config.eval.cutoffs),
        listing.features,
        reference,
    )
    return found, rows_of_lists(items, scores)


def check_reference(
    listing: ListOptions, which: str, task: str, dataset: Dataset, told: dict[str, Any], k: int
) -> None:
    """Refuses lists that answer other questions, or end too early."""
    file = pathlib.Path(listing.reference) / f"{which}{listing.name}.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there: --reference is the folder of a run that was evaluated with "
            "--lists and the same flags."
        )
    theirs = read_json(file)
    if theirs["fingerprint"] != dataset.fingerprint:
        raise ValueError(f"--reference={listing.reference} was evaluated on {theirs['data']}.")
    protocols = (theirs.get("protocol") or theirs.get(f"{task}/protocol") or {}, told)
    # How far a model looks back is its own affair, and what JSON has as a list was a tuple.
    ours = [{**one, "history": "", "given": list(one.get("given", ()))} for one in protocols]
    if ours[0] != ours[1]:
        raise ValueError(
            f"--reference={listing.reference} was asked otherwise: {ours[0]}, and here {ours[1]}."
        )
    longest = max(theirs["config"]["eval"]["cutoffs"])
    if longest < k:
        raise ValueError(f"--reference={listing.reference} has lists of {longest}, not of {k}.")
