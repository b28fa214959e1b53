"""Transformers of click behaviour, in JAX and Flax.

Events become sequences, sequences become packed batches, a model (embedder, encoder, head)
answers, a task defines targets, loss and metrics, and a run folder keeps what was learned.

    import clickflax

    run = clickflax.load("runs/quickstart")
    clickflax.top_k(run, [["item-1", "item-2"]], k=5)

Importing this package imports neither JAX nor anything else that takes time: each name of `PUBLIC`
is imported when it is used first.
"""

import importlib
import sys
from typing import Any

__version__ = "0.2.0"

# Public names, and the module and name that each is short for.
PUBLIC = {
    "prepare": ("clickflax.preparation.main", "prepare"),
    "simulate": ("clickflax.simulation.main", "simulate"),
    "train": ("clickflax.training.loop", "train"),
    "evaluate": ("clickflax.evaluation.main", "evaluate_run"),
    "load": ("clickflax.run.folder", "load_run"),
    "Run": ("clickflax.run.folder", "Run"),
    "top_k": ("clickflax.inference.recommend", "top_k"),
}
# Modules of 0.1.0 that people import, and where their contents are now.
MOVED = {
    "events": "clickflax.batch",
    "evaluate": "clickflax.evaluation.main",
    "protocols": "clickflax.config",
    "recommend": "clickflax.inference.recommend",
    "train": "clickflax.training.loop",
    "variants": "clickflax.config",
    "data.prepare": "clickflax.preparation.main",
    "data.simulate": "clickflax.simulation.main",
    "data.split": "clickflax.data.splits.common",
    "tasks.metrics": "clickflax.tasks.ranking_metrics",
    "tasks.tasks": "clickflax.tasks.task",
}


def __getattr__(name: str) -> Any:
    """A public name, imported on first use."""
    if name in PUBLIC:
        module, attribute = PUBLIC[name]
        return getattr(importlib.import_module(module), attribute)
    if name == "recommend":  # `from clickflax import recommend` of 0.1.0
        return importlib.import_module(MOVED[name])
    raise AttributeError(f"module 'clickflax' has no attribute {name!r}; it offers {[*PUBLIC]}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})


class MovedModules:
    """Finder of last resort for imports: says where a module of 0.1.0 is now."""

    def find_spec(self, name: str, path: Any, target: Any = None, /) -> None:
        """Raises ModuleNotFoundError for a module of `MOVED`."""
        package, _, module = name.partition(".")
        if package == "clickflax" and module in MOVED:
            raise ModuleNotFoundError(f"{name} has moved: import from {MOVED[module]}.", name=name)


sys.meta_path.append(MovedModules())
