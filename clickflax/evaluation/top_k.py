"""Top-k recommendation lists of a split and their beyond-accuracy metrics."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from clickflax.batch import RESERVED
from clickflax.config.default import from_dict
from clickflax.data.splits.common import Examples, events_inside
from clickflax.data.store import Dataset, Vocabulary
from clickflax.evaluation.evaluator import RankingEvaluator
from clickflax.evaluation.protocol import Protocol, stored_protocol, to_json
from clickflax.evaluation.record import LIST_COLUMNS, read_record, read_rows
from clickflax.evaluation.request import EvalRequest
from clickflax.inference.predictor import Predictor
from clickflax.run.targets import TaskData
from clickflax.runtime import sharding
from clickflax.tasks.list_metrics import count_items, encode_features, list_metrics
from clickflax.tasks.ranks import top_k_with_targets


def targets_of(examples: Examples) -> Int[np.ndarray, "Q T"]:
    """The targets of every example, 0 ... V-1, filled up with -1."""
    most = max(1, int(np.bincount(examples.owner).max()))
    targets = np.full((len(examples), most), -1)
    first = np.searchsorted(examples.owner, np.arange(len(examples)))
    nth = np.arange(len(examples.owner)) - first[examples.owner]
    targets[examples.owner, nth] = examples.targets - RESERVED
    return targets


def top_k_lists(
    predictor: Predictor,
    params: Any,
    columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
    examples: Examples,
    k: int,
    filter_seen: bool,
) -> tuple[Int[np.ndarray, "Q K"], Float[np.ndarray, "Q K"]]:
    """The top `k` items after every history, 0 ... V-1, filled up with -1, and their scores.

    A target is never filtered, as in the ranks.
    """
    items = np.full((len(examples), k), -1, np.int32)
    scores = np.full((len(examples), k), -np.inf, np.float32)
    top_k = sharding.find_top_k(predictor.mesh)
    compiled = predictor.compile(functools.partial(top_k_with_targets, k=k, top_k=top_k))
    targets = targets_of(examples)
    for example, (score, item) in predictor.predict(
        params,
        compiled,
        columns,
        examples.history,
        filter_seen,
        lambda example: np.where(example[..., None] >= 0, targets[example], -1),
    ):
        there = example >= 0
        items[example[there]] = np.where(np.isneginf(score), -1, item)[there]
        scores[example[there]] = score[there]
    return items, scores


def list_metrics_of(
    lists: Int[np.ndarray, "Q K"],
    data: TaskData,
    examples: Examples,
    dataset: Dataset,
    columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
    cutoffs: Sequence[int],
    features: Sequence[str] = (),
    reference: Int[np.ndarray, "Q K"] | None = None,
) -> dict[str, float]:
    """The metrics of `list_metrics.py`, with diversity by these features of the catalog."""
    item = columns["item"]
    train = np.flatnonzero(events_inside(data.train, len(item)) & (item >= RESERVED))
    sequence = np.searchsorted(dataset.sequence_starts, train, side="right")
    trained = count_items(item[train] - RESERVED, sequence, dataset.size("item") - RESERVED)
    relevant = np.zeros(lists.shape, bool)
    for targets in targets_of(examples).T:  # one at a time: nothing has the shape [Q, K, T]
        relevant |= (lists == targets[:, None]) & (lists >= 0)
    table = None
    if features:
        table = encode_features(features_of(dataset.vocabulary("item"), features))
    return list_metrics(lists, relevant, trained, cutoffs, table, reference)


def features_of(catalog: Vocabulary, names: Sequence[str]) -> dict[str, list]:
    """Columns of a catalog. Raises ValueError for one that it does not have."""
    known = catalog.feature_names()
    for name in names:
        if name not in known:
            raise ValueError(
                f"--features: {name!r} is not a feature of {catalog.path}, which has {known}."
            )
    return {name: catalog.column(name) or [] for name in names}


def rows_of_lists(
    items: Int[np.ndarray, "Q K"], scores: Float[np.ndarray, "Q K"]
) -> dict[str, np.ndarray]:
    """A row for each recommended item: example, rank (0 is best), item, score."""
    example, rank = np.nonzero(items >= 0)
    item = items[example, rank] + RESERVED
    return {"example": example, "rank": rank, "item": item, "score": scores[example, rank]}


def read_lists(path: pathlib.Path, examples: int, k: int) -> Int[np.ndarray, "Q K"]:
    """The lists of `rows_of_lists`, at most `k` long."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: `clickflax evaluate --run={path.parent} --lists` writes it."
        )
    table = read_rows(path, LIST_COLUMNS)
    example, rank, item = (table[name].to_numpy() for name in ("example", "rank", "item"))
    if example.max() >= examples:
        raise ValueError(
            f"{path} has lists for {example.max() + 1:,} examples, not {examples:,}: it is of "
            "another data set, or of another split."
        )
    lists = np.full((examples, k), -1, np.int32)
    kept = rank < k
    lists[example[kept], rank[kept]] = item[kept] - RESERVED
    return lists


def evaluate_lists(
    evaluator: RankingEvaluator,
    params: Any,
    dataset: Dataset,
    protocol: Protocol,
    request: EvalRequest,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics of the lists of a split, as long as the last cut-off, and their rows."""
    data, config = evaluator.data, evaluator.config
    examples = data.ranking_examples(protocol.split)
    k = max(config.eval.cutoffs)
    if config.eval.negatives:
        raise ValueError(
            f"--lists rank all items, and config.eval.negatives={config.eval.negatives} ranks some:"
            " add --negatives=0."
        )
    items, scores = top_k_lists(
        evaluator.predictor, params, evaluator.columns, examples, k, config.eval.filter_seen
    )
    reference = None
    if request.reference:
        task = data.task.name
        name = f"{protocol.split}{request.suffix(with_checkpoint=False)}"
        check_reference(
            pathlib.Path(request.reference) / f"{name}.json", task, dataset, protocol, k
        )
        path = pathlib.Path(request.reference) / f"{name}.{task}.lists.parquet"
        reference = read_lists(path, len(examples), k)
    cutoffs = tuple(config.eval.cutoffs)
    metrics = list_metrics_of(
        items, data, examples, dataset, evaluator.columns, cutoffs, request.features, reference
    )
    return metrics, rows_of_lists(items, scores)


def check_reference(
    file: pathlib.Path, task: str, dataset: Dataset, protocol: Protocol, k: int
) -> None:
    """Raises ValueError if the lists of another run answer other examples, or are too short."""
    run = file.parent
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist: --reference must be the folder of a run that was evaluated "
            "with --lists and the same flags."
        )
    record = read_record(file)
    if record["fingerprint"] != dataset.fingerprint:
        raise ValueError(f"--reference={run} was evaluated on {record['data']}.")
    ours = to_json(protocol)
    theirs = stored_protocol(record, task)
    # Models may read different numbers of past events.
    differ = sorted(
        name
        for name in (ours.keys() | theirs.keys()) - {"max_events"}
        if ours.get(name) != theirs.get(name)
    )
    if differ:
        pairs = [f"{name}={theirs.get(name)!r}, here {ours.get(name)!r}" for name in differ]
        raise ValueError(f"--reference={run} has another protocol: {'; '.join(pairs)}.")
    longest = max(from_dict(record["config"]).eval.cutoffs)
    if longest < k:
        raise ValueError(f"--reference={run} has lists of {longest} items, not of {k}.")
