"""Two models beside each other: what a metric of each is made of, for the same users."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from clickflax.evaluation.protocol import ranking_protocol
from clickflax.evaluation.record import read_rows
from clickflax.runtime.files import read_json
from clickflax.study.plan import Cell, folder_of, record_of
from clickflax.study.statistics import Difference, difference, draw_labels, holm, of_draws
from clickflax.tasks.label_metrics import WEIGHTED_METRICS, weighted
from clickflax.tasks.ranking_metrics import RANKING_METRICS, metrics_by_sequence


class Users(NamedTuple):
    """What each user adds to the mean of a metric over all questions, and who was asked what."""

    value: Float[np.ndarray, " U"]
    sequence: Int[np.ndarray, " T"]  # of each target
    target: Int[np.ndarray, " T"]

    def alike(self, other: Any) -> bool:
        """Whether the same users were asked for the same."""
        return (
            isinstance(other, Users)
            and np.array_equal(self.sequence, other.sequence)
            and np.array_equal(self.target, other.target)
        )

    def apart(self, other: Any) -> Difference:
        """How much higher the metric is here."""
        return difference(self.value, other.value)


class Labels(NamedTuple):
    """A metric of labels, as a mean over seeds, and what was to be told."""

    value: float
    drawn: Float[np.ndarray, " B"]  # the metric of other crowds, see `draw_labels`
    label: Float[np.ndarray, " N"]
    event: Int[np.ndarray, " N"]

    def alike(self, other: Any) -> bool:
        """Whether the same was to be told of the same events."""
        return (
            isinstance(other, Labels)
            and np.array_equal(self.event, other.event)
            and np.array_equal(self.label, other.label)
        )

    def apart(self, other: Any) -> Difference:
        """How much higher the metric is here."""
        drawn = self.drawn - other.drawn
        return of_draws(self.value - other.value, drawn[np.isfinite(drawn)])


class Ranked(NamedTuple):
    """A metric of a ranking, such as next_item/ndcg@10: of which task (None: of the only one), and
    at which cut-off.
    """

    task: str | None
    name: str
    cutoff: int


def ranked(metric: str) -> Ranked | None:
    """What a metric of a ranking is; None for one of labels or of lists."""
    task, _, own = metric.rpartition("/")
    name, _, k = own.partition("@")
    if name not in RANKING_METRICS or not k.isdigit() or "cold" in task.split("/"):
        return None
    return Ranked(task or None, own, int(k))


def per_user(paths: Sequence[pathlib.Path], metric: Ranked) -> Users | str:
    """The mean over seeds of what each user adds to a metric; or why there is none."""
    found = [users_in(path, metric) for path in paths]
    if not all(one.alike(found[0]) for one in found):
        return "its seeds were asked of different users"
    if len(found[0].value) < 2:
        return "its questions are of one user"
    return found[0]._replace(value=np.mean([one.value for one in found], axis=0))


def per_label(paths: Sequence[pathlib.Path], metric: str) -> Labels | str | None:
    """The mean over seeds of a metric of labels, also of crowds that are drawn; or why there is
    none; None where it is not made of what is kept.
    """
    rows = [arrays_of(path) for path in paths]
    first = rows[0]
    if metric == "log_loss" and np.issubdtype(first["prediction"].dtype, np.integer):  # a class
        return None
    if any("sequence" not in one for one in rows):
        return "its rows do not tell whose the labels are: evaluate its runs again"
    if not all(np.array_equal(one[k], first[k]) for one in rows for k in ("event", "label")):
        return "its seeds were asked of different labels"
    if len(np.unique(first["sequence"])) < 2:
        return "its labels are of one sequence"
    seeds = [weighted(metric, one["prediction"], one["label"]) for one in rows]

    def mean(weight: Float[np.ndarray, "draws N"]) -> Float[np.ndarray, " draws"]:
        return np.mean([seed(weight) for seed in seeds], axis=0)

    value = float(mean(np.ones((1, len(first["label"]))))[0])
    if np.isnan(value):
        return None
    return Labels(value, draw_labels(first["sequence"], mean), first["label"], first["event"])


def users_in(path: pathlib.Path, metric: Ranked) -> Users:
    """The users of a file of places, in the order of the log."""
    rows = arrays_of(path)
    found = metrics_by_sequence(rows, (metric.cutoff,))
    share = found["examples"] * (len(found["sequence"]) / found["examples"].sum())
    return Users(found[metric.name] * share, rows["sequence"], rows["target"])


def arrays_of(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The columns of a file of a run, whose lines are numbers."""
    return {name: column.to_numpy() for name, column in columns_of(path).items()}


