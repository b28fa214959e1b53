"""The truth of a simulated shop: what the best possible model would answer.

A user has a hidden taste, one of a few, and a hidden plan to buy or not. The first item comes from
the taste; each further one from the items related to the last one, from those related to the one
before it, or from the taste again; an item that was visited is not visited twice. A visit ends in a
view or, more often for those who will buy, in the cart; the last item of a buyer is bought, and may
come back.

What is hidden takes few values, so that everything can be asked exactly: the belief in each (taste,
plan), given the events so far, follows from Bayes' rule, event by event.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from clickflax.batch import PAD, RESERVED

FORMAT = "clickflax truth 1"
ARRAYS = ("prior", "taste", "moves", "weight", "related", "buys", "cart", "returns")
CHUNK = 1024  # sequences at once, at most
SCORES = 2**24  # and at most so many scores of items


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """Every probability of a simulated shop; column i of V is the item with id i + RESERVED."""

    prior: Float[np.ndarray, " C"]  # how many users have each taste
    taste: Float[np.ndarray, "C V"]  # what they choose who follow no relation
    moves: Float[np.ndarray, " R"]  # who follow one of the last item, of the one before it
    weight: Float[np.ndarray, " K"]  # which relation they follow
    related: Int[np.ndarray, "V K"]  # the columns that it leads to
    buys: Float[np.ndarray, " C"]  # who of each taste have come to buy
    cart: Float[np.ndarray, "2 V"]  # visits that end in a cart, of who will not buy, and will
    returns: Float[np.ndarray, "C V"]  # bought items that come back
    actions: tuple[str, ...]  # name i is the action with id i + RESERVED

    def next_item(
        self, items: Int[np.ndarray, " n"], actions: Int[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, " V"]:
        """Probability of each item to be the next, after ids `items` and, if known, `actions`."""
        return self.next_items(items[None], None if actions is None else actions[None])[0]

    def next_items(
        self,
        items: Int[np.ndarray, "B L"],
        actions: Int[np.ndarray, "B L"] | None = None,
        given: str = "",
    ) -> Float[np.ndarray, "B V"]:
        """`next_item` of several sequences, each padded at its end with PAD; `given` that its
        action will be cart or buy, if not empty.
        """
        rows, carted = self._read(items, actions)
        _, belief, visited = self._replay(rows, carted)
        if not given:
            return self._scores(rows, belief.sum(axis=2), visited)
        if given not in ("cart", "buy"):
            raise ValueError(f"given={given!r}: the truth is known of 'cart' and 'buy'.")
        chance = self.cart if given == "cart" else np.array([[0.0], [1.0]])
        plans = [self._scores(rows, belief[:, :, plan], visited) * chance[plan] for plan in (0, 1)]
        joint = plans[0] + plans[1]
        return joint / joint.sum(axis=1, keepdims=True)

    def _scores(
        self,
        rows: Int[np.ndarray, "B L"],
        share: Float[np.ndarray, "B C"],
        visited: Float[np.ndarray, "B C"],
    ) -> Float[np.ndarray, "B V"]:
        """Probability of each item to be the next, for users of each taste, `share` of them."""
        lengths = np.sum(rows >= 0, axis=1)
        started = lengths > 0
        answer = share @ self.taste
        if started.any():
            rows, lengths = rows[started], lengths[started]
            recent = _recent(rows, lengths, len(self.moves))
            share = share[started] / self._unseen(rows, recent, visited[started])
            scores = (1 - self.moves.sum()) * (share @ self.taste)
            for move, item in zip(self.moves, recent.T, strict=True):
                moved = move * share.sum(axis=1)[:, None] * self.weight
                scores[np.arange(len(rows))[:, None], self.related[item]] += moved
            row, place = np.nonzero(rows >= 0)
            scores[row, rows[row, place]] = 0
            answer[started] = scores
        return answer

    def purchase(
        self, items: Int[np.ndarray, "B L"], actions: Int[np.ndarray, "B L"] | None = None
    ) -> Float[np.ndarray, " B"]:
        """Probability that each sequence ends in a purchase, given its first events."""
        _, belief, _ = self._replay(*self._read(items, actions))
        return belief[:, :, 1].sum(axis=1)

    def events(
        self,
        offsets: Int[np.ndarray, " bounds"],
        items: Int[np.ndarray, " E"],
        actions: Int[np.ndarray, " E"],
    ) -> dict[str, Float[np.ndarray, " E"]]:
        """What is true of each event of a data set, given the events before it in its sequence.

        `next_item` is the probability of the item that came, given the items alone; `purchase`,
        given items and actions, that the sequence ends in a purchase; `return`, that this item,
        if it is bought now, comes back.
        """
        names = ("next_item", "purchase", "return")
        found = {name: np.empty(len(items)) for name in names}
        # Sequences of like length together: little padding.
        order = np.argsort(np.diff(offsets), kind="stable")
        chunk = self._chunk()
        for start in range(0, len(order), chunk):
            index, there = padded(offsets, order[start : start + chunk])
            rows = np.where(there, items[index] - RESERVED, -1)
            alone, _, _ = self._replay(rows, None)
            both, _, _ = self._replay(rows, actions[index] == self._id("cart"))
            for name in names:
                values = alone[name] if name == "next_item" else both[name]
                found[name][index[there]] = values[there]
        return found

    def ndcg(
        self,
        offsets: Int[np.ndarray, " bounds"],
        items: Int[np.ndarray, " E"],
        k: int,
        actions: Int[np.ndarray, " E"] | None = None,
        given: str = "",
    ) -> Float[np.ndarray, " S"]:
        """NDCG@k of the last item of each sequence, the catalog ranked by true probability.

        Knowing the items before the last one, their `actions` if there, and of the last one what
        is `given`, nobody has a higher mean, but by luck.
        """
        gains = []
        chunk = self._chunk()
        for start in range(0, len(offsets) - 1, chunk):
            index, there = padded(offsets, np.arange(start, min(start + chunk, len(offsets) - 1)))
            rows = np.where(there, items[index], PAD)
            last = (np.arange(len(rows)), there.sum(axis=1) - 1)
            target = rows[last] - RESERVED
            rows[last] = PAD
            did = None if actions is None else np.where(rows != PAD, actions[index], PAD)
            scores = self.next_items(rows, did, given)
            own = scores[np.arange(len(rows)), target][:, None]
            place = np.sum(scores > own, axis=1) + (np.sum(scores == own, axis=1) - 1) / 2
            gains.append(gain(place, k))
        return np.concatenate(gains)

    def _replay(
        self, rows: Int[np.ndarray, "B L"], carted: Bool[np.ndarray, "B L"] | None
    ) -> tuple[dict[str, Float[np.ndarray, "B L"]], np.ndarray, np.ndarray]:
        """The answers of `events`; the belief at the end [B, C, 2]; the visited taste [B, C]."""
        found = {name: np.ones(rows.shape) for name in ("next_item", "purchase", "return")}
        plan = np.stack([1 - self.buys, self.buys], axis=1)
        belief = np.tile(self.prior[:, None] * plan, (len(rows), 1, 1))
        visited = np.zeros(belief.shape[:2])
        by_item = np.ascontiguousarray(self.taste.T)
        for t in range(rows.shape[1]):
            alive = rows[:, t] >= 0
            item = np.where(alive, rows[:, t], 0)
            likelihood = by_item[item]
            if t > 0:
                recent = _recent(rows, np.full(len(rows), t), len(self.moves))
                follows = (self.related[recent] == item[:, None, None]) @ self.weight
                likelihood = (1 - self.moves.sum()) * likelihood
                likelihood += (follows @ self.moves)[:, None]
                likelihood /= self._unseen(rows[:, :t], recent, visited)
            joint = belief * likelihood[:, :, None]
            bought = joint[:, :, 1]
            found["next_item"][:, t] = joint.sum(axis=(1, 2))
            found["purchase"][:, t] = belief[:, :, 1].sum(axis=1)
            back = np.einsum("bc,cb->b", bought, self.returns[:, item])
            found["return"][:, t] = back / bought.sum(axis=1)
            if carted is not None:
                cart = self.cart[:, item].T
                joint *= np.where(carted[:, t, None], cart, 1 - cart)[:, None, :]
            joint /= joint.sum(axis=(1, 2), keepdims=True)
            belief = np.where(alive[:, None, None], joint, belief)
            visited += np.where(alive[:, None], by_item[item], 0)
        return found, belief, visited

    def _unseen(
        self,
        rows: Int[np.ndarray, "B L"],
        recent: Int[np.ndarray, "B R"],
        visited: Float[np.ndarray, "B C"],
    ) -> Float[np.ndarray, "B C"]:
        """Probability that what a user of each taste would choose has not been visited yet."""
        seen = (self.related[recent][:, :, :, None] == rows[:, None, None, :]).any(axis=3)
        related = (seen @ self.weight) @ self.moves
        return 1 - related[:, None] - (1 - self.moves.sum()) * visited

    def _chunk(self) -> int:
        """How many sequences at once keep a score of every item within bounds."""
        return min(CHUNK, max(1, SCORES // self.taste.shape[1]))

    def _id(self, action: str) -> int:
        return self.actions.index(action) + RESERVED

    def _read(
        self, items: Int[np.ndarray, "B L"], actions: Int[np.ndarray, "B L"] | None
    ) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"] | None]:
        """Columns of the items, -1 where padded, and which were put in the cart; checked."""
        there = items != PAD
        known = (items >= RESERVED) & (items < RESERVED + self.taste.shape[1])
        if (there & ~known).any():
            raise ValueError(f"{items[there & ~known][0]} is not the id of an item of this shop.")
        if (there[:, 1:] & ~there[:, :-1]).any():
            raise ValueError("A sequence begins at the first column: pad it at its end.")
        ordered = np.sort(items, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PAD)
        if twice.any():
            item = ordered[:, 1:][twice][0]
            raise ValueError(f"Item {item} comes twice: here no item is visited twice.")
        rows = np.where(there, items - RESERVED, -1)
        if actions is None:
            return rows, None
        going_on = np.isin(actions, [self._id("view"), self._id("cart")])
        if (there & ~going_on).any():
            raise ValueError("A purchase ends a sequence: give the events before it.")
        return rows, actions == self._id("cart")


def _recent(
    rows: Int[np.ndarray, "B L"], lengths: Int[np.ndarray, " B"], count: int
) -> Int[np.ndarray, "B R"]:
    """The last of the first `lengths` items, the one before, ...; at the start, the first again."""
    column = np.maximum(lengths[:, None] - 1 - np.arange(count), 0)
    return np.take_along_axis(rows, column, axis=1)


def gain(place: Float[np.ndarray, " N"], k: int) -> Float[np.ndarray, " N"]:
    """NDCG@k of a single relevant item at each place (0 is first)."""
    return np.where(place <= k - 1, 1 / np.log2(place + 2), 0.0)


def padded(
    offsets: Int[np.ndarray, " bounds"], sequences: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    """Index of each event of some sequences, side by side, and which of them are there."""
    lengths = offsets[sequences + 1] - offsets[sequences]
    there = np.arange(lengths.max()) < lengths[:, None]
    return np.where(there, offsets[sequences, None] + np.arange(lengths.max()), 0), there


def save_truth(folder: pathlib.Path, truth: Truth, possible: Mapping[str, object]) -> None:
    """Writes the truth, and what is possible by it, into the folder of its data set."""
    folder = folder / "truth"
    folder.mkdir()
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(truth, name))
    text = json.dumps({"format": FORMAT, "actions": truth.actions, **possible}, indent=2)
    (folder / "truth.json").write_text(text + "\n", encoding="utf-8")


def load_truth(path: str | os.PathLike) -> Truth:
    """The truth of the simulated data set in `path`."""
    folder = pathlib.Path(path) / "truth"
    if not (folder / "truth.json").is_file():
        raise FileNotFoundError(
            f"{path} has no truth/truth.json: the truth is known of simulated data sets alone."
        )
    info = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    if info["format"] != FORMAT:
        raise ValueError(f"{folder} has format {info['format']!r}, not {FORMAT!r}: simulate again.")
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in ARRAYS}
    return Truth(actions=tuple(info["actions"]), **arrays)
