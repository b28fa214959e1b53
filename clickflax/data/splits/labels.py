"""Questions whose answer is no item: a label of some events, and what may be read of a sequence.

purchase   will a purchase follow in this part (without `data.chain`, in this sequence)? Asked at
           every event before the first one, or after some events, or at the last one before it
returns    will this purchase come back? Asked at every purchase; a return is read as a purchase
label      what a file says of a sequence, which is asked at its last event, or of an event
"""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import duckdb
import numpy as np
from jaxtyping import Float, Int, Shaped

from clickflax.batch import UNK
from clickflax.data.batches import Windows
from clickflax.data.splits.common import SplitOptions, check_part, events_inside, split_moments
from clickflax.data.store import Dataset


class LabelOptions(NamedTuple):
    """See `config.label`."""

    buy: str
    back: str
    after: int
    path: str


class LabelledEvents(NamedTuple):
    """Ranges of events that may be read, and the label of each event, NaN where none is asked.

    A label is known at event `known`; `columns` are to be read instead of those of the log.
    `weight` is what each label weighs, where a file says it.
    """

    ranges: Windows
    label: Float[np.ndarray, " E"]
    known: Int[np.ndarray, " E"]
    columns: Mapping[str, Shaped[np.ndarray, " E"]]
    dropped: dict[str, int]
    weight: Float[np.ndarray, " E"] | None = None


class LabelExamples(NamedTuple):
    """Ranges of events, and the labels that are asked for in them."""

    ranges: Windows
    label: Float[np.ndarray, " E"]

    def __len__(self) -> int:
        return int(np.isfinite(self.label).sum())


class LabelSplit(NamedTuple):
    """Labels to train on, those of the validation and of the test, and what fell out and why."""

    train: LabelExamples
    validation: LabelExamples
    test: LabelExamples
    dropped: dict[str, int]


def action_id(dataset: Dataset, action: str) -> int:
    """The id of an action. Raises ValueError where the log has none of that name."""
    actions = dataset.vocabulary("action")
    (id,) = actions.ids([action])
    if id == UNK:
        raise ValueError(
            f"{dataset.path} has no action {action!r}; these are there: {sorted(actions.tokens())}."
        )
    return int(id)


def purchase(dataset: Dataset, options: LabelOptions) -> LabelledEvents:
    """1 where a purchase follows, 0 where none does, known at the end of the part.

    `options.after` 0: asked at every event; -1: at the last one; else after so many events. What
    comes after is not read; where there are several parts, it is the past of later questions.
    """
    start, stop = dataset.session_bounds[:-1], dataset.session_bounds[1:]
    action = np.asarray(dataset.ids("action"))
    back = dataset.vocabulary("action").ids([options.back])  # a purchase too, where there are any
    bought = (action == action_id(dataset, options.buy)) | (action == back)
    first = np.minimum.reduceat(np.where(bought, np.arange(len(bought)), len(bought)), start)
    end = np.minimum(first, stop)
    kept = end - start >= max(options.after, 1)
    if options.after > 0:
        end = start + options.after
    ranges = Windows(start[kept], end[kept])
    asked = events_inside(ranges, dataset.events)
    if options.after:
        asked = np.isin(np.arange(dataset.events), ranges.stop - 1)
    owner = np.repeat(np.arange(len(start)), stop - start)
    label = np.where(asked, (first < stop)[owner], np.nan)
    if dataset.sessions is not None:
        ranges = Windows(dataset.offsets[:-1], dataset.offsets[1:])
    what = "sequences" if dataset.sessions is None else "parts"
    why = f"{what} with fewer than {max(options.after, 1)} events before a purchase"
    return LabelledEvents(ranges, label, (stop - 1)[owner], {}, {why: int((~kept).sum())})


def returns(dataset: Dataset, options: LabelOptions) -> LabelledEvents:
    """1 at a purchase that came back, 0 at another one; taken as known at once, as the log does not
    say when it came back.
    """
    action = np.asarray(dataset.ids("action"))
    buy, back = action_id(dataset, options.buy), action_id(dataset, options.back)
    label = np.where((action == buy) | (action == back), action == back, np.nan)
    start, stop = dataset.offsets[:-1], dataset.offsets[1:]
    kept = np.add.reduceat(np.isfinite(label), start) > 0
    read = {"action": np.where(action == back, action.dtype.type(buy), action)}
    dropped = {"sequences without a purchase": int((~kept).sum())}
    ranges = Windows(start[kept], stop[kept])
    return LabelledEvents(ranges, label, np.arange(dataset.events), read, dropped)


class Row(NamedTuple):
    """A row of a file of labels; the place of the event is None where the last one is meant."""

    sequence: str
    label: float
    event: int | None
    weight: float | None


