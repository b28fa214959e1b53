"""Items that no training event has, and that a model can still rank: by their features.

As wrong answers of every question, the scores of their features would be pushed down for them, and
their own vectors are noise that nothing ever trains. So training leaves them out of the softmax,
and they have no vectors of their own.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from clickflax.batch import RESERVED
from clickflax.data.item_features import ItemFeature
from clickflax.data.store import Dataset
from clickflax.runtime.params import by_name, tree_of

OWN_PARAMETERS = "embedder/tables_item/embedding"


def cold_items(
    dataset: Dataset, features: Mapping[str, ItemFeature], trained: Bool[np.ndarray, " E"]
) -> Bool[np.ndarray, " V"]:
    """The items that none of the `trained` events has; none, where they have no features."""
    found = np.full(dataset.size("item"), bool(features))
    found[dataset.columns["item"][trained]] = False
    return found[RESERVED:]


def cold_constants(cold: Bool[np.ndarray, " V"], tied: bool) -> dict[str, Any]:
    """What a model is given in training, so that the cold items are left out of its softmax.

    Features only enter the scores of a table that is `tied` to that of the inputs.
    """
    return {"head_item": {"cold": cold}} if tied and cold.any() else {}


def zero_cold_items(params: Any, cold: Bool[np.ndarray, " V"]) -> Any:
    """The parameters, with vectors of zero for the cold items; they have no gradient, and stay."""
    if not cold.any():
        return params
    rows = np.append(np.zeros(RESERVED, bool), cold)[:, None]
    named = by_name(params)
    return tree_of(named | {OWN_PARAMETERS: jnp.where(rows, 0.0, named[OWN_PARAMETERS])})
