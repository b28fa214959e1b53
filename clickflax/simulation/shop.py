"""A shop is invented and its users are let in; what they do follows the truth in truth.py.

There is one event for each visit of an item, and its action says what came of it: a view, an item
left in the cart, or, at the end of a sequence, one that was bought (buy) or bought and sent back
(return).
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from clickflax.simulation.truth import Truth

ACTIONS = ("view", "cart", "buy", "return")
CATEGORIES = {  # category and its usual price
    "backpack": 60.0,
    "bicycle": 450.0,
    "blanket": 30.0,
    "chair": 90.0,
    "jacket": 120.0,
    "kettle": 35.0,
    "lamp": 40.0,
    "mug": 12.0,
    "notebook": 8.0,
    "radio": 70.0,
    "scarf": 20.0,
    "tent": 160.0,
}
COLOURS = "Red Blue Green Yellow Black White Grey Orange Purple Brown".split()
DAY = 24 * 3600 * 1_000_000  # microseconds
OPENING = 1_735_689_600_000_000  # 2025-01-01T00:00:00 UTC


@dataclasses.dataclass(frozen=True)
class Shop:
    """Every knob of a simulated shop."""

    sequences: int = 5000
    items: int = 500
    seed: int = 0
    mean_length: float = 12.0  # events of a sequence; at least 3, the rest geometric
    max_length: int = 50  # longer sequences are cut, and so are those of more than half the items
    tastes: int = 8  # hidden kinds of user
    moves: tuple[float, ...] = (
        0.3,
        0.25,
    )  # how often to a relation of the last item, the one before
    thrift: float = 0.8  # how much rather cheap items are put in the cart; 2: the dearest never

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise ValueError(f"sequences={self.sequences}: a shop needs at least one.")
        if not 3 <= self.mean_length <= self.max_length:
            raise ValueError(
                f"mean_length={self.mean_length} must lie between 3 and "
                f"max_length={self.max_length}."
            )
        if self.items < 6:
            raise ValueError(
                f"items={self.items} must be at least 6: users visit 3 items or more, and half of "
                "the catalog at most."
            )
        if self.tastes < 1:
            raise ValueError(f"tastes={self.tastes}: users need at least one.")
        if any(move < 0 for move in self.moves) or sum(self.moves) >= 1:
            raise ValueError(f"moves={self.moves} must not be negative, and add up to less than 1.")
        if not 0 <= self.thrift <= 2:
            raise ValueError(f"thrift={self.thrift} must lie between 0 and 2.")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative.")


@dataclasses.dataclass(frozen=True, eq=False)
class Catalog:
    """What is for sale."""

    token: list[str]
    title: list[str]
    category: list[str]
    price: Float[np.ndarray, " V"]


@dataclasses.dataclass(frozen=True, eq=False)
class Visits:
    """What the users did: sequence s is events offsets[s]:offsets[s+1]."""

    offsets: Int[np.ndarray, " bounds"]
    item: Int[np.ndarray, " E"]  # columns of the catalog
    action: Int[np.ndarray, " E"]  # places in ACTIONS
    time: Int[np.ndarray, " E"]  # microseconds since 1970
    taste: Int[np.ndarray, " S"]  # the hidden one


def invent(shop: Shop) -> tuple[Catalog, Truth]:
    """A catalog, and how users will behave in it; the items are in no order."""
    rng = np.random.default_rng([shop.seed, 0])
    kind = rng.integers(0, len(CATEGORIES), shop.items)
    catalog = _catalog(kind, rng)
    dear = np.empty(shop.items)  # 0 the cheapest, almost 1 the dearest
    dear[np.argsort(catalog.price, kind="stable")] = np.arange(shop.items) / shop.items
    fickle = rng.permutation(np.linspace(-1, 1, shop.tastes))[:, None]
    truth = Truth(
        moves=np.array(shop.moves),
        prior=np.full(shop.tastes, 1 / shop.tastes),
        taste=_tastes(shop, kind, rng),
        related=_relations(shop, rng),
        weight=np.array([0.6, 0.2, 0.1, 0.1]),
        buys=rng.permutation(np.linspace(0.1, 0.6, shop.tastes)),
        cart=np.array([[0.15], [0.3]]) * (1 + shop.thrift / 2 - shop.thrift * dear),
        returns=1 / (1 + np.exp(2.5 - 3 * dear - fickle)),
        actions=ACTIONS,
    )
    return catalog, truth


def _catalog(kind: Int[np.ndarray, " V"], rng: np.random.Generator) -> Catalog:
    """Items with readable names, such as "Red lamp 12", and prices that suit their category."""
    number = np.zeros(len(kind), np.int64)
    for k in range(len(CATEGORIES)):
        number[kind == k] = np.arange(1, np.sum(kind == k) + 1)
    names = np.array(list(CATEGORIES))[kind]
    colours = np.array(COLOURS)[rng.integers(0, len(COLOURS), len(kind))]
    usual = np.array(list(CATEGORIES.values()))[kind]
    price = usual * np.exp(0.3 * rng.standard_normal(len(kind)))
    return Catalog(
        token=[f"item-{i}" for i in range(1, len(kind) + 1)],
        title=[f"{c} {n} {i}" for c, n, i in zip(colours, names, number, strict=True)],
        category=names.tolist(),
        price=np.round(price, 2).astype(np.float32),
    )


def _tastes(
    shop: Shop, kind: Int[np.ndarray, " V"], rng: np.random.Generator
) -> Float[np.ndarray, "C V"]:
    """Each taste likes three categories, which others may like too, and their popular items."""
    liked = np.full((shop.tastes, len(CATEGORIES)), 0.03 / len(CATEGORIES))
    for taste in liked:
        taste[rng.permutation(len(CATEGORIES))[:3]] += (0.5, 0.3, 0.17)
    popularity = 1 / (1 + rng.permutation(shop.items))
    share = np.bincount(kind, weights=popularity, minlength=len(CATEGORIES))
    taste = (liked / np.maximum(share, 1e-9))[:, kind] * popularity
    return taste / taste.sum(axis=1, keepdims=True)


def _relations(shop: Shop, rng: np.random.Generator) -> Int[np.ndarray, "V K"]:
    """Four other items for each; as first relation, or second, ..., every item serves once."""
    around = rng.permutation(shop.items)
    steps = 1 + rng.permutation(shop.items - 1)[:4]
    related = np.empty((shop.items, 4), np.int64)
    related[around] = around[(np.arange(shop.items)[:, None] + steps) % shop.items]
    return related


def visit(shop: Shop, truth: Truth) -> Visits:
    """Lets the users in."""
    rng = np.random.default_rng([shop.seed, 1])
    taste = rng.choice(len(truth.prior), size=shop.sequences, p=truth.prior)
    lengths = 2 + rng.geometric(1 / (shop.mean_length - 2), shop.sequences)
    # Nobody visits an item twice: at half the catalog little is left that anyone would choose.
    lengths = np.minimum(lengths, min(shop.max_length, shop.items // 2))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = _walk(truth, taste, lengths, rng)
    item = rows[rows >= 0]
    owner = np.repeat(np.arange(shop.sequences), lengths)
    buyer = rng.random(shop.sequences) < truth.buys[taste]
    carted = rng.random(len(item)) < truth.cart[buyer[owner].astype(np.int64), item]
    action = np.where(carted, ACTIONS.index("cart"), ACTIONS.index("view"))
    bought = offsets[1:][buyer] - 1
    back = rng.random(len(bought)) < truth.returns[taste[buyer], item[bought]]
    action[bought] = np.where(back, ACTIONS.index("return"), ACTIONS.index("buy"))
    start = OPENING + rng.integers(0, 90 * DAY, shop.sequences)
    pause = rng.exponential(60e6, len(item)).astype(np.int64) + 1
    elapsed = np.cumsum(pause)
    time = start[owner] + elapsed - elapsed[offsets[:-1]][owner]
    return Visits(offsets, item, action, time, taste)


def _walk(
    truth: Truth,
    taste: Int[np.ndarray, " S"],
    lengths: Int[np.ndarray, " S"],
    rng: np.random.Generator,
) -> Int[np.ndarray, "S L"]:
    """The items of each user, -1 after the last one; what was visited is drawn again."""
    rows = np.full((len(taste), lengths.max()), -1)
    items = truth.taste.shape[1]
    # All tastes in one rising table: taste c lies between c and c + 1.
    table = (np.cumsum(truth.taste, axis=1) + np.arange(len(truth.prior))[:, None]).ravel()
    weights = np.cumsum(truth.weight)
    moves = np.cumsum(truth.moves)
    for t in range(rows.shape[1]):
        waiting = np.flatnonzero(lengths > t)
        while len(waiting):
            c = taste[waiting]
            drawn = np.searchsorted(table, c + rng.random(len(waiting)), side="right")
            drawn = np.clip(drawn - c * items, 0, items - 1)
            if t > 0:
                back = np.searchsorted(moves, rng.random(len(waiting)), side="right")
                place = np.searchsorted(weights, rng.random(len(waiting)), side="right")
                place = np.minimum(place, len(weights) - 1)
                source = rows[waiting, np.maximum(t - 1 - back, 0)]
                drawn = np.where(back < len(moves), truth.related[source, place], drawn)
            again = (rows[waiting, :t] == drawn[:, None]).any(axis=1)
            rows[waiting[~again], t] = drawn[~again]
            waiting = waiting[again]
    return rows
