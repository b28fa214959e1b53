"""What is trained on, and which baskets are asked about: the split of parts of sequences."""

import numpy as np
from jaxtyping import Int

from clickflax.data.batches import Windows
from clickflax.data.splits.common import (
    Split,
    SplitOptions,
    check_part,
    draw_validation_users,
    period,
    split_moments,
)
from clickflax.data.store import Dataset


def split_baskets(
    name: str, dataset: Dataset, item: Int[np.ndarray, " E"], options: SplitOptions
) -> Split:
    """The different items of a part are the targets, what was before it in its sequence is the
    history: with "leave_one_out" the last part is the test, the one before it the validation; with
    "time", the parts that begin in the period of each, all of them as with "time_each".
    """
    check_part(name, dataset.source_split)
    if name not in BASKETS:
        raise ValueError(f"data.split={name!r}: baskets want one of {sorted(BASKETS)}.")
    return BASKETS[name](dataset, item, options)


def last_baskets(dataset: Dataset, item: Int[np.ndarray, " E"], options: SplitOptions) -> Split:
    """The last part of each sequence, and the one before it."""
    bounds, start = dataset.session_bounds, dataset.offsets[:-1]
    last = np.searchsorted(bounds, dataset.offsets[1:]) - 1
    parts = last - np.searchsorted(bounds, start) + 1
    tested = np.flatnonzero(parts >= 2)
    more = np.flatnonzero(parts >= 3)
    begin, end = bounds[last - 1][more], bounds[last][more]
    drawn = draw_validation_users(more, begin, end, item, options.validation_users)
    held = np.where(parts >= 2, 1, 0)
    held[drawn] = 2
    return Split(
        Windows(start, bounds[last + 1 - held]),
        period(drawn, start[drawn], bounds[last - 1][drawn], bounds[last][drawn], item),
        period(tested, start[tested], bounds[last][tested], bounds[last + 1][tested], item),
        {"sequences of one part": int((parts < 2).sum())},
    )


def later_baskets(dataset: Dataset, item: Int[np.ndarray, " E"], options: SplitOptions) -> Split:
    """The parts that begin in a period; all events before the first period are trained on."""
    first, second, last = split_moments(dataset.columns, options)
    time = dataset.columns["time"]
    begin, end = dataset.session_bounds[:-1], dataset.session_bounds[1:]
    sequence = np.searchsorted(dataset.offsets, begin, side="right") - 1
    start = dataset.offsets[sequence]
    later, known = time[begin] >= first, begin > start
    tested = np.flatnonzero(known & (time[begin] >= second) & (time[begin] < last))
    validated = np.flatnonzero(known & later & (time[begin] < second))
    drawn = draw_validation_users(
        validated, begin[validated], end[validated], item, options.validation_users
    )
    earlier = np.concatenate([[0], np.cumsum(time < first)])
    trained = dataset.offsets[:-1] + np.diff(earlier[dataset.offsets])
    return Split(
        Windows(dataset.offsets[:-1], trained),
        period(sequence[drawn], start[drawn], begin[drawn], end[drawn], item),
        period(sequence[tested], start[tested], begin[tested], end[tested], item),
        {
            "parts without a history": int((later & ~known & (time[begin] < last)).sum()),
            "parts after the test": int((time[begin] >= last).sum()),
        },
    )


BASKETS = {"leave_one_out": last_baskets, "time": later_baskets, "time_each": later_baskets}
