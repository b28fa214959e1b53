"""`clickflax baselines`: rankings and label models that need no accelerator.

Each module of `BUILT_IN` registers its baselines in `ITEM_BASELINES` (`rankers.py`) or
`LABEL_BASELINES` (`label_models.py`) when it is imported. Tables list them in this order.
"""

import importlib

BUILT_IN = ("count_baselines", "item_knn", "ease", "bpr", "constant", "linear", "trees")

for _module in BUILT_IN:
    importlib.import_module(f"{__name__}.{_module}")
