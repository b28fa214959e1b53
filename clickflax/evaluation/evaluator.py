"""Evaluates a task on a split: ranks or predictions, and their metrics."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from ml_collections import ConfigDict

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.candidates import Candidates, draw_candidates
from clickflax.data.eval_batches import pad_lists
from clickflax.data.item_features import ITEM_PREFIX
from clickflax.data.splits.common import Examples, events_inside, is_cold_target
from clickflax.inference.predictor import Predictor
from clickflax.run.targets import TaskData
from clickflax.tasks.ranking_metrics import mean_metrics, ranking_metrics
from clickflax.tasks.ranks import rank_among_candidates, rank_targets

Columns = Mapping[str, Shaped[np.ndarray, "E ..."]]


class Evaluation(NamedTuple):
    """Metrics of a split, details such as curves, and the values that the metrics are means of."""

    metrics: dict[str, float]
    details: dict[str, Any]
    values: Shaped[np.ndarray, " N"]  # rank of each target, or prediction of each label


class RankingEvaluator:
    """Ranks the targets of a split among all items, or among candidates.

    Its program is compiled once, for any parameters.
    """

    def __init__(self, predictor: Predictor, data: TaskData, columns: Columns, config: ConfigDict):
        self.predictor = predictor
        self.data = data
        self.columns = data.reads(columns)
        self.config = config
        self.filter_seen = bool(config.eval.filter_seen and data.task.head == "item")
        self._candidates: dict[str, Candidates] = {}  # by split, drawn when first needed
        sampled = bool(config.eval.negatives)
        self._compiled = predictor.compile(rank_among_candidates if sampled else rank_targets)

    def evaluate(self, params: Any, split: str) -> Evaluation:
        """The mean of every metric over the examples of a split, and the ranks of all targets."""
        examples = self.data.ranking_examples(split)
        candidates = None
        if self.config.eval.negatives:
            if split not in self._candidates:
                self._candidates[split] = self._draw(examples)
            candidates = self._candidates[split]
        ranks = self._rank(params, examples, candidates)
        cutoffs = tuple(self.config.eval.cutoffs)
        metrics = mean_metrics(ranking_metrics(ranks, examples.owner, len(examples), cutoffs))
        return Evaluation(metrics, self._cold_metrics(examples, ranks), ranks)

    def _rank(
        self, params: Any, examples: Examples, candidates: Candidates | None
    ) -> Float[np.ndarray, " T"]:
        """The rank (0 is best) of every target."""
        bounds = np.searchsorted(examples.owner, np.arange(len(examples) + 1))
        width = max(1, int(np.diff(bounds).max()))
        targets = examples.targets - RESERVED
        extras = [lambda example: pad_lists(targets, bounds, example, width)]
        if candidates is not None:
            items = candidates.items - RESERVED
            offsets = candidates.offsets
            most = max(1, int(np.diff(offsets).max()))
            extras.append(lambda example: pad_lists(items, offsets, example, most))
        ranks = np.full(len(targets), np.nan, np.float32)
        filter_seen = self.filter_seen and candidates is None
        for example, values in self.predictor.predict(
            params, self._compiled, self.columns, examples.history, filter_seen, *extras
        ):
            index = pad_lists(np.arange(len(targets)), bounds, example, width)
            ranks[index[index >= 0]] = values[index >= 0]
        return ranks

    def _draw(self, examples: Examples) -> Candidates:
        """Candidates of every target, as `config.eval` says."""
        head = self.data.task.head
        values = self.predictor.model.head[head].items + RESERVED
        return eval_candidates(
            self.config, self.data.train, examples, self.columns[head], values, self.filter_seen
        )

    def _cold_metrics(self, examples: Examples, ranks: Float[np.ndarray, " T"]) -> dict[str, float]:
        """If items have features, the metrics over the targets that no training event has."""
        config = self.config
        has_features = any(name.startswith(ITEM_PREFIX) for name in config.data.variables)
        if self.data.task.head != "item" or not has_features:
            return {}
        cold = is_cold_target(self.data.train, examples, self.columns["item"])
        if not cold.any():
            return {}
        users, owner = np.unique(examples.owner[cold], return_inverse=True)
        cutoffs = tuple(config.eval.cutoffs)
        metrics = mean_metrics(ranking_metrics(ranks[cold], owner, len(users), cutoffs))
        return {f"cold/{name}": value for name, value in metrics.items()}


class LabelEvaluator:
    """Predicts the labels of a split; its program is compiled once, for any parameters."""

    def __init__(self, predictor: Predictor, data: TaskData, columns: Columns, config: ConfigDict):
        self.predictor = predictor
        self.data = data
        self.columns = data.reads(columns)
        self.config = config
        self._compiled = predictor.compile_labels()

    def evaluate(self, params: Any, split: str) -> Evaluation:
        """The metrics of a split, and a prediction for each of its labels.

        The threshold of a yes or no is the best of the validation; without one it is 0.5.
        """
        kind = self.data.task.kind
        assert kind.measure is not None
        prediction, label = self._predict(params, split)
        threshold = 0.5
        if split == "validation":
            threshold = kind.threshold(prediction, label)
        elif kind.has_threshold and len(self.data.validation):
            threshold = kind.threshold(*self._predict(params, "validation"))
        metrics = kind.measure(prediction, label, threshold)
        return Evaluation(metrics, kind.details(prediction, label), kind.reported(prediction))

    def _predict(self, params: Any, split: str) -> tuple[Any, Float[np.ndarray, " N"]]:
        """Predictions and labels of a split, in the order of their events."""
        examples = self.data.label_examples(split)
        kind = self.data.task.kind
        assert kind.predict is not None
        events = np.flatnonzero(np.isfinite(examples.label))
        logits = self.predictor.predict_labels(
            params, self._compiled, self.columns, examples.ranges, events
        )
        return kind.predict(logits), examples.label[events]


Evaluator = RankingEvaluator | LabelEvaluator


def make_evaluator(
    predictor: Predictor, data: TaskData, columns: Columns, config: ConfigDict
) -> Evaluator:
    """The evaluator of a task."""
    kind = RankingEvaluator if data.task.ranks else LabelEvaluator
    return kind(predictor, data, columns, config)


def eval_candidates(
    config: ConfigDict,
    train: Windows,
    examples: Examples,
    item: Int[np.ndarray, " E"],
    size: int,
    filter_seen: bool,
) -> Candidates:
    """The candidates among which targets are ranked, as `config.eval` says."""
    chance = np.ones(size)
    if config.eval.drawn == "popularity":
        trained = events_inside(train, len(item))
        chance = np.bincount(item[trained], minlength=size).astype(np.float64)
    negatives, unseen = config.eval.negatives, config.eval.unseen
    return draw_candidates(examples, item, chance, negatives, filter_seen, unseen)


def target_rows(
    data: TaskData, split: str, ranks: Float[np.ndarray, " T"], columns: Columns
) -> dict[str, Shaped[np.ndarray, " T"]]:
    """A row for each target of a split.

    It has the example and its sequence, the id of the target, its rank (0 is best), the number of
    items in the history, where the history ends in the log, and the training events that have the
    target.
    """
    examples = data.ranking_examples(split)
    column = columns[data.task.head]
    trained_events = column[events_inside(data.train, len(column))]
    trained = np.bincount(trained_events, minlength=column.max() + 1)
    known = np.append(0, np.cumsum(column >= RESERVED))
    history = known[examples.history.stop] - known[examples.history.start]
    return {
        "example": examples.owner,
        "sequence": examples.sequence[examples.owner],
        "target": examples.targets,
        "rank": ranks,
        "history": history[examples.owner],
        "end": examples.history.stop[examples.owner],
        "trained": trained[examples.targets],
    }


def label_rows(
    data: TaskData,
    split: str,
    prediction: Shaped[np.ndarray, " N"],
    begins: Int[np.ndarray, " S"],
) -> dict[str, Shaped[np.ndarray, " N"]]:
    """A row for each label of a split: sequence, event in the log, label and prediction.

    Each sequence `begins` at a position of the log.
    """
    examples = data.label_examples(split)
    event = np.flatnonzero(np.isfinite(examples.label))
    sequence = np.searchsorted(begins, event, side="right") - 1
    label = examples.label[event]
    return {"sequence": sequence, "event": event, "label": label, "prediction": prediction}
