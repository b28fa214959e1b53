"""Windows of events, packed into rows; `batch(seed, step)` is a pure function."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from clickflax.batch import CLS, PAD, Batch, Registry, reserved_value, set_reserved
from clickflax.data.packing import Packing, deal, one_each, pack, ramp, slots_of, token_cells

PLANS_KEPT = 4  # epochs; a batch needs one or two, and the next one is planned ahead


class Windows(NamedTuple):
    """Half-open ranges of events."""

    start: Int[np.ndarray, " W"]
    stop: Int[np.ndarray, " W"]


@dataclasses.dataclass(frozen=True)
class BatchLayout:
    """Layout of windows in rows, the same in training, evaluation and inference."""

    max_len: int  # tokens of a row
    packing: bool  # several windows share a row; False: one window a row
    position_from: str  # the "end" or the "start" of a window has position 0
    cls: bool  # a window begins with CLS

    def pack(self, lengths: Int[np.ndarray, " W"]) -> Packing:
        """Packs windows of these lengths, in tokens."""
        return pack(lengths, self.max_len) if self.packing else one_each(lengths)


class Query(NamedTuple):
    """The end of a history to be answered.

    The reserved id `token`, such as MASK, is appended in every variable; None appends nothing. At
    the last position, each variable of `conditions` has the value given here.
    """

    token: int | None = None
    conditions: Mapping[str, Any] = {}

    @property
    def tokens(self) -> int:
        """Number of tokens appended, 0 or 1."""
        return 0 if self.token is None else 1


def cut_last(ranges: Windows, longest: int, stride: int) -> Windows:
    """Returns the last `longest` events of each range."""
    return Windows(np.maximum(ranges.start, ranges.stop - longest), ranges.stop)


def cut_sliding(ranges: Windows, longest: int, stride: int) -> Windows:
    """Returns windows of `longest` events, from the last backwards in strides, that cover all."""
    beyond = np.maximum(ranges.stop - ranges.start - longest, 0)
    count = 1 + -(-beyond // stride)
    owner = np.repeat(np.arange(len(count)), count)
    back = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    stop = ranges.stop[owner] - back * stride
    return Windows(np.maximum(ranges.start[owner], stop - longest), stop)


def keep_whole(ranges: Windows, longest: int, stride: int) -> Windows:
    """Returns the ranges themselves: each epoch crops its own `longest` events."""
    return ranges


# Functions of ranges, the longest window and the stride, by the value of `config.data.window`.
WINDOWS: Registry[Callable[[Windows, int, int], Windows]] = Registry(
    "window", {"last": cut_last, "sliding": cut_sliding, "random": keep_whole}
)


def shift_left(values: Shaped[np.ndarray, "E ..."]) -> Shaped[np.ndarray, "E ..."]:
    """Returns values of the following event, even of another sequence; PAD or NaN at the last."""
    return set_reserved(
        PAD, np.arange(len(values)) == len(values) - 1, np.roll(values, -1, axis=0), np
    )


def fill_rows(
    columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
    windows: Windows,
    row: Int[np.ndarray, " N"],
    rows: int,
    layout: BatchLayout,
    *,
    labels: Mapping[str, Shaped[np.ndarray, " E"]] | None = None,
    shifted: bool = False,
    query: Query | None = None,
) -> Batch:
    """Returns a batch of `rows` rows with window n in row `row[n]`; `row` ascends.

    With `shifted` labels, which belong to the following event, the last event of a window is the
    target of the one before and no input. CLS has the labels of the last event of its window.
    """
    query = query or Query()
    first_event = int(layout.cls)  # its position in a window
    events = windows.stop - windows.start - int(shifted)
    tokens = first_event + events + query.tokens
    cell = token_cells(row, tokens, layout.max_len)

    def fill(values: Shaped[np.ndarray, "T ..."]) -> Shaped[np.ndarray, "B L ..."]:
        size, more = rows * layout.max_len, values.shape[1:]
        flat = np.full((size, *more), reserved_value(PAD, values.dtype), values.dtype)
        flat[cell] = values
        return flat.reshape(rows, layout.max_len, *more)

    position = ramp(tokens)
    event = np.repeat(windows.start, tokens) + position - first_event
    last_event = np.repeat(windows.start + events - 1, tokens)
    is_cls = position < first_event
    is_query = event > last_event
    event = np.where(is_cls | is_query, last_event, event)
    variables = {}
    for name, column in columns.items():
        values = column[event]
        if layout.cls:
            values = set_reserved(CLS, is_cls, values, np)
        if query.token is not None:
            values = set_reserved(query.token, is_query, values, np)
        if name in query.conditions:
            values[np.cumsum(tokens) - 1] = query.conditions[name]
        variables[name] = fill(values)
    windows_before = np.searchsorted(row, np.arange(rows))  # each row
    segment = np.repeat(np.arange(len(row)) - windows_before[row] + 1, tokens)
    if layout.position_from == "end":
        position = np.repeat(tokens, tokens) - 1 - position
    return Batch(
        variables,
        fill(segment.astype(np.int32)),
        fill(position.astype(np.int32)),
        {name: fill(values[event]) for name, values in (labels or {}).items()},
    )


class EpochPlan(NamedTuple):
    """Order of the training data in an epoch."""

    windows: Windows  # the window in each slot
    order: Int[np.ndarray, " R"]  # of the rows


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingBatches:
    """The endless stream of training rows; each window comes once an epoch.

    The lengths of the windows are the same in every epoch, and so is the packing. An epoch deals
    windows of equal length to the slots of that length, and shuffles the rows.
    """

    columns: Mapping[str, Shaped[np.ndarray, "E ..."]]
    labels: Mapping[str, Shaped[np.ndarray, " E"]]
    windows: Windows
    packing: Packing
    layout: BatchLayout
    rows: int  # of a batch
    dropped: int  # ranges without a single target
    longest: int  # events of a window; a longer range is cropped at random in each epoch
    shifted: bool  # see `fill_rows`

    @property
    def windows_per_batch(self) -> float:
        """Mean number of windows in a batch."""
        return self.rows * len(self.windows.start) / self.packing.rows

    def batch(
        self, seed: int, step: int, rows_divide_by: int = 1, own: slice | None = None
    ) -> Batch:
        """Returns the rows of a step, or only those in the range `own`.

        The same seed and step always give the same rows. Empty rows are added until their number
        is a multiple of `rows_divide_by`.
        """
        rows = -(-self.rows // rows_divide_by) * rows_divide_by
        own = own or slice(0, rows)
        first = step * self.rows
        wanted = np.arange(first + own.start, first + max(own.start, min(own.stop, self.rows)))
        epoch_of = wanted // self.packing.rows
        nothing = np.zeros(0, np.int64)  # the range may have empty rows only
        start, stop, row = [nothing], [nothing], [nothing]
        for epoch in np.unique(epoch_of):
            here = np.flatnonzero(epoch_of == epoch)
            plan = self.epoch_plan(seed, int(epoch))
            slots, nth = slots_of(self.packing, plan.order[wanted[here] % self.packing.rows])
            start.append(plan.windows.start[slots])
            stop.append(plan.windows.stop[slots])
            row.append(here[nth])
        return fill_rows(
            self.columns,
            Windows(np.concatenate(start), np.concatenate(stop)),
            np.concatenate(row),
            own.stop - own.start,
            self.layout,
            labels=self.labels,
            shifted=self.shifted,
        )

    @functools.cached_property
    def epoch_plan(self) -> Callable[[int, int], EpochPlan]:
        """The plan of a seed and an epoch; the latest plans are cached."""
        return functools.lru_cache(PLANS_KEPT)(self._plan_epoch)

    def _plan_epoch(self, seed: int, epoch: int) -> EpochPlan:
        """Deals the windows to the slots, crops those that are too long, and shuffles the rows."""
        chance = np.random.default_rng([seed, epoch])
        start, stop = self.windows
        events = np.minimum(stop - start, self.longest)
        dealt = deal(self.packing, events - int(self.shifted) + int(self.layout.cls), chance)
        start, stop, events = start[dealt], stop[dealt], events[dealt]
        start = start + chance.integers(0, stop - start - events, endpoint=True)
        return EpochPlan(Windows(start, start + events), chance.permutation(self.packing.rows))


def training_batches(
    columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
    labels: Mapping[str, Shaped[np.ndarray, " E"]],
    ranges: Windows,
    layout: BatchLayout,
    *,
    window: str,
    stride: int,
    batch_size: int,
    shifted: bool,
) -> TrainingBatches:
    """Returns training rows of the events in `ranges`, with about `batch_size` windows a batch.

    Ranges without a single target are dropped: with `shifted` labels, those of one event. Raises
    ValueError if no range is left.
    """
    cut = WINDOWS.find(window, "config.data.window")
    longest = layout.max_len - int(layout.cls)  # inputs
    if window == "sliding" and not 0 < stride <= longest:
        raise ValueError(
            f"config.data.stride={stride} must lie between 1 and {longest}, the events of a "
            "window: a longer one would skip some."
        )
    longest += int(shifted)
    useful = ranges.stop - ranges.start > int(shifted)
    windows = cut(Windows(ranges.start[useful], ranges.stop[useful]), longest, stride)
    if not len(windows.start):
        raise ValueError("No sequence is long enough to train on: each needs two events.")
    events = np.minimum(windows.stop - windows.start, longest)
    packing = layout.pack(events - int(shifted) + int(layout.cls))
    return TrainingBatches(
        columns=columns,
        labels=labels,
        windows=windows,
        packing=packing,
        layout=layout,
        rows=max(1, round(batch_size * packing.rows / len(events))),
        dropped=int((~useful).sum()),
        longest=longest,
        shifted=shifted,
    )
