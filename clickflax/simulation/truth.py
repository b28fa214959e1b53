"""The true probabilities of a simulated shop, which are those of the best possible model.

A user has a hidden taste, one of a few, and a hidden plan to buy or not. The first item is drawn
from the taste; each further item from the items related to the last one, from those related to the
one before it, or from the taste again. No item is visited twice. A visit ends in a view or, more
often for buyers, in the cart; the last item of a buyer is bought, and may be returned.

The hidden state has few values, so that every probability is exact: the belief in each (taste,
plan) after some events follows from Bayes' rule, event by event.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from clickflax.batch import PAD, RESERVED
from clickflax.data.arrays import open_array
from clickflax.data.manifest import read_info

TRUTH_FORMAT = "clickflax truth 1"
ARRAYS = ("prior", "taste", "moves", "weight", "related", "buys", "cart", "returns")
MAX_SEQUENCES = 1024  # at once
MAX_SCORES = 2**24  # at once, of sequences x items


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """Every probability of a simulated shop; column i of V is the item with id i + RESERVED."""

    prior: Float[np.ndarray, " C"]  # of each taste
    taste: Float[np.ndarray, "C V"]  # of each item, when no relation is followed
    moves: Float[np.ndarray, " R"]  # of following a relation of the last item, of the one before it
    weight: Float[np.ndarray, " K"]  # of each relation, when one is followed
    related: Int[np.ndarray, "V K"]  # the items that the relations lead to
    buys: Float[np.ndarray, " C"]  # of a plan to buy
    cart: Float[np.ndarray, "2 V"]  # that a visit ends in the cart: no buyer, buyer
    returns: Float[np.ndarray, "C V"]  # that a bought item is returned
    actions: tuple[str, ...]  # action i has the id i + RESERVED

    def next_item(
        self, items: Int[np.ndarray, " n"], actions: Int[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, " V"]:
        """Probability of each item to be the next, after ids `items` and, if known, `actions`."""
        return self.next_items(items[None], None if actions is None else actions[None])[0]

    def next_items(
        self,
        items: Int[np.ndarray, "B L"],
        actions: Int[np.ndarray, "B L"] | None = None,
        next_action: str = "",
    ) -> Float[np.ndarray, "B V"]:
        """`next_item` of several sequences, each padded at its end with PAD.

        With `next_action`, cart or buy, the probability is conditioned on the action of the next
        event.
        """
        rows, carted = self._parse_ids(items, actions)
        _, belief, visited = self._replay(rows, carted)
        if not next_action:
            return self._scores(rows, belief.sum(axis=2), visited)
        if next_action not in ("cart", "buy"):
            raise ValueError(f"next_action={next_action!r} is not one of ['buy', 'cart'].")
        likelihood = self.cart if next_action == "cart" else np.array([[0.0], [1.0]])
        no_buyer = self._scores(rows, belief[:, :, 0], visited) * likelihood[0]
        buyer = self._scores(rows, belief[:, :, 1], visited) * likelihood[1]
        joint = no_buyer + buyer
        return joint / joint.sum(axis=1, keepdims=True)

    def _scores(
        self,
        rows: Int[np.ndarray, "B L"],
        share: Float[np.ndarray, "B C"],
        visited: Float[np.ndarray, "B C"],
    ) -> Float[np.ndarray, "B V"]:
        """Probability of each item to be the next one, for a mixture `share` of the tastes."""
        lengths = np.sum(rows >= 0, axis=1)
        started = lengths > 0
        probability = share @ self.taste
        if started.any():
            rows = rows[started]
            lengths = lengths[started]
            recent = _recent(rows, lengths, len(self.moves))
            share = share[started] / self._unseen(rows, recent, visited[started])
            scores = (1 - self.moves.sum()) * (share @ self.taste)
            for move, item in zip(self.moves, recent.T, strict=True):
                moved = move * share.sum(axis=1)[:, None] * self.weight
                scores[np.arange(len(rows))[:, None], self.related[item]] += moved
            row, position = np.nonzero(rows >= 0)
            scores[row, rows[row, position]] = 0
            probability[started] = scores
        return probability

    def purchase(
        self, items: Int[np.ndarray, "B L"], actions: Int[np.ndarray, "B L"] | None = None
    ) -> Float[np.ndarray, " B"]:
        """Probability that each sequence ends in a purchase, after these first events."""
        _, belief, _ = self._replay(*self._parse_ids(items, actions))
        return belief[:, :, 1].sum(axis=1)

    def events(
        self,
        offsets: Int[np.ndarray, " bounds"],
        items: Int[np.ndarray, " E"],
        actions: Int[np.ndarray, " E"],
    ) -> dict[str, Float[np.ndarray, " E"]]:
        """Probabilities at each event of a data set, conditioned on the events before it.

        `next_item` is the probability of the event's item, conditioned on the items only.
        `purchase` is the probability that the sequence ends in a purchase, and `return` that the
        item is returned if it is bought now; both are conditioned on items and actions.
        """
        names = ("next_item", "purchase", "return")
        probabilities = {name: np.empty(len(items)) for name in names}
        # Sequences of similar length share a chunk: little padding.
        order = np.argsort(np.diff(offsets), kind="stable")
        chunk = self._chunk()
        for start in range(0, len(order), chunk):
            index, exists = pad_sequences(offsets, order[start : start + chunk])
            rows = np.where(exists, items[index] - RESERVED, -1)
            by_items, _, _ = self._replay(rows, None)
            by_actions, _, _ = self._replay(rows, actions[index] == self._id("cart"))
            found = by_actions | {"next_item": by_items["next_item"]}
            for name in names:
                values = found[name]
                probabilities[name][index[exists]] = values[exists]
        return probabilities

    def ndcg(
        self,
        offsets: Int[np.ndarray, " bounds"],
        items: Int[np.ndarray, " E"],
        k: int,
        actions: Int[np.ndarray, " E"] | None = None,
        next_action: str = "",
    ) -> Float[np.ndarray, " S"]:
        """NDCG@k of the last item of each sequence, with the catalog ranked by true probability.

        No ranking from the items before the last one, their `actions` if known, and the
        `next_action` if known, has a higher expected mean.
        """
        gains = []
        chunk = self._chunk()
        for start in range(0, len(offsets) - 1, chunk):
            sequences = np.arange(start, min(start + chunk, len(offsets) - 1))
            index, exists = pad_sequences(offsets, sequences)
            rows = np.where(exists, items[index], PAD)
            last = (np.arange(len(rows)), exists.sum(axis=1) - 1)
            target = rows[last] - RESERVED
            rows[last] = PAD
            known = None if actions is None else np.where(rows != PAD, actions[index], PAD)
            scores = self.next_items(rows, known, next_action)
            score = scores[np.arange(len(rows)), target][:, None]
            ties = np.sum(scores == score, axis=1) - 1
            rank = np.sum(scores > score, axis=1) + ties / 2
            gains.append(ndcg_of_rank(rank, k))
        return np.concatenate(gains)

    def _replay(
        self, rows: Int[np.ndarray, "B L"], carted: Bool[np.ndarray, "B L"] | None
    ) -> tuple[dict[str, Float[np.ndarray, "B L"]], np.ndarray, np.ndarray]:
        """Replays sequences with Bayes' rule.

        Returns the probabilities of `events`, the final belief [B, C, 2], and the probability mass
        of the visited items under each taste [B, C].
        """
        probabilities = {name: np.ones(rows.shape) for name in ("next_item", "purchase", "return")}
        plan = np.stack([1 - self.buys, self.buys], axis=1)
        belief = np.tile(self.prior[:, None] * plan, (len(rows), 1, 1))
        visited = np.zeros(belief.shape[:2])
        by_item = np.ascontiguousarray(self.taste.T)
        for t in range(rows.shape[1]):
            exists = rows[:, t] >= 0
            item = np.where(exists, rows[:, t], 0)
            likelihood = by_item[item]
            if t > 0:
                recent = _recent(rows, np.full(len(rows), t), len(self.moves))
                follows = (self.related[recent] == item[:, None, None]) @ self.weight
                likelihood = (1 - self.moves.sum()) * likelihood
                likelihood += (follows @ self.moves)[:, None]
                likelihood /= self._unseen(rows[:, :t], recent, visited)
            joint = belief * likelihood[:, :, None]
            bought = joint[:, :, 1]
            probabilities["next_item"][:, t] = joint.sum(axis=(1, 2))
            probabilities["purchase"][:, t] = belief[:, :, 1].sum(axis=1)
            returned = np.einsum("bc,cb->b", bought, self.returns[:, item])
            probabilities["return"][:, t] = returned / bought.sum(axis=1)
            if carted is not None:
                cart = self.cart[:, item].T
                joint *= np.where(carted[:, t, None], cart, 1 - cart)[:, None, :]
            joint /= joint.sum(axis=(1, 2), keepdims=True)
            belief = np.where(exists[:, None, None], joint, belief)
            visited += np.where(exists[:, None], by_item[item], 0)
        return probabilities, belief, visited

    def _unseen(
        self,
        rows: Int[np.ndarray, "B L"],
        recent: Int[np.ndarray, "B R"],
        visited: Float[np.ndarray, "B C"],
    ) -> Float[np.ndarray, "B C"]:
        """Probability that the item a user of each taste would choose is unvisited."""
        seen = (self.related[recent][:, :, :, None] == rows[:, None, None, :]).any(axis=3)
        related = (seen @ self.weight) @ self.moves
        return 1 - related[:, None] - (1 - self.moves.sum()) * visited

    def _chunk(self) -> int:
        """Number of sequences whose scores of all items fit in memory."""
        return min(MAX_SEQUENCES, max(1, MAX_SCORES // self.taste.shape[1]))

    def _id(self, action: str) -> int:
        return self.actions.index(action) + RESERVED

    def _parse_ids(
        self, items: Int[np.ndarray, "B L"], actions: Int[np.ndarray, "B L"] | None
    ) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"] | None]:
        """Returns item indices, -1 for padding, and which events are carts.

        Raises ValueError if a sequence could not happen in this shop.
        """
        exists = items != PAD
        known = (items >= RESERVED) & (items < RESERVED + self.taste.shape[1])
        if (exists & ~known).any():
            raise ValueError(f"{items[exists & ~known][0]} is not the id of an item of this shop.")
        if (exists[:, 1:] & ~exists[:, :-1]).any():
            raise ValueError("a sequence does not begin in the first column: pad it at its end.")
        ordered = np.sort(items, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PAD)
        if twice.any():
            item = ordered[:, 1:][twice][0]
            raise ValueError(f"item {item} appears twice: in this shop no item is visited twice.")
        rows = np.where(exists, items - RESERVED, -1)
        if actions is None:
            return rows, None
        continues = np.isin(actions, [self._id("view"), self._id("cart")])
        if (exists & ~continues).any():
            raise ValueError("a purchase ends a sequence: pass only the events before it.")
        return rows, actions == self._id("cart")


def _recent(
    rows: Int[np.ndarray, "B L"], lengths: Int[np.ndarray, " B"], count: int
) -> Int[np.ndarray, "B R"]:
    """Returns the last `count` items of each sequence, latest first; its first item repeats."""
    column = np.maximum(lengths[:, None] - 1 - np.arange(count), 0)
    return np.take_along_axis(rows, column, axis=1)


def ndcg_of_rank(rank: Float[np.ndarray, " N"], k: int) -> Float[np.ndarray, " N"]:
    """NDCG@k of a single relevant item at each rank (0 is first)."""
    return np.where(rank <= k - 1, 1 / np.log2(rank + 2), 0.0)


def pad_sequences(
    offsets: Int[np.ndarray, " bounds"], sequences: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    """Returns the event indices of sequences as padded rows, and which of them exist."""
    lengths = offsets[sequences + 1] - offsets[sequences]
    position = np.arange(lengths.max())
    exists = position < lengths[:, None]
    return np.where(exists, offsets[sequences, None] + position, 0), exists


def save_truth(folder: pathlib.Path, truth: Truth, possible: Mapping[str, object]) -> None:
    """Writes the truth, and the best possible metrics, into the folder of its data set."""
    folder = folder / "truth"
    folder.mkdir()
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(truth, name))
    text = json.dumps({"format": TRUTH_FORMAT, "actions": truth.actions, **possible}, indent=2)
    (folder / "truth.json").write_text(text + "\n", encoding="utf-8")


def load_truth(path: str | os.PathLike) -> Truth:
    """The truth of the simulated data set in `path`."""
    folder = pathlib.Path(path) / "truth"
    if not (folder / "truth.json").is_file():
        raise FileNotFoundError(
            f"{path} has no truth/truth.json: only data sets of `clickflax simulate` have it."
        )
    info = read_info(folder / "truth.json", {"format": str, "actions": [str], str: object})
    if info["format"] != TRUTH_FORMAT:
        raise ValueError(
            f"{folder} has format {info['format']!r}, not {TRUTH_FORMAT!r}: "
            "run `clickflax simulate` again."
        )
    arrays = {name: np.array(open_array(folder / f"{name}.npy")) for name in ARRAYS}
    return Truth(actions=tuple(info["actions"]), **arrays)
