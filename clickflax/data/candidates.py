"""Sampled candidates, among which an evaluation ranks the targets instead of the whole catalog.

They are drawn without replacement, the same for every model: the draw belongs to the protocol.
Sampled metrics differ from those over the catalog, and may put models in another order (Krichene
and Rendle, 2020): they are for comparison with papers that report them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.eval_batches import distinct_items
from clickflax.data.packing import ramp
from clickflax.data.splits.common import Examples

CANDIDATES_SEED = 0
EXAMPLES_AT_ONCE = 4096


class Candidates(NamedTuple):
    """Negatives: example e has the ids `items[offsets[e]:offsets[e + 1]]`."""

    items: Int[np.ndarray, " N"]
    offsets: Int[np.ndarray, " bounds"]


def draw_candidates(
    examples: Examples,
    item: Int[np.ndarray, " E"],
    chance: Float[np.ndarray, " I"],
    negatives: int,
    filter_seen: bool,
    unseen: bool = True,
) -> Candidates:
    """Draws `negatives` ids for each target of an example, with probabilities as of `chance`.

    Targets of the example are never drawn, nor, with `filter_seen`, items of its history. If fewer
    ids are left, all of them are negatives. If not `unseen`, the history is filtered after the
    draw, so that fewer negatives remain.
    """
    ids, counts = [], []
    up_to = np.cumsum(np.where(np.arange(len(chance)) < RESERVED, 0.0, chance))
    for begin in range(0, len(examples), EXAMPLES_AT_ONCE):
        end = min(begin + EXAMPLES_AT_ONCE, len(examples))
        block = slice(*np.searchsorted(examples.owner, [begin, end]))
        owner = examples.owner[block] - begin
        excluded = owner * len(chance) + examples.targets[block]  # pairs of an example and an id
        seen = np.zeros(0, np.int64)
        if filter_seen:
            history = Windows(examples.history.start[begin:end], examples.history.stop[begin:end])
            items, bounds = distinct_items(item, history)
            seen = np.repeat(np.arange(end - begin), np.diff(bounds)) * len(chance) + items
            excluded = np.concatenate([excluded, seen]) if unseen else excluded
        wanted = np.bincount(owner, minlength=end - begin) * negatives
        pairs = draw_pairs(
            np.random.default_rng((CANDIDATES_SEED, begin)), up_to, np.unique(excluded), wanted
        )
        pairs = np.setdiff1d(pairs, seen)
        ids.append(pairs % len(chance))
        counts.append(np.bincount(pairs // len(chance), minlength=end - begin))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([*counts, np.zeros(0, np.int64)]))])
    return Candidates(np.concatenate([*ids, np.zeros(0, np.int64)]), offsets.astype(np.int64))


def draw_pairs(
    random: np.random.Generator,
    up_to: Float[np.ndarray, " I"],
    excluded: Int[np.ndarray, " N"],
    wanted: Int[np.ndarray, " U"],
) -> Int[np.ndarray, " M"]:
    """Draws `wanted[e]` ids for each example e, without replacement and without excluded pairs.

    Returns pairs `e * I + id`, sorted; fewer for an example that has fewer ids left. `up_to` is the
    cumulative sum of the chances of the ids.
    """
    size = len(up_to)
    possible = np.diff(up_to, prepend=0.0) > 0
    lost = excluded[possible[excluded % size]]
    left = int(possible.sum()) - np.bincount(lost // size, minlength=len(wanted))
    goal = np.minimum(wanted, left)
    pairs = np.zeros(0, np.int64)
    missing = goal.copy()
    while missing.any():
        # Draws with replacement of which repeats are dropped are draws without replacement. Twice
        # as many as are missing are drawn, since most of them are new.
        owner = np.repeat(np.arange(len(wanted)), np.where(missing > 0, 2 * missing + 8, 0))
        drawn = np.searchsorted(up_to, random.random(len(owner)) * up_to[-1], side="right")
        new = owner * size + np.minimum(drawn, size - 1)
        _, first = np.unique(new, return_index=True)
        new = new[np.sort(first)]  # in the order of the draws
        new = new[~np.isin(new, excluded) & ~np.isin(new, pairs)]
        owner = new // size
        nth = ramp(np.bincount(owner, minlength=len(wanted)))
        pairs = np.concatenate([pairs, new[nth < missing[owner]]])
        missing = goal - np.bincount(pairs // size, minlength=len(wanted))
    return np.sort(pairs)
