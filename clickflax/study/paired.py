"""Paired comparisons: metrics of two configs for the same users or labels."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from clickflax.evaluation.protocol import ranking_protocol
from clickflax.evaluation.record import EVALUATE_AGAIN, LABEL_COLUMNS, read_record, read_rows
from clickflax.study.plan import Cell, cell_folder, read_cell_config, record_name
from clickflax.study.statistics import (
    Difference,
    bootstrap_label_metric,
    difference,
    difference_from_draws,
    holm,
)
from clickflax.tasks.label_metrics import WEIGHTED_METRICS, weighted_metric
from clickflax.tasks.ranking_metrics import RANKING_METRICS, metrics_by_sequence


class UserMetric(NamedTuple):
    """A ranking metric by user, scaled so that its mean is the metric over all examples."""

    value: Float[np.ndarray, " U"]
    sequence: Int[np.ndarray, " T"]  # of each target
    target: Int[np.ndarray, " T"]

    def same_targets(self, other: Any) -> bool:
        """Whether the other metric is of the same users and targets."""
        return (
            isinstance(other, UserMetric)
            and np.array_equal(self.sequence, other.sequence)
            and np.array_equal(self.target, other.target)
        )

    def difference(self, other: Any) -> Difference:
        """How much higher this metric is than the other."""
        return difference(self.value, other.value)


class LabelMetric(NamedTuple):
    """A metric of labels, as the mean over seeds, with its bootstrap draws."""

    value: float
    drawn: Float[np.ndarray, " B"]  # see `bootstrap_label_metric`
    label: Float[np.ndarray, " N"]
    event: Int[np.ndarray, " N"]

    def same_targets(self, other: Any) -> bool:
        """Whether the other metric is of the same events and labels."""
        return (
            isinstance(other, LabelMetric)
            and np.array_equal(self.event, other.event)
            and np.array_equal(self.label, other.label)
        )

    def difference(self, other: Any) -> Difference:
        """How much higher this metric is than the other."""
        drawn = self.drawn - other.drawn
        return difference_from_draws(self.value - other.value, drawn[np.isfinite(drawn)])


class RankingMetric(NamedTuple):
    """A ranking metric, such as next_item/ndcg@10: its task (None: the only one), name, cut-off."""

    task: str | None
    name: str
    cutoff: int


def parse_ranking_metric(metric: str) -> RankingMetric | None:
    """The ranking metric of a name; None for a metric of labels or lists."""
    task, _, own = metric.rpartition("/")
    name, _, k = own.partition("@")
    if name not in RANKING_METRICS or not k.isdigit() or "cold" in task.split("/"):
        return None
    return RankingMetric(task or None, own, int(k))


def mean_user_metric(paths: Sequence[pathlib.Path], metric: RankingMetric) -> UserMetric | str:
    """The mean over seeds of a ranking metric by user; or the reason why there is none."""
    seeds = [read_user_metric(path, metric) for path in paths]
    if not all(one.same_targets(seeds[0]) for one in seeds):
        return "its seeds have different targets"
    if len(seeds[0].value) < 2:
        return "it has examples of one user only"
    return seeds[0]._replace(value=np.mean([one.value for one in seeds], axis=0))


def mean_label_metric(paths: Sequence[pathlib.Path], metric: str) -> LabelMetric | str | None:
    """The mean over seeds of a metric of labels; or the reason why there is none.

    None if the kept predictions are not enough to compute the metric.
    """
    seeds = [read_arrays(path, LABEL_COLUMNS) for path in paths]
    first = seeds[0]
    # Of classes, only the predicted class is kept.
    if metric == "log_loss" and np.issubdtype(first["prediction"].dtype, np.integer):
        return None
    if any("sequence" not in one for one in seeds):
        return "its rows do not have the sequences of labels: evaluate its runs again"
    if not all(np.array_equal(one[k], first[k]) for one in seeds for k in ("event", "label")):
        return "its seeds have different labels"
    if len(np.unique(first["sequence"])) < 2:
        return "it has labels of one sequence only"
    metrics = [weighted_metric(metric, one["prediction"], one["label"]) for one in seeds]

    def mean(weight: Float[np.ndarray, "draws N"]) -> Float[np.ndarray, " draws"]:
        return np.mean([of_seed(weight) for of_seed in metrics], axis=0)

    value = float(mean(np.ones((1, len(first["label"]))))[0])
    if np.isnan(value):
        return None
    drawn = bootstrap_label_metric(first["sequence"], mean)
    return LabelMetric(value, drawn, first["label"], first["event"])


def read_user_metric(path: pathlib.Path, metric: RankingMetric) -> UserMetric:
    """A ranking metric by user, from a file with the ranks of targets; users in log order."""
    rows = read_arrays(path, ("example", "sequence", "target", "rank"))
    if rows["example"].max() >= len(rows["example"]):
        raise ValueError(f"{path} has rows of examples that it does not have. {EVALUATE_AGAIN}")
    by_user = metrics_by_sequence(rows, (metric.cutoff,))
    share = by_user["examples"] * (len(by_user["sequence"]) / by_user["examples"].sum())
    return UserMetric(by_user[metric.name] * share, rows["sequence"], rows["target"])


def read_arrays(path: pathlib.Path, needed: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of a Parquet file of a run, with the needed ones among them."""
    table = read_rows(path, needed)
    return {name: table[name].to_numpy() for name in table.column_names}


