"""The baselines by name: some rank items, the others predict labels.

To add one, write a module that registers it, and load it with `--extension FILE.py`:

    @BASELINES.register("mine")
    @ItemBaseline
    def fit_mine(log: RankingLog) -> FittedRanker:
        return FittedRanker(rank_by_scores(log, scores))
"""

from collections.abc import Callable
from typing import NamedTuple

from clickflax.baselines.bpr import fit_bpr
from clickflax.baselines.constant import fit_constant
from clickflax.baselines.count_baselines import (
    MARKOV,
    MARKOV_RECENT,
    OWN_COUNTS,
    POPULARITY,
    count_baseline,
    fit_recent_popularity,
)
from clickflax.baselines.ease import fit_ease
from clickflax.baselines.item_knn import fit_item_knn
from clickflax.baselines.label_models import FitLabels
from clickflax.baselines.linear import fit_linear
from clickflax.baselines.rankers import FittedRanker, RankingLog
from clickflax.baselines.trees import fit_trees
from clickflax.batch import Registry


class ItemBaseline(NamedTuple):
    """A baseline that ranks items.

    `fit` raises NotApplicable if it cannot run on a log.
    """

    fit: Callable[[RankingLog], FittedRanker]


class LabelBaseline(NamedTuple):
    """A baseline that predicts labels.

    `fit` takes the kind of the labels (binary, classes or number) and the feature tables of the
    training and of the validation. It yields fitted models with the interface of scikit-learn, each
    with its hyperparameters; the validation chooses one.
    """

    fit: FitLabels


# Tables list them in this order.
BASELINES: Registry[ItemBaseline | LabelBaseline] = Registry(
    "baseline",
    {
        "popularity": ItemBaseline(count_baseline(POPULARITY)),
        "markov": ItemBaseline(count_baseline(MARKOV)),
        "markov_recent": ItemBaseline(count_baseline(MARKOV_RECENT)),
        "own_counts": ItemBaseline(count_baseline(OWN_COUNTS)),
        "popularity_recent": ItemBaseline(fit_recent_popularity),
        "item_knn": ItemBaseline(fit_item_knn),
        "ease": ItemBaseline(fit_ease),
        "bpr": ItemBaseline(fit_bpr),
        "constant": LabelBaseline(fit_constant),
        "linear": LabelBaseline(fit_linear),
        "trees": LabelBaseline(fit_trees),
    },
)


def item_baselines() -> dict[str, ItemBaseline]:
    """The baselines that rank items."""
    return {name: one for name, one in BASELINES.items() if isinstance(one, ItemBaseline)}


def label_baselines() -> dict[str, LabelBaseline]:
    """The baselines that predict labels."""
    return {name: one for name, one in BASELINES.items() if isinstance(one, LabelBaseline)}