def read_rows(path: str) -> tuple[list[Row], bool]:
    """The rows that have a label, of a CSV or Parquet file, and whether labels have weights.

    Raises ValueError for a weight that is none.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"config.label.path={path!r} is not a file.")
    con = duckdb.connect()
    # As text: a token such as 007 is no number.
    read = "read_parquet(?)" if path.endswith(".parquet") else "read_csv(?, all_varchar = true)"
    names = [name for name, *_ in con.execute(f"DESCRIBE FROM {read}", [path]).fetchall()]
    if not {"sequence", "label"} <= set(names):
        raise ValueError(f"{path} has the columns {sorted(names)}, not sequence and label.")
    event = "event::BIGINT" if "event" in names else "NULL::BIGINT"
    weight = "weight::DOUBLE" if "weight" in names else "NULL::DOUBLE"
    chosen = f"sequence::VARCHAR, label::DOUBLE, {event}, {weight}"
    query = f"SELECT {chosen} FROM {read} WHERE label IS NOT NULL"
    rows = [Row(*values) for values in con.execute(query, [path]).fetchall()]
    for row in rows if "weight" in names else ():
        if row.weight is None or not 0 <= row.weight < math.inf:
            raise ValueError(
                f"{path} has the weight {row.weight} for a label of {row.sequence!r}; a weight is "
                "a finite number, 0 or more."
            )
    return rows, "weight" in names


def labels_from_file(dataset: Dataset, options: LabelOptions) -> LabelledEvents:
    """The labels of a file with columns sequence, label and, where they are labels of events,
    event: its place in the sequence, 0 is the first, and weight, where there is one. Raises
    ValueError for a sequence or an event that is not there, or that is there twice.
    """
    path, (rows, weighed) = options.path, read_rows(options.path)
    tokens = dataset.sequence_column("token") or []
    number = {token: place for place, token in enumerate(tokens)}
    missing = [row.sequence for row in rows if row.sequence not in number]
    if missing:
        raise ValueError(
            f"{path} has labels for {len(missing):,} sequences that {dataset.path} does not have, "
            f"such as {missing[0]!r}."
        )
    label, weight = np.full((2, dataset.events), np.nan)
    for token, value, place, counts in rows:
        start, stop = dataset.offsets[number[token]], dataset.offsets[number[token] + 1]
        event = stop - 1 if place is None else start + place
        if not start <= event < stop:
            raise ValueError(
                f"{path}: sequence {token!r} has {stop - start} events, and none has the place "
                f"{place}."
            )
        if not np.isnan(label[event]):
            raise ValueError(f"{path} has two labels for an event of {token!r}.")
        label[event], weight[event] = value, np.nan if counts is None else counts
    kept = np.unique([number[row.sequence] for row in rows]).astype(np.int64)
    ranges = Windows(dataset.offsets[kept], dataset.offsets[kept + 1])
    dropped = {"sequences without a label": dataset.sequences - len(kept)}
    known = np.arange(dataset.events)
    return LabelledEvents(ranges, label, known, {}, dropped, weight if weighed else None)


LABEL_SOURCES: dict[str, Callable[[Dataset, LabelOptions], LabelledEvents]] = {
    "purchase": purchase,
    "returns": returns,
    "label": labels_from_file,
}


def split_labels(
    dataset: Dataset, labelled: LabelledEvents, name: str, options: SplitOptions
) -> LabelSplit:
    """The labels before a moment, those of the period after it, and those from another one on.

    With `name` "time" (or "time_each"), a label is trained on when it was known before the
    validation begins, and tested when its event is not before the test; one that was known only
    after the end of its period is dropped. With "sequence_time" both go by the whole sequence. With
    "parts", the source's own test file is the test, and the validation is the last tenth of the
    sequences of its training file.
    """
    check_part(name, dataset.source_split)
    asked = np.isfinite(labelled.label)
    if name in ("time", "time_each", "sequence_time"):
        first, second, end = split_moments(dataset.columns, options)
        time = np.asarray(dataset.columns["time"])
        known = time[labelled.known]
        if name == "sequence_time":
            lengths = np.diff(dataset.offsets)
            time = np.repeat(time[dataset.offsets[:-1]], lengths)
            known = np.repeat(dataset.columns["time"][dataset.offsets[1:] - 1], lengths)
        train = known < first
        validation = (time >= first) & (known < second)
        test = (time >= second) & (known < end)
    elif name == "parts":
        if dataset.source_split is None:
            raise ValueError(f"data.split='parts': {dataset.path} has no test file of its own.")
        held = np.array(dataset.source_split, np.int64) * 2  # 0 training, 1 validation, 2 test
        trained = np.flatnonzero(held == 0)
        held[trained[len(trained) - len(trained) // 10 :]] = 1
        train, validation, test = np.repeat(held, np.diff(dataset.offsets)) == [[0], [1], [2]]
    else:
        raise ValueError(
            f"data.split={name!r} holds out items; labels want time, sequence_time or parts."
        )
    lost = int((asked & ~(train | validation | test)).sum())
    dropped = {**labelled.dropped, "labels that were known after the end of their period": lost}
    return LabelSplit(
        _part(labelled, asked & train),
        _part(labelled, asked & validation),
        _part(labelled, asked & test),
        dropped,
    )


def _part(labelled: LabelledEvents, some: np.ndarray) -> LabelExamples:
    """The labels of some events, and their ranges, up to the last of these events."""
    start, stop = labelled.ranges
    count = np.concatenate([[0], np.cumsum(some)])
    asks = count[stop] > count[start]
    last = np.maximum.accumulate(np.where(some, np.arange(len(some)), -1))
    end = last[stop[asks] - 1] + 1
    return LabelExamples(Windows(start[asks], end), np.where(some, labelled.label, np.nan))
