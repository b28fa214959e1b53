"""Cold items: items without training events, which a model can rank by their features.

In the softmax of training they would only ever be negatives, which would teach the model low scores
for their features, and their own vectors would stay random. So training leaves them out of the
softmax, and their own vectors are zero.
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
    """A mask of the items that are in none of the `trained` events; all False without features."""
    cold = np.full(dataset.size("item"), bool(features))
    cold[dataset.columns["item"][trained]] = False
    return cold[RESERVED:]


def cold_constants(cold: Bool[np.ndarray, " V"], tied: bool) -> dict[str, Any]:
    """Constants of the model in training that leave cold items out of its softmax.

    {} unless the output table is `tied` to that of the inputs: other tables have no features.
    """
    return {"head_item": {"cold": cold}} if tied and cold.any() else {}


def zero_cold_items(params: Any, cold: Bool[np.ndarray, " V"]) -> Any:
    """The parameters with zero vectors for cold items; without gradients, these stay zero."""
    if not cold.any():
        return params
    rows = np.append(np.zeros(RESERVED, bool), cold)[:, None]
    named = by_name(params)
    return tree_of(named | {OWN_PARAMETERS: jnp.where(rows, 0.0, named[OWN_PARAMETERS])})
