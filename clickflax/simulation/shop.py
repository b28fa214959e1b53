"""A simulated shop: its catalog and the visits of its users, drawn from the model of truth.py.

Each visit of an item is an event with an action: view, cart, or, at the end of a sequence, buy or
return (bought and sent back).
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from clickflax.simulation.truth import Truth

ACTIONS = ("view", "cart", "buy", "return")
CATEGORY_PRICES = {  # the typical price of each category
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
DAY_MICROSECONDS = 24 * 3600 * 1_000_000
FIRST_TIME = 1_735_689_600_000_000  # 2025-01-01T00:00:00 UTC


@dataclasses.dataclass(frozen=True)
class Shop:
    """The parameters of a simulated shop."""

    sequences: int = 5000
    items: int = 500
    seed: int = 0
    mean_length: float = 12.0  # events per sequence: at least 3, and a geometric number more
    max_length: int = 50  # longer sequences are cut, also those of more than half of the items
    tastes: int = 8  # number of hidden user types
    # Probability that the next item is related to the last item, to the one before it, ...
    moves: tuple[float, ...] = (0.3, 0.25)
    thrift: float = 0.8  # preference for cheap items in the cart; 2: the most expensive never

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise ValueError(f"sequences={self.sequences} must be at least 1.")
        if not 3 <= self.mean_length <= self.max_length:
            raise ValueError(
                f"mean_length={self.mean_length} must lie between 3 and "
                f"max_length={self.max_length}."
            )
        if self.items < 6:
            raise ValueError(
                f"items={self.items} must be at least 6: a user visits at least 3 items and at "
                "most half of the catalog."
            )
        if self.tastes < 1:
            raise ValueError(f"tastes={self.tastes} must be at least 1.")
        if any(move < 0 for move in self.moves) or sum(self.moves) >= 1:
            raise ValueError(f"moves={self.moves} must be positive or 0, and sum to less than 1.")
        if not 0 <= self.thrift <= 2:
            raise ValueError(f"thrift={self.thrift} must lie between 0 and 2.")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be at least 0.")


@dataclasses.dataclass(frozen=True, eq=False)
class Catalog:
    """The items of a shop."""

    token: list[str]
    title: list[str]
    category: list[str]
    price: Float[np.ndarray, " V"]


@dataclasses.dataclass(frozen=True, eq=False)
class Visits:
    """The events of the users: sequence s is events offsets[s]:offsets[s+1]."""

    offsets: Int[np.ndarray, " bounds"]
    item: Int[np.ndarray, " E"]  # indices into the catalog
    action: Int[np.ndarray, " E"]  # indices into ACTIONS
    time: Int[np.ndarray, " E"]  # microseconds since 1970
    taste: Int[np.ndarray, " S"]  # the hidden type of the user


def make_shop(shop: Shop) -> tuple[Catalog, Truth]:
    """Draws the catalog of a shop and the probabilities of its users, in random item order."""
    rng = np.random.default_rng([shop.seed, 0])
    category = rng.integers(0, len(CATEGORY_PRICES), shop.items)
    catalog = _make_catalog(category, rng)
    price_rank = np.empty(shop.items)  # from 0, the cheapest item, to almost 1
    price_rank[np.argsort(catalog.price, kind="stable")] = np.arange(shop.items) / shop.items
    return_tendency = rng.permutation(np.linspace(-1, 1, shop.tastes))[:, None]
    truth = Truth(
        moves=np.array(shop.moves),
        prior=np.full(shop.tastes, 1 / shop.tastes),
        taste=_draw_tastes(shop, category, rng),
        related=_draw_relations(shop, rng),
        weight=np.array([0.6, 0.2, 0.1, 0.1]),
        buys=rng.permutation(np.linspace(0.1, 0.6, shop.tastes)),
        cart=np.array([[0.15], [0.3]]) * (1 + shop.thrift / 2 - shop.thrift * price_rank),
        returns=1 / (1 + np.exp(2.5 - 3 * price_rank - return_tendency)),
        actions=ACTIONS,
    )
    return catalog, truth


def _make_catalog(category: Int[np.ndarray, " V"], rng: np.random.Generator) -> Catalog:
    """Returns items with titles such as "Red lamp 12" and prices typical of their category."""
    number = np.zeros(len(category), np.int64)
    for k in range(len(CATEGORY_PRICES)):
        number[category == k] = np.arange(1, np.sum(category == k) + 1)
    names = np.array(list(CATEGORY_PRICES))[category]
    colours = np.array(COLOURS)[rng.integers(0, len(COLOURS), len(category))]
    typical = np.array(list(CATEGORY_PRICES.values()))[category]
    price = typical * np.exp(0.3 * rng.standard_normal(len(category)))
    return Catalog(
        token=[f"item-{i}" for i in range(1, len(category) + 1)],
        title=[f"{c} {n} {i}" for c, n, i in zip(colours, names, number, strict=True)],
        category=names.tolist(),
        price=np.round(price, 2).astype(np.float32),
    )


def _draw_tastes(
    shop: Shop, category: Int[np.ndarray, " V"], rng: np.random.Generator
) -> Float[np.ndarray, "C V"]:
    """Returns tastes that each prefer three categories, and popular items within them."""
    liked = np.full((shop.tastes, len(CATEGORY_PRICES)), 0.03 / len(CATEGORY_PRICES))
    for taste in liked:
        taste[rng.permutation(len(CATEGORY_PRICES))[:3]] += (0.5, 0.3, 0.17)
    popularity = 1 / (1 + rng.permutation(shop.items))
    share = np.bincount(category, weights=popularity, minlength=len(CATEGORY_PRICES))
    taste = (liked / np.maximum(share, 1e-9))[:, category] * popularity
    return taste / taste.sum(axis=1, keepdims=True)


def _draw_relations(shop: Shop, rng: np.random.Generator) -> Int[np.ndarray, "V K"]:
    """Returns four related items of each item; each column is a permutation of the items."""
    order = rng.permutation(shop.items)
    steps = 1 + rng.permutation(shop.items - 1)[:4]
    related = np.empty((shop.items, 4), np.int64)
    related[order] = order[(np.arange(shop.items)[:, None] + steps) % shop.items]
    return related


def simulate_visits(shop: Shop, truth: Truth) -> Visits:
    """Draws the visits of all users."""
    rng = np.random.default_rng([shop.seed, 1])
    taste = rng.choice(len(truth.prior), size=shop.sequences, p=truth.prior)
    lengths = 2 + rng.geometric(1 / (shop.mean_length - 2), shop.sequences)
    # No user visits an item twice: beyond half of the catalog few likely items are left.
    lengths = np.minimum(lengths, min(shop.max_length, shop.items // 2))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = _draw_items(truth, taste, lengths, rng)
    item = rows[rows >= 0]
    user = np.repeat(np.arange(shop.sequences), lengths)
    buyer = rng.random(shop.sequences) < truth.buys[taste]
    carted = rng.random(len(item)) < truth.cart[buyer[user].astype(np.int64), item]
    action = np.where(carted, ACTIONS.index("cart"), ACTIONS.index("view"))
    bought = offsets[1:][buyer] - 1
    returned = rng.random(len(bought)) < truth.returns[taste[buyer], item[bought]]
    action[bought] = np.where(returned, ACTIONS.index("return"), ACTIONS.index("buy"))
    start = FIRST_TIME + rng.integers(0, 90 * DAY_MICROSECONDS, shop.sequences)
    pause = rng.exponential(60e6, len(item)).astype(np.int64) + 1
    elapsed = np.cumsum(pause)
    time = start[user] + elapsed - elapsed[offsets[:-1]][user]
    return Visits(offsets, item, action, time, taste)


def _draw_items(
    truth: Truth,
    taste: Int[np.ndarray, " S"],
    lengths: Int[np.ndarray, " S"],
    rng: np.random.Generator,
) -> Int[np.ndarray, "S L"]:
    """Returns the items of each user, padded with -1; visited items are drawn again."""
    rows = np.full((len(taste), lengths.max()), -1)
    items = truth.taste.shape[1]
    # The cumulative probabilities of all tastes in one rising array: taste c is in [c, c + 1].
    cumulative = (np.cumsum(truth.taste, axis=1) + np.arange(len(truth.prior))[:, None]).ravel()
    weights = np.cumsum(truth.weight)
    moves = np.cumsum(truth.moves)
    for t in range(rows.shape[1]):
        waiting = np.flatnonzero(lengths > t)
        while len(waiting):
            c = taste[waiting]
            drawn = np.searchsorted(cumulative, c + rng.random(len(waiting)), side="right")
            drawn = np.clip(drawn - c * items, 0, items - 1)
            if t > 0:
                back = np.searchsorted(moves, rng.random(len(waiting)), side="right")
                relation = np.searchsorted(weights, rng.random(len(waiting)), side="right")
                relation = np.minimum(relation, len(weights) - 1)
                source = rows[waiting, np.maximum(t - 1 - back, 0)]
                drawn = np.where(back < len(moves), truth.related[source, relation], drawn)
            visited = (rows[waiting, :t] == drawn[:, None]).any(axis=1)
            rows[waiting[~visited], t] = drawn[~visited]
            waiting = waiting[visited]
    return rows