def columns_of(path: pathlib.Path) -> dict[str, Any]:
    """The columns of a Parquet file of a run."""
    try:
        table = read_rows(path)
    except (OSError, ValueError) as error:
        if not path.is_file():
            raise
        raise ValueError(
            f"{path} is no whole Parquet file ({error}): `clickflax evaluate` makes it again."
        ) from None
    return {name: table[name] for name in table.column_names}


def answer_of(out: pathlib.Path, cell: Cell, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a cell, None as long as there is none."""
    path = folder_of(out, cell) / f"{record_of(asked)}.json"
    return read_json(path) if path.is_file() else None


def rows_of(
    out: pathlib.Path,
    cell: Cell,
    asked: Mapping[str, Any],
    task: str | None = None,
    more: str = "",
) -> pathlib.Path:
    """The file of a cell that has a line for each target of a task, of the first one by default, or
    one beside it.
    """
    folder = folder_of(out, cell)
    task = task or read_json(folder / "config.json")["tasks"][0]
    return folder / f"{record_of(asked)}.{task}{more}.parquet"


def rows_behind(
    out: pathlib.Path, cells: Sequence[Cell], asked: Mapping[str, Any], metric: str
) -> Users | Labels | str | None:
    """What a metric of the seeds of a config is made of; or why that cannot be told; None where
    they do not have it, or it is not compared.
    """
    kind, (task, _, name) = ranked(metric), metric.rpartition("/")
    if kind is None and name not in WEIGHTED_METRICS:
        return None
    if not all(metric in (answer_of(out, cell, asked) or {}) for cell in cells):
        return None
    paths = [rows_of(out, cell, asked, kind.task if kind else task or None) for cell in cells]
    for cell, path in zip(cells, paths, strict=True):
        if not path.is_file():
            return f"cells/{cell.name} has no {path.name}"
    return per_user(paths, kind) if kind else per_label(paths, name)


def asked_apart(
    out: pathlib.Path, one: Cell, other: Cell, asked: Mapping[str, Any], metric: str
) -> str:
    """In what two cells were asked to rank other things, nothing where they were not."""
    kind = ranked(metric)
    if kind is None:  # labels are compared by what is told of the same events
        return ""
    records = (answer_of(out, cell, asked) or {} for cell in (one, other))
    ours, theirs = (ranking_protocol(record, kind.task) for record in records)
    return ", ".join(
        f"{key} {ours[key]!r}, not {theirs[key]!r}" for key in ours if ours[key] != theirs[key]
    )


def differences(
    out: pathlib.Path,
    done: Mapping[str, Sequence[Cell]],
    asked: Mapping[str, Any],
    baseline: str,
    metric: str,
) -> dict[str, tuple[Difference, float] | str]:
    """How every config differs from the baseline in a metric, and how likely that is by chance
    among all of them; of the seeds that both have. Or why one cannot be compared.
    """
    known = functools.cache(  # the baseline is read once for all configs with the same seeds
        lambda config, seeds: rows_behind(
            out, [cell for cell in done[config] if cell.seed in seeds], asked, metric
        )
    )
    found: dict[str, Difference] = {}
    reasons: dict[str, str] = {}
    for config, cells in done.items():
        seeds = frozenset(cell.seed for cell in cells) & {cell.seed for cell in done[baseline]}
        if config == baseline or not seeds:
            continue
        ours, theirs = known(config, seeds), known(baseline, seeds)
        if ours is None or theirs is None:
            continue
        if isinstance(ours, str) or isinstance(theirs, str):
            reasons[config] = ours if isinstance(ours, str) else f"{baseline}: {theirs}"
        elif not ours.alike(theirs):
            reasons[config] = f"asked of others than {baseline}"
        elif apart := asked_apart(out, cells[0], done[baseline][0], asked, metric):
            reasons[config] = f"asked otherwise than {baseline}: {apart}"
        else:
            found[config] = ours.apart(theirs)
    p = holm({config: one.p_bootstrap for config, one in found.items()})
    return {**{config: (one, p[config]) for config, one in found.items()}, **reasons}
