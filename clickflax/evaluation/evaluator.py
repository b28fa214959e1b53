"""Asks a task of the examples of a part: places of targets, logits of labels, and their metrics."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Float, Int, Shaped
from ml_collections import ConfigDict

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.candidates import Candidates, draw_candidates
from clickflax.data.eval_batches import pad_lists
from clickflax.data.item_features import ITEM_PREFIX
from clickflax.data.splits.common import Examples, events_inside, is_cold_target
from clickflax.data.splits.labels import LabelExamples
from clickflax.inference.predictor import Predictor
from clickflax.run.targets import TaskData
from clickflax.tasks.label_metrics import (
    best_threshold,
    binary_metrics,
    class_metrics,
    number_metrics,
    precision_recall_curve,
)
from clickflax.tasks.ranking_metrics import mean_metrics, ranking_metrics
from clickflax.tasks.ranks import rank_among_candidates, rank_targets

Columns = Mapping[str, Shaped[np.ndarray, "E ..."]]


class TargetRanker:
    """Ranks the targets of examples, among all items or, `sampled`, among candidates; compiled
    once, for any parameters.
    """

    def __init__(self, asker: Predictor, filter_seen: bool, sampled: bool = False):
        self.asker = asker
        self.filter_seen = filter_seen and not sampled
        self.compiled = asker.compile(rank_among_candidates if sampled else rank_targets)

    def __call__(
        self,
        params: Any,
        columns: Columns,
        examples: Examples,
        candidates: Candidates | None = None,
    ) -> Float[np.ndarray, " T"]:
        """The place of every target of `examples`, in their order."""
        bounds = np.searchsorted(examples.owner, np.arange(len(examples) + 1))
        targets = examples.targets - RESERVED
        most = max(1, int(np.diff(bounds).max()))

        def padded(values: Int[np.ndarray, " T"]) -> Callable[..., np.ndarray]:
            return lambda example: pad_lists(values, bounds, example, most)

        found = np.full(len(targets), np.nan, np.float32)
        history, seen = examples.history, self.filter_seen
        extras = [padded(targets)]
        if candidates is not None:
            ids, offsets = candidates.items - RESERVED, candidates.offsets
            width = max(1, int(np.diff(offsets).max()))
            extras.append(lambda example: pad_lists(ids, offsets, example, width))
        asked = self.asker.ask(params, self.compiled, columns, history, seen, *extras)
        for example, places in asked:
            which = padded(np.arange(len(targets)))(example)
            found[which[which >= 0]] = places[which >= 0]
        return found


class LabelPredictor:
    """Tells the labels of events; compiled once, for any parameters."""

    def __init__(self, asker: Predictor):
        self.asker = asker
        self.compiled = asker.compile_labels()

    def __call__(
        self, params: Any, columns: Columns, part: LabelExamples
    ) -> Float[np.ndarray, "N C"]:
        """The logits of the labels of a part, in the order of their events."""
        events = np.flatnonzero(np.isfinite(part.label))
        return self.asker.tell(params, self.compiled, columns, part.ranges, events)


class Evaluation(NamedTuple):
    """What is found for a part."""

    metrics: dict[str, float]
    beside: dict[
        str, Any
    ]  # what else its record has, see `precision_recall_curve` and `cold_metrics`
    found: Shaped[np.ndarray, " N"]  # the place of each target, or what is told of each label


class Evaluator:
    """Asks a task of the examples of a part, and gives the metrics; compiled once."""

    def __init__(self, asker: Predictor, asked: TaskData, columns: Columns, config: ConfigDict):
        self.asked, self.columns, self.config = asked, asked.reads(columns), config
        head = asked.task.head
        self.is_label = isinstance(asked.test, LabelExamples)
        if self.is_label:
            self.tell = LabelPredictor(asker)
        else:
            self.filter_seen = config.eval.filter_seen and head == "item"
            self.rank = TargetRanker(asker, self.filter_seen, bool(config.eval.negatives))
            self.candidates: dict[str, Candidates] = {}  # of a part, once it has been asked
        self.threshold: float | None = None  # of the validation, once it has been told

    def __call__(self, params: Any, which: str) -> dict[str, float]:
        """The mean of every metric over the examples of a part."""
        return self.examine(params, which).metrics

    def examine(self, params: Any, which: str) -> Evaluation:
        """The metrics, and what they are the means of."""
        part = getattr(self.asked, which)
        if isinstance(part, Examples):
            places = self.rank(params, self.columns, part, self.among(which, part))
            cutoffs = tuple(self.config.eval.cutoffs)
            beside = cold_metrics(self.asked, part, places, self.columns, self.config)
            metrics = mean_metrics(ranking_metrics(places, part.owner, len(part), cutoffs))
            return Evaluation(metrics, beside, places)
        logits = self.tell(params, self.columns, part)
        label, kind = part.label[np.isfinite(part.label)], self.config.label.kind
        if self.asked.task.head != "label" or kind == "binary":
            p = scipy.special.expit(logits[:, 0])
            if which == "validation":
                self.threshold = best_threshold(p, label)
            threshold = 0.5 if self.threshold is None else self.threshold
            return Evaluation(
                binary_metrics(p, label, threshold), precision_recall_curve(p, label), p
            )
        if kind == "classes":
            p = scipy.special.softmax(logits, 1)
            return Evaluation(class_metrics(p, label), {}, p.argmax(1))
        return Evaluation(number_metrics(logits[:, 0], label), {}, logits[:, 0])

    def among(self, which: str, part: Examples) -> Candidates | None:
        """The candidates of a part; None: all items."""
        if self.config.eval.negatives and which not in self.candidates:
            item = self.columns[self.asked.task.head]
            size = self.rank.asker.model.head[self.asked.task.head].items + RESERVED
            self.candidates[which] = eval_candidates(
                self.config, self.asked.train, part, item, size, self.filter_seen
            )
        return self.candidates.get(which)


def eval_candidates(
    config: ConfigDict,
    train: Windows,
    part: Examples,
    item: Int[np.ndarray, " E"],
    size: int,
    filter_seen: bool,
) -> Candidates:
    """What the targets of a part are ranked among, as `config.eval` says."""
    chance = np.ones(size)
    if config.eval.drawn == "popularity":
        chance = np.bincount(item[events_inside(train, len(item))], minlength=size).astype(
            np.float64
        )
    ask = config.eval
    return draw_candidates(part, item, chance, ask.negatives, filter_seen, ask.unseen)


def rows_of_targets(
    asked: TaskData,
    which: str,
    found: Shaped[np.ndarray, " N"],
    columns: Columns,
    begins: Int[np.ndarray, " S"],
) -> dict[str, Shaped[np.ndarray, " N"]]:
    """Columns with a line for each `found` of a part; each sequence `begins` at a place of the log.
    Of a target: its question and the sequence of that, its id, its place (0 is first), the items of
    the history, where that ends among the places of the log, and the training events that have the
    target. Of a label: its sequence, its place in the log, what it is, and what is told.
    """
    part = getattr(asked, which)
    if isinstance(part, LabelExamples):
        event = np.flatnonzero(np.isfinite(part.label))
        sequence = np.searchsorted(begins, event, side="right") - 1
        return {"sequence": sequence, "event": event, "label": part.label[event], "told": found}
    column = columns[asked.task.head]
    trained = np.bincount(
        column[events_inside(asked.train, len(column))], minlength=column.max() + 1
    )
    known = np.append(0, np.cumsum(column >= RESERVED))
    return {
        "question": part.owner,
        "sequence": part.sequence[part.owner],
        "target": part.targets,
        "place": found,
        "history": (known[part.history.stop] - known[part.history.start])[part.owner],
        "end": part.history.stop[part.owner],
        "trained": trained[part.targets],
    }


def cold_metrics(
    asked: TaskData,
    part: Examples,
    places: Float[np.ndarray, " T"],
    columns: Columns,
    config: ConfigDict,
) -> dict[str, float]:
    """Where items have features, the metrics over the targets alone that were never trained on, and
    over the users who have any.
    """
    if asked.task.head != "item" or not any(
        n.startswith(ITEM_PREFIX) for n in config.data.variables
    ):
        return {}
    cold = is_cold_target(asked.train, part, columns["item"])
    if not cold.any():
        return {}
    users, owner = np.unique(part.owner[cold], return_inverse=True)
    found = mean_metrics(
        ranking_metrics(places[cold], owner, len(users), tuple(config.eval.cutoffs))
    )
    return {f"cold/{name}": value for name, value in found.items()}
