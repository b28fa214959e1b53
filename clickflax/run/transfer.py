"""Transfer learning: parameters of another run, which of them are frozen, and layer-wise rates."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from clickflax.batch import NEXT_EVENT
from clickflax.data.item_features import ItemFeature
from clickflax.data.store import Vocabulary
from clickflax.data.variables import Variable
from clickflax.model.names import depth, table_rows
from clickflax.run.folder import Run
from clickflax.runtime import checkpoint
from clickflax.runtime.params import by_name, count_params, matching, split_params, tree_of

Tokens = Mapping[str, Sequence[str]]  # of each vocabulary and each item feature, by id


class Transferred(NamedTuple):
    """How much was transferred from a run; the rows of new tokens, which are means, count."""

    run: str
    parameters: int
    fresh: int  # parameters that were initialised
    tokens: dict[str, dict[str, int]]  # numbers of kept, new and gone ones of each vocabulary

    def __str__(self) -> str:
        parts = [f"{self.parameters:,} from {self.run}, {self.fresh:,} fresh"]
        for name, counts in self.tokens.items():
            parts.append(f"{name}: " + ", ".join(f"{n:,} {kind}" for kind, n in counts.items()))
        return "; ".join(parts)


class TrainableParts(NamedTuple):
    """The parameters that are frozen, and factors of the updates of the others."""

    frozen: frozenset[str]  # by `init.freeze`
    thaw: int  # step from which on the frozen ones are trained; 0: never
    speed: Callable[[Int[Array, ""]], Any] | None  # see `make_optimizer`

    @property
    def never(self) -> frozenset[str]:
        """The parameters that are never trained."""
        return frozenset() if self.thaw else self.frozen


def tokens_of(
    vocabularies: Mapping[str, Vocabulary],
    variables: Mapping[str, Variable],
    features: Mapping[str, ItemFeature],
) -> Tokens:
    """The tokens of the inputs of a run, in the order of their ids; the first has id RESERVED."""
    vocabulary = {name: vocabularies.get(name.removeprefix(NEXT_EVENT)) for name in variables}
    tokens = {name: one.tokens() for name, one in vocabulary.items() if one is not None}
    return tokens | {name: one.variable.tokens for name, one in features.items() if one.size}


def tokens_of_run(run: Run) -> Tokens:
    """The tokens of the inputs of a trained run."""
    return tokens_of(run.vocabularies, run.variables, run.features)


def check_tokens(before: Tokens, now: Tokens, source: str) -> None:
    """Raises ValueError if the run at `source` has other ids for the tokens."""
    for name in sorted(before.keys() & now.keys()):
        if list(before[name]) != list(now[name]):
            raise ValueError(
                f"{source} has another vocabulary of {name!r}: {len(before[name]):,} tokens there, "
                f"{len(now[name]):,} here, with different ids. Use the data set that the run was "
                "trained on, or set config.init.vocab='remap', which transfers rows by token."
            )


def matching_ids(now: Sequence[str], before: Sequence[str]) -> Int[np.ndarray, " V"]:
    """The index in `before` of every token of `now`; -1 for a new token."""
    index = {token: i for i, token in enumerate(before)}
    return np.array([index.get(token, -1) for token in now], np.int64)


def copy_rows(
    rows: Float[np.ndarray, "N ..."], index: Int[np.ndarray, " V"], reserved: int
) -> Float[np.ndarray, "M ..."]:
    """The rows of reserved ids, then those of `index` among the others; for -1, their mean.

    So all new items have the same vector; features that the model reads are added to it.
    """
    first, tokens = rows[:reserved], rows[reserved:]
    copied = tokens[index]
    copied[index < 0] = tokens.mean(0, dtype=np.float64)
    return np.concatenate([first, copied])


def remap(params: Any, before: Tokens, now: Tokens) -> Any:
    """The parameters of a run with the tokens `before`, for a run with the tokens `now`.

    Tables whose rows change are arrays on the host.
    """
    named = by_name(params)
    for name, values in named.items():
        vocabulary, reserved = table_rows(name) or ("", 0)
        if vocabulary not in before.keys() & now.keys():
            continue
        if list(before[vocabulary]) != list(now[vocabulary]):
            index = matching_ids(now[vocabulary], before[vocabulary])
            named[name] = copy_rows(np.asarray(values), index, reserved)
    return tree_of(named)


def count_tokens(before: Sequence[str], now: Sequence[str]) -> dict[str, int]:
    """The numbers of kept, new and gone tokens."""
    kept = len(set(before) & set(now))
    return {"kept": kept, "new": len(now) - kept, "gone": len(before) - kept}


def start_from(run: Run, fresh: Any, now: Tokens, skip: Sequence[str]) -> tuple[Any, Transferred]:
    """The parameters of a run for another run with the tokens `now`, and how much is transferred.

    Raises ValueError with all parameters that do not fit and that `skip` does not name.
    """
    before = tokens_of_run(run)
    source = str(run.folder)
    params = checkpoint.transfer(fresh, remap(run.params, before, now), skip, source)
    skipped = matching("init.skip", skip, list(by_name(fresh) | by_name(run.params)))
    new = count_params(split_params(params, skipped)[1])
    tokens = {name: count_tokens(before[name], now[name]) for name in now if name in before}
    return params, Transferred(source, count_params(params) - new, new, tokens)


def plan_training(config: ConfigDict, params: Any) -> TrainableParts:
    """The trainable parts of parameters by `config.init` and `config.optim.layer_decay`.

    Updates are smaller for layers nearer to the input (Howard and Ruder, 2018; Clark et al., 2020).
    Raises ValueError if all parameters are frozen.
    """
    names = list(by_name(params))
    thaw = config.init.thaw
    frozen = matching("init.freeze", config.init.freeze, names)
    if len(frozen) == len(names):
        raise ValueError(
            f"init.freeze={config.init.freeze} freezes every parameter; leave one to train."
        )
    decay = config.optim.layer_decay
    if decay == 1 and not (frozen and thaw):
        return TrainableParts(frozen, thaw, None)
    trained = [name for name in names if thaw or name not in frozen]
    layers = 1 if config.model.shared_layers else config.model.layers
    factors = {name: decay ** depth(name, layers) for name in trained}

    def speed(step: Int[Array, ""]) -> Any:
        # Until then, frozen parameters have gradients and moments, and count in the clipping norm.
        # Moments that started at the thaw would make the first updates several times too large,
        # because Adam's bias correction counts all steps.
        thawed = jnp.where(step >= thaw, 1.0, 0.0)
        return tree_of({n: thawed * f if n in frozen else f for n, f in factors.items()})

    return TrainableParts(frozen, thaw, speed)
