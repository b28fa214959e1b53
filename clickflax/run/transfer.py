"""What a run takes from another one, what of it is frozen, and how fast the rest is trained."""

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

Tokens = Mapping[str, Sequence[str]]  # of each vocabulary and each text of the items, by id


class Transferred(NamedTuple):
    """What was taken from a run. The rows of new tokens, which are means, count as taken."""

    run: str
    parameters: int
    fresh: int
    tokens: dict[str, dict[str, int]]  # kept, new and gone, of each vocabulary

    def __str__(self) -> str:
        parts = [f"{self.parameters:,} from {self.run}, {self.fresh:,} fresh"]
        for name, counts in self.tokens.items():
            parts.append(f"{name}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
        return "; ".join(parts)


class TrainableParts(NamedTuple):
    """Which parameters are trained from when on, and how fast."""

    frozen: frozenset[str]  # those that `init.freeze` names
    thaw: int  # the step from which on they are trained; 0: never
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
    """The tokens of what a run reads, in the order of their ids; the first has id RESERVED."""
    vocabulary = {name: vocabularies.get(name.removeprefix(NEXT_EVENT)) for name in variables}
    ids = {name: one.tokens() for name, one in vocabulary.items() if one is not None}
    return ids | {name: one.variable.tokens for name, one in features.items() if one.size}


def tokens_of_run(run: Run) -> Tokens:
    """The tokens of what a trained run reads."""
    return tokens_of(run.vocabularies, run.variables, run.features)


def check_tokens(before: Tokens, now: Tokens, source: str) -> None:
    """Refuses to start from a run whose ids mean other things."""
    for name in sorted(before.keys() & now.keys()):
        if list(before[name]) != list(now[name]):
            raise ValueError(
                f"{source} has another vocabulary of {name!r}: {len(before[name]):,} tokens there, "
                f"{len(now[name]):,} here, and the same id means another one. Use the data set "
                "that the run was trained on, or set config.init.vocab='remap', which carries "
                "each token over."
            )


def matching_ids(now: Sequence[str], before: Sequence[str]) -> Int[np.ndarray, " V"]:
    """The place of every token of `now` among those of `before`; -1: it is new."""
    place = {token: i for i, token in enumerate(before)}
    return np.array([place.get(token, -1) for token in now], np.int64)


def copy_rows(
    rows: Float[np.ndarray, "N ..."], places: Int[np.ndarray, " V"], reserved: int
) -> Float[np.ndarray, "M ..."]:
    """The rows of reserved ids, then for every token its own row; for a new one, the mean of all.

    All new items would score the same, but for their features, which the embedder adds to this.
    """
    first, tokens = rows[:reserved], rows[reserved:]
    found = tokens[places]
    found[places < 0] = tokens.mean(0, dtype=np.float64)
    return np.concatenate([first, found])


def remap(params: Any, before: Tokens, now: Tokens) -> Any:
    """The parameters of a run with the tokens `before`, for one with the tokens `now`; what changes
    lies in the memory of the host.
    """
    named = by_name(params)
    for name, values in named.items():
        vocabulary, reserved = table_rows(name) or ("", 0)
        if vocabulary not in before.keys() & now.keys():
            continue
        if list(before[vocabulary]) != list(now[vocabulary]):
            places = matching_ids(now[vocabulary], before[vocabulary])
            named[name] = copy_rows(np.asarray(values), places, reserved)
    return tree_of(named)


def count_tokens(before: Sequence[str], now: Sequence[str]) -> dict[str, int]:
    """How many tokens are kept, are new and are gone."""
    kept = len(set(before) & set(now))
    return {"kept": kept, "new": len(now) - kept, "gone": len(before) - kept}


def start_from(run: Run, fresh: Any, now: Tokens, skip: Sequence[str]) -> tuple[Any, Transferred]:
    """The parameters of a run, for one with the tokens `now`, and what was taken.

    Raises ValueError with all that does not fit and that `skip` does not name.
    """
    before, source = tokens_of_run(run), str(run.folder)
    params = checkpoint.transfer(fresh, remap(run.params, before, now), skip, source)
    skipped = matching("init.skip", skip, list(by_name(fresh) | by_name(run.params)))
    new = count_params(split_params(params, skipped)[1])
    tokens = {name: count_tokens(before[name], now[name]) for name in now if name in before}
    return params, Transferred(source, count_params(params) - new, new, tokens)


def plan_training(config: ConfigDict, params: Any) -> TrainableParts:
    """What `config.init` and `config.optim.layer_decay` say of these parameters.

    Layers are slower the deeper they lie (Howard and Ruder, 2018; Clark et al., 2020). Raises
    ValueError where nothing is left to train.
    """
    names, thaw = list(by_name(params)), config.init.thaw
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
        # What will thaw has gradients and moments all the while, and counts in the clipping norm:
        # the bias correction of Adam counts every step, so that moments which began at the thaw
        # would make the first steps after it several times too large.
        awake = jnp.where(step >= thaw, 1.0, 0.0)
        return tree_of({n: awake * f if n in frozen else f for n, f in factors.items()})

    return TrainableParts(frozen, thaw, speed)
