"""Windows of events, packed into rows; `batch(seed, step)` is a pure function."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from clickflax.batch import CLS, PAD, Batch, reserved_value, set_reserved
from clickflax.data.packing import Packing, cells, deal, one_each, pack, ramp, slots_of


class Windows(NamedTuple):
    """Half-open ranges of events."""

    start: Int[np.ndarray, " W"]
    stop: Int[np.ndarray, " W"]


def cut_last(ranges: Windows, longest: int, stride: int) -> Windows:
    """The last `longest` events of each range."""
    return Windows(np.maximum(ranges.start, ranges.stop - longest), ranges.stop)


def cut_sliding(ranges: Windows, longest: int, stride: int) -> Windows:
    """Windows of `longest` events, from the last backwards in strides, until all are covered."""
    beyond = np.maximum(ranges.stop - ranges.start - longest, 0)
    count = 1 + -(-beyond // stride)
    owner = np.repeat(np.arange(len(count)), count)
    back = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    stop = ranges.stop[owner] - back * stride
    return Windows(np.maximum(ranges.start[owner], stop - longest), stop)


def keep_whole(ranges: Windows, longest: int, stride: int) -> Windows:
    """The ranges themselves: each epoch crops its own `longest` events."""
    return ranges


WINDOWS: dict[str, Callable[[Windows, int, int], Windows]] = {
    "last": cut_last,
    "sliding": cut_sliding,
    "random": keep_whole,
}


def shift_left(values: Shaped[np.ndarray, "E ..."]) -> Shaped[np.ndarray, "E ..."]:
    """What the event after each has, whatever its sequence; PAD or NaN after the last."""
    return set_reserved(
        PAD, np.arange(len(values)) == len(values) - 1, np.roll(values, -1, axis=0), np
    )


def fill_rows(
    columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
    windows: Windows,
    row: Int[np.ndarray, " N"],
    shape: tuple[int, int],
    *,
    position_from: str,
    labels: Mapping[str, Shaped[np.ndarray, " E"]] | None = None,
    follow: bool = False,
    opens: bool = False,
    ask: int | None = None,
    told: Mapping[str, Any] | None = None,
) -> Batch:
    """Rows of `shape` with window n in row `row[n]`; `row` ascends.

    `follow` keeps the last event of a window out: it is only what followed the one before. A window
    `opens` with CLS, and ends with the reserved id `ask` in every variable: MASK or SEP. At its
    last place, variables have what is `told` of them. `labels` come along with the events; CLS has
    those of the last one.
    """
    events = windows.stop - windows.start - follow
    tokens = opens + events + (ask is not None)
    first_of_row = np.searchsorted(row, np.arange(shape[0]))  # windows before each row
    cell = cells(row, tokens, shape[1])
    index = np.arange(len(row))

    def spread(values: Shaped[np.ndarray, "T ..."]) -> Shaped[np.ndarray, "B L ..."]:
        size, more = shape[0] * shape[1], values.shape[1:]
        flat = np.full((size, *more), reserved_value(PAD, values.dtype), values.dtype)
        flat[cell] = values
        return flat.reshape(*shape, *more)

    place = ramp(tokens)
    source = np.repeat(windows.start, tokens) + place - opens
    last = np.repeat(windows.start + events - 1, tokens)
    opening = (place == 0) & opens
    asked = source > last
    source = np.where(opening | asked, last, source)
    variables = {}
    for name, column in columns.items():
        values = column[source]
        if opens:
            values = set_reserved(CLS, opening, values, np)
        if ask is not None:
            values = set_reserved(ask, asked, values, np)
        if told and name in told:
            values[np.cumsum(tokens) - 1] = told[name]
        variables[name] = spread(values)
    if position_from == "end":
        place = np.repeat(tokens, tokens) - 1 - place
    segment = spread(np.repeat(index - first_of_row[row] + 1, tokens).astype(np.int32))
    found = {name: spread(values[source]) for name, values in (labels or {}).items()}
    return Batch(variables, segment, spread(place.astype(np.int32)), found)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingBatches:
    """The endless stream of training rows; each window comes once an epoch.

    The lengths of the windows are the same in every epoch, and so is the packing; an epoch deals
    windows of equal length to the slots of that length, and shuffles the rows.
    """

    columns: Mapping[str, Shaped[np.ndarray, "E ..."]]
    labels: Mapping[str, Shaped[np.ndarray, " E"]]
    windows: Windows
    packing: Packing
    rows: int  # of a batch
    row_length: int  # tokens
    dropped: int  # ranges without a single target
    longest: int  # events of a window; a longer range is cropped at random in each epoch
    position_from: str
    follow: bool
    opens: bool

    @property
    def windows_per_batch(self) -> float:
        """Windows of a batch, on average."""
        return self.rows * len(self.windows.start) / self.packing.rows

    def batch(
        self, seed: int, step: int, rows_divide_by: int = 1, own: slice | None = None
    ) -> Batch:
        """The rows of step `step`, or only its `own` ones, from one number to another: always the
        same for the same seed.

        Empty rows are added until their number is a multiple of `rows_divide_by`.
        """
        rows = -(-self.rows // rows_divide_by) * rows_divide_by
        own = own or slice(0, rows)
        first = step * self.rows
        wanted = np.arange(first + own.start, first + max(own.start, min(own.stop, self.rows)))
        none = np.zeros(0, np.int64)
        windows, row = [Windows(none, none)], [none]  # all of its own may be empty
        for epoch in np.unique(wanted // self.packing.rows):
            here = np.flatnonzero(wanted // self.packing.rows == epoch)
            cut, order = epoch_plan(self, seed, int(epoch))
            slots, which = slots_of(self.packing, order[wanted[here] % self.packing.rows])
            windows.append(Windows(cut.start[slots], cut.stop[slots]))
            row.append(here[which])
        return fill_rows(
            self.columns,
            Windows(*(np.concatenate(ends) for ends in zip(*windows, strict=True))),
            np.concatenate(row),
            (own.stop - own.start, self.row_length),
            position_from=self.position_from,
            labels=self.labels,
            follow=self.follow,
            opens=self.opens,
        )


@functools.lru_cache(maxsize=8)
def epoch_plan(
    batches: TrainingBatches, seed: int, epoch: int
) -> tuple[Windows, Int[np.ndarray, " R"]]:
    """The window in each slot, and the order of the rows; kept, as a thousand steps ask for it."""
    chance = np.random.default_rng([seed, epoch])
    start, stop = batches.windows
    events = np.minimum(stop - start, batches.longest)
    dealt = deal(batches.packing, events - batches.follow + batches.opens, chance)
    start, stop, events = start[dealt], stop[dealt], events[dealt]
    start = start + chance.integers(0, stop - start - events, endpoint=True)
    return Windows(start, start + events), chance.permutation(batches.packing.rows)


def training_batches(
    columns: Mapping[str, Shaped[np.ndarray, "E ..."]],
    labels: Mapping[str, Shaped[np.ndarray, " E"]],
    ranges: Windows,
    *,
    max_len: int,
    window: str,
    stride: int,
    packing: bool,
    batch_size: int,
    position_from: str,
    follow: bool,
    opens: bool,
) -> TrainingBatches:
    """Training rows from the events in `ranges`, about `batch_size` windows a batch.

    Ranges without a single target are left out: with `follow`, those of one event. For `follow` and
    `opens` see `fill_rows`.
    """
    if window not in WINDOWS:
        raise ValueError(f"data.window={window!r} is not one of {sorted(WINDOWS)}.")
    if window == "sliding" and not 0 < stride <= max_len - opens:
        raise ValueError(
            f"data.stride={stride} must lie between 1 and {max_len - opens}, the events of a "
            "window: a longer one would skip some."
        )
    longest = max_len + follow - opens
    useful = ranges.stop - ranges.start > follow
    windows = WINDOWS[window](Windows(ranges.start[useful], ranges.stop[useful]), longest, stride)
    if not len(windows.start):
        raise ValueError("No sequence is long enough to train on: each needs two events.")
    lengths = np.minimum(windows.stop - windows.start, longest) - follow + opens
    plan = pack(lengths, max_len) if packing else one_each(lengths)
    rows = max(1, round(batch_size * plan.rows / len(lengths)))
    dropped = int((~useful).sum())
    return TrainingBatches(
        columns=columns,
        labels=labels,
        windows=windows,
        packing=plan,
        rows=rows,
        row_length=max_len,
        dropped=dropped,
        longest=longest,
        position_from=position_from,
        follow=follow,
        opens=opens,
    )
