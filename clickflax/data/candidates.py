"""The items among which the targets of examples are ranked, where it is not the whole catalog.

They are drawn without replacement, the same for every model: the draw belongs to the protocol.
Sampled metrics are not those of the whole catalog, and may put models in another order (Krichene
and Rendle, 2020): they are for comparison with papers that have them.
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
EXAMPLES_AT_ONCE = 4096  # examples


class Candidates(NamedTuple):
    """Negatives of each example, those of one behind those of the one before."""

    items: Int[np.ndarray, " N"]  # ids
    offsets: Int[np.ndarray, " bounds"]


def draw_candidates(
    examples: Examples,
    item: Int[np.ndarray, " E"],
    chance: Float[np.ndarray, " I"],
    negatives: int,
    filter_seen: bool,
    unseen: bool = True,
) -> Candidates:
    """So many negatives for each target of an example, drawn by the chance of each id: no targets,
    and nothing of the history where that is filtered. Where fewer are left, all of these.

    Not `unseen`: the history is filtered after they have been drawn, so that fewer remain.
    """
    parts, counts = [], []
    upto = np.cumsum(np.where(np.arange(len(chance)) < RESERVED, 0.0, chance))
    for begin in range(0, len(examples), EXAMPLES_AT_ONCE):
        end = min(begin + EXAMPLES_AT_ONCE, len(examples))
        mine = slice(*np.searchsorted(examples.owner, [begin, end]))
        owner, targets = examples.owner[mine] - begin, examples.targets[mine]
        taken = owner * len(chance) + targets
        had = np.zeros(0, np.int64)
        if filter_seen:
            history = Windows(examples.history.start[begin:end], examples.history.stop[begin:end])
            items, bounds = distinct_items(item, history)
            had = np.repeat(np.arange(end - begin), np.diff(bounds)) * len(chance) + items
            taken = np.concatenate([taken, had]) if unseen else taken
        wanted = np.bincount(owner, minlength=end - begin) * negatives
        found = draw_per_target(
            np.random.default_rng((CANDIDATES_SEED, begin)), upto, np.unique(taken), wanted
        )
        found = np.setdiff1d(found, had)
        parts.append(found % len(chance))
        counts.append(np.bincount(found // len(chance), minlength=end - begin))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([*counts, np.zeros(0, np.int64)]))])
    return Candidates(np.concatenate([*parts, np.zeros(0, np.int64)]), offsets.astype(np.int64))


def draw_per_target(
    random: np.random.Generator,
    upto: Float[np.ndarray, " I"],
    taken: Int[np.ndarray, " N"],
    wanted: Int[np.ndarray, " U"],
) -> Int[np.ndarray, " M"]:
    """Pairs `owner * I + id`, sorted: so many ids for each owner, none of the `taken` pairs.

    Draws with replacement whose repeats are thrown away are draws without replacement.
    """
    size, open_ids = len(upto), int((np.diff(upto, prepend=0.0) > 0).sum())
    likely = np.diff(upto, prepend=0.0)[taken % size] > 0
    left = open_ids - np.bincount(taken[likely] // size, minlength=len(wanted))
    goal = np.minimum(wanted, left)
    found = np.zeros(0, np.int64)
    missing = goal.copy()
    while missing.any():
        # Twice as many as are missing: most of the draws are new.
        owner = np.repeat(np.arange(len(wanted)), np.where(missing > 0, 2 * missing + 8, 0))
        drawn = np.searchsorted(upto, random.random(len(owner)) * upto[-1], side="right")
        pairs = owner * size + np.minimum(drawn, size - 1)
        _, first = np.unique(pairs, return_index=True)
        fresh = pairs[np.sort(first)]  # in the order of the draws
        fresh = fresh[~np.isin(fresh, taken) & ~np.isin(fresh, found)]
        whose = fresh // size
        nth = ramp(np.bincount(whose, minlength=len(wanted)))
        found = np.concatenate([found, fresh[nth < missing[whose]]])
        missing = goal - np.bincount(found // size, minlength=len(wanted))
    return np.sort(found)
