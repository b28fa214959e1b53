"""Labels of events, the events that may be read for them, and their splits.

purchase   whether a purchase follows in the session (in the sequence, without `data.chain`):
           at every event before the first purchase, after some events, or at the last one before it
returns    whether a purchase will be returned, at every purchase; a return is read as a purchase
label      a value of a file, at the last event of a sequence or at any event
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from clickflax.batch import UNK
from clickflax.data.batches import Windows
from clickflax.data.splits.common import (
    SplitOptions,
    check_source_split,
    events_inside,
    required_times,
    split_moments,
)
from clickflax.data.splits.label_files import read_label_file
from clickflax.data.store import Dataset


class LabelOptions(NamedTuple):
    """The knobs of `config.label` that labels depend on."""

    buy: str
    back: str
    after: int
    path: str


class LabelledEvents(NamedTuple):
    """The label of each event, NaN without one, and the ranges of events that may be read.

    The label of event e is known from event `known[e]` on. `columns` are read instead of those of
    the log. `weight` has sample weights, if there are any.
    """

    ranges: Windows
    label: Float[np.ndarray, " E"]
    known: Int[np.ndarray, " E"]
    columns: Mapping[str, Shaped[np.ndarray, " E"]]
    dropped: dict[str, int]
    weight: Float[np.ndarray, " E"] | None = None


class LabelExamples(NamedTuple):
    """Ranges of events, and the labels to predict in them; NaN at all other events."""

    ranges: Windows
    label: Float[np.ndarray, " E"]

    def __len__(self) -> int:
        return int(np.isfinite(self.label).sum())


class LabelSplit(NamedTuple):
    """Labels of the three splits, and the number of what was dropped by reason."""

    train: LabelExamples
    validation: LabelExamples
    test: LabelExamples
    dropped: dict[str, int]


def action_id(dataset: Dataset, action: str) -> int:
    """Returns the id of an action. Raises ValueError if the log has no such action."""
    actions = dataset.vocabulary("action")
    (id,) = actions.ids([action])
    if id == UNK:
        raise ValueError(
            f"{dataset.path} has no action {action!r}; it has {sorted(actions.tokens())}."
        )
    return int(id)


def purchase(dataset: Dataset, options: LabelOptions) -> LabelledEvents:
    """Labels events by whether a purchase follows in the session: 1 or 0, known at its end.

    If `options.after` is 0, every event before the first purchase has a label; if it is -1, the
    last of them; if it is n, the n-th event of the session. Later events of the session are read
    for later sessions only.
    """
    start, stop = dataset.session_bounds[:-1], dataset.session_bounds[1:]
    action = np.asarray(dataset.ids("action"))
    returned = dataset.vocabulary("action").ids([options.back])  # also a purchase; UNK if none
    bought = (action == action_id(dataset, options.buy)) | (action == returned)
    first = np.minimum.reduceat(np.where(bought, np.arange(len(bought)), len(bought)), start)
    end = np.minimum(first, stop)
    kept = end - start >= max(options.after, 1)
    if options.after > 0:
        end = start + options.after
    ranges = Windows(start[kept], end[kept])
    labelled = events_inside(ranges, dataset.events)
    if options.after:
        labelled = np.isin(np.arange(dataset.events), ranges.stop - 1)
    owner = np.repeat(np.arange(len(start)), stop - start)
    label = np.where(labelled, (first < stop)[owner], np.nan)
    if dataset.sessions is not None:
        ranges = Windows(dataset.offsets[:-1], dataset.offsets[1:])
    unit = "sequences" if dataset.sessions is None else "sessions"
    reason = f"{unit} with fewer than {max(options.after, 1)} events before a purchase"
    return LabelledEvents(ranges, label, (stop - 1)[owner], {}, {reason: int((~kept).sum())})


def returns(dataset: Dataset, options: LabelOptions) -> LabelledEvents:
    """Labels purchases: 1 if the item came back, else 0.

    A label counts as known at once, as the log does not say when the item came back.
    """
    action = np.asarray(dataset.ids("action"))
    buy, back = action_id(dataset, options.buy), action_id(dataset, options.back)
    label = np.where((action == buy) | (action == back), action == back, np.nan)
    start, stop = dataset.offsets[:-1], dataset.offsets[1:]
    kept = np.add.reduceat(np.isfinite(label), start) > 0
    columns = {"action": np.where(action == back, action.dtype.type(buy), action)}
    dropped = {"sequences without a purchase": int((~kept).sum())}
    ranges = Windows(start[kept], stop[kept])
    return LabelledEvents(ranges, label, np.arange(dataset.events), columns, dropped)


def labels_from_file(dataset: Dataset, options: LabelOptions) -> LabelledEvents:
    """Labels events by a file with the columns sequence and label, and optionally event and weight.

    Raises ValueError for a sequence or an event that does not exist, and for a second label of an
    event.
    """
    path = options.path
    rows, has_weights = read_label_file(path)
    tokens = dataset.sequence_column("token") or []
    number = {token: sequence for sequence, token in enumerate(tokens)}
    missing = [row for row in rows if row.sequence not in number]
    if missing:
        raise ValueError(
            f"{path} has labels for {len(missing):,} sequences that {dataset.path} does not have, "
            f"such as {missing[0].sequence!r} ({missing[0].where})."
        )
    label, weight = np.full((2, dataset.events), np.nan)
    for row in rows:
        sequence = number[row.sequence]
        start, stop = dataset.offsets[sequence], dataset.offsets[sequence + 1]
        event = stop - 1 if row.event is None else start + row.event
        if not start <= event < stop:
            raise ValueError(
                f"{row.where}: sequence {row.sequence!r} has {stop - start} events, from 0 to "
                f"{stop - start - 1}, but a label for event {row.event}."
            )
        if not np.isnan(label[event]):
            raise ValueError(f"{row.where}: two labels for an event of {row.sequence!r}.")
        label[event] = row.label
        weight[event] = np.nan if row.weight is None else row.weight
    kept = np.unique([number[row.sequence] for row in rows]).astype(np.int64)
    ranges = Windows(dataset.offsets[kept], dataset.offsets[kept + 1])
    dropped = {"sequences without a label": dataset.sequences - len(kept)}
    known = np.arange(dataset.events)
    return LabelledEvents(ranges, label, known, {}, dropped, weight if has_weights else None)


LABEL_SOURCES: dict[str, Callable[[Dataset, LabelOptions], LabelledEvents]] = {
    "purchase": purchase,
    "returns": returns,
    "label": labels_from_file,
}


def split_labels(
    dataset: Dataset, labelled: LabelledEvents, name: str, options: SplitOptions
) -> LabelSplit:
    """Splits labels by time, by the time of sequences, or by the source's test file.

    "time" and "time_each": training labels are known before the validation begins; validation and
    test labels are at events of their period, and known before its end. "sequence_time": the same,
    where the first event of the sequence is in the period and the last one before its end. "parts":
    the test is the source's test file, the validation the last tenth of the other sequences.

    Raises ValueError for any other split, and if the test file would be trained on.
    """
    check_source_split(name, dataset.source_split)
    if name in ("time", "time_each", "sequence_time"):
        masks = _masks_of_periods(dataset, labelled, name, options)
    elif name == "parts":
        masks = _masks_of_files(dataset)
    else:
        raise ValueError(
            f"config.data.split={name!r} holds out items; labels need time, sequence_time or parts."
        )
    has_label = np.isfinite(labelled.label)
    late = int((has_label & ~np.any(masks, axis=0)).sum())
    dropped = {**labelled.dropped, "labels that were known after the end of their period": late}
    train, validation, test = (_select_labels(labelled, has_label & mask) for mask in masks)
    return LabelSplit(train, validation, test, dropped)


def _masks_of_periods(
    dataset: Dataset, labelled: LabelledEvents, name: str, options: SplitOptions
) -> tuple[Bool[np.ndarray, " E"], Bool[np.ndarray, " E"], Bool[np.ndarray, " E"]]:
    """Returns masks of the events of training, validation and test, by time."""
    time = required_times(dataset.columns.get("time"))
    first, second, end = split_moments(time, options)
    known = time[labelled.known]
    if name == "sequence_time":
        lengths = np.diff(dataset.offsets)
        known = np.repeat(time[dataset.offsets[1:] - 1], lengths)
        time = np.repeat(time[dataset.offsets[:-1]], lengths)
    validation = (time >= first) & (known < second)
    return known < first, validation, (time >= second) & (known < end)


def _masks_of_files(
    dataset: Dataset,
) -> tuple[Bool[np.ndarray, " E"], Bool[np.ndarray, " E"], Bool[np.ndarray, " E"]]:
    """Returns masks of the events of training, validation and test, by the source's test file.

    Raises ValueError if the source has no test file.
    """
    if dataset.source_split is None:
        raise ValueError(f"config.data.split='parts': {dataset.path} has no test file of its own.")
    split = np.array(dataset.source_split, np.int64) * 2  # 0 training, 1 validation, 2 test
    trained = np.flatnonzero(split == 0)
    split[trained[len(trained) - len(trained) // 10 :]] = 1
    split = np.repeat(split, np.diff(dataset.offsets))
    return split == 0, split == 1, split == 2


def _select_labels(labelled: LabelledEvents, selected: Bool[np.ndarray, " E"]) -> LabelExamples:
    """Returns the labels of the selected events, and their ranges up to the last such event."""
    start, stop = labelled.ranges
    count = np.append(0, np.cumsum(selected))
    kept = count[stop] > count[start]
    last = np.maximum.accumulate(np.where(selected, np.arange(len(selected)), -1))
    end = last[stop[kept] - 1] + 1
    return LabelExamples(Windows(start[kept], end), np.where(selected, labelled.label, np.nan))