def read_cell_record(
    out: pathlib.Path, cell: Cell, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The record of an evaluation of a cell; None if there is none yet."""
    path = record_path(out, cell, settings)
    return read_record(path) if path.is_file() else None


def record_path(out: pathlib.Path, cell: Cell, settings: Mapping[str, Any]) -> pathlib.Path:
    """The file of the record of an evaluation of a cell."""
    return cell_folder(out, cell) / f"{record_name(settings)}.json"


def rows_path(
    out: pathlib.Path,
    cell: Cell,
    settings: Mapping[str, Any],
    task: str | None = None,
    suffix: str = "",
) -> pathlib.Path:
    """The Parquet file with a row for each target of a task, by default the first task of the run.

    With the suffix ".lists", the file of its recommendation lists.
    """
    folder = cell_folder(out, cell)
    task = task or next(iter(read_cell_config(folder).tasks), "")
    return folder / f"{record_name(settings)}.{task}{suffix}.parquet"


def mean_metric(
    out: pathlib.Path, cells: Sequence[Cell], settings: Mapping[str, Any], metric: str
) -> UserMetric | LabelMetric | str | None:
    """The mean of a metric over cells, which are the seeds of a config, for paired comparisons.

    Or the reason why it cannot be compared; None for a metric that is never compared, or that the
    cells do not have.
    """
    ranking = parse_ranking_metric(metric)
    task, _, name = metric.rpartition("/")
    if ranking is None and name not in WEIGHTED_METRICS:
        return None
    if not all(metric in (read_cell_record(out, cell, settings) or {}) for cell in cells):
        return None
    task = ranking.task if ranking else task or None
    paths = [rows_path(out, cell, settings, task) for cell in cells]
    for cell, path in zip(cells, paths, strict=True):
        if not path.is_file():
            return f"cells/{cell.name} has no {path.name}"
    return mean_user_metric(paths, ranking) if ranking else mean_label_metric(paths, name)


def protocol_differences(
    out: pathlib.Path, one: Cell, other: Cell, settings: Mapping[str, Any], metric: str
) -> str:
    """How the ranking protocols of two cells differ, as text; "" if they do not."""
    ranking = parse_ranking_metric(metric)
    if ranking is None:  # for labels, equal events and labels are enough
        return ""
    records = (read_cell_record(out, cell, settings) or {} for cell in (one, other))
    ours, theirs = (ranking_protocol(record, ranking.task) for record in records)
    return ", ".join(
        f"{key} {ours[key]!r}, not {theirs[key]!r}" for key in ours if ours[key] != theirs[key]
    )


def compare_with_baseline(
    out: pathlib.Path,
    done: Mapping[str, Sequence[Cell]],
    settings: Mapping[str, Any],
    baseline: str,
    metric: str,
) -> dict[str, tuple[Difference, float] | str]:
    """The difference in a metric from the baseline, and its p-value, for each config.

    Or the reason why a config cannot be compared. Differences are over the seeds that both configs
    have done. p-values are by the bootstrap, with Holm's correction for the number of configs.
    """

    # The metric of the baseline is read once for all configs with the same seeds.
    @functools.cache
    def metric_of(config: str, seeds: frozenset[int]) -> UserMetric | LabelMetric | str | None:
        cells = [cell for cell in done[config] if cell.seed in seeds]
        return mean_metric(out, cells, settings, metric)

    differences: dict[str, Difference] = {}
    reasons: dict[str, str] = {}
    for config, cells in done.items():
        seeds = frozenset(cell.seed for cell in cells) & {cell.seed for cell in done[baseline]}
        if config == baseline or not seeds:
            continue
        ours = metric_of(config, seeds)
        theirs = metric_of(baseline, seeds)
        if ours is None or theirs is None:
            continue
        if isinstance(ours, str) or isinstance(theirs, str):
            reasons[config] = ours if isinstance(ours, str) else f"{baseline}: {theirs}"
        elif not ours.same_targets(theirs):
            reasons[config] = f"its targets differ from those of {baseline}"
        elif changes := protocol_differences(out, cells[0], done[baseline][0], settings, metric):
            reasons[config] = f"its protocol differs from that of {baseline}: {changes}"
        else:
            differences[config] = ours.difference(theirs)
    p = holm({config: one.p_bootstrap for config, one in differences.items()})
    compared = {config: (one, p[config]) for config, one in differences.items()}
    return {**compared, **reasons}
