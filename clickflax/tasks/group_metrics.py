"""Metrics of targets in groups: by length of the history and by popularity.

A target is looked at alone, as if it were the only one of its example, so that targets of one
example may be in different groups.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from clickflax.tasks.ranking_metrics import ranking_metrics

# Columns of the rows of an evaluation by which targets are grouped, and their titles.
GROUPS = {"history": "events before the target", "trained": "training events of the target"}
GROUP_BINS = 5


class Groups(NamedTuple):
    """Bins of about equal size, and the bin of each target."""

    names: list[str]
    of: Int[np.ndarray, " T"]


def group(values: Int[np.ndarray, " T"]) -> Groups:
    """Bins of targets with similar values; fewer if many targets have the same value."""
    inner = np.unique(np.quantile(values, np.arange(1, GROUP_BINS) / GROUP_BINS, method="lower"))
    edges = [int(edge) for edge in inner if edge < values.max()]
    lows = [int(values.min()), *(edge + 1 for edge in edges)]
    pairs = zip(lows, [*edges, int(values.max())], strict=True)
    names = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high in pairs]
    return Groups(names, np.searchsorted(edges, values))


def metrics_by_group(
    groups: Groups, ranks: Float[np.ndarray, " T"], cutoffs: Sequence[int]
) -> dict[str, Float[np.ndarray, " G"]]:
    """The mean of every metric in each bin, from the ranks (0 is best) of targets."""
    count = np.bincount(groups.of, minlength=len(groups.names))
    alone = ranking_metrics(ranks, np.arange(len(ranks)), len(ranks), cutoffs)
    return {
        name: np.bincount(groups.of, values, len(count)) / np.maximum(1, count)
        for name, values in alone.items()
    }


def group_metrics(
    rows: Mapping[str, Shaped[np.ndarray, " T"]], cutoffs: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The groups of a record: bins, the number of targets in each, and the metrics."""
    record = {}
    for column in GROUPS:
        groups = group(rows[column])
        metrics = metrics_by_group(groups, rows["rank"], cutoffs)
        record[column] = {
            "bins": groups.names,
            "targets": np.bincount(groups.of, minlength=len(groups.names)).tolist(),
            **{name: values.tolist() for name, values in metrics.items()},
        }
    return record
