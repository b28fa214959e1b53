"""Published models by name: they are accepted, and have the
parameters of their sources, but for what is noted.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clickflax.batch import RESERVED, Batch
from clickflax.config import default
from clickflax.config.check import check_config
from clickflax.config.protocols import PROTOCOLS, follow
from clickflax.config.variants import VARIANTS, vary
from clickflax.run.model import build_model
from clickflax.runtime.params import by_name
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.training.setup import set_up
from clickflax.training.step import init_params

V = 3416  # items of MovieLens-1M as BERT4Rec and SASRec have it


def parameters(variant):
    """How many numbers are in the parameters, by shape alone."""
    config = vary(default(), variant)
    ids = jnp.full((1, 4), RESERVED)
    read = {"item": ids, "time": jnp.zeros((1, 4))}
    read = {name: read[name] for name in config.data.variables}
    batch = Batch(read, jnp.ones((1, 4), jnp.int32), ids, {})
    sizes = {"item": V + RESERVED, "time": 0}
    model = build_model(config.model, {name: sizes[name] for name in read})
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0), batch))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def dense(inputs, outputs):
    return inputs * outputs + outputs


def block(width, hidden, norms=2):
    """Query, key, value and out; the two layers of the feed-forward; LayerNorms."""
    return 4 * dense(width, width) + dense(width, hidden) + dense(hidden, width) + norms * 2 * width


def bert(width, length, hidden, layers=2):
    """Table, positions, LayerNorm; blocks; dense, LayerNorm and biases before the tied table."""
    embedder = (V + RESERVED) * width + length * width + 2 * width
    return embedder + layers * block(width, hidden) + dense(width, width) + 2 * width + V


def causal(width, length, hidden, layers=2):
    """Table, positions; blocks; the last LayerNorm; scores are those of the table alone."""
    return (V + RESERVED) * width + length * width + layers * block(width, hidden) + 2 * width


def hstu(layers, heads):
    """Table, positions; blocks with query, key, value and gate without biases, 399 distances for
    each head, two LayerNorms, and out; a last LayerNorm.
    """
    block = 4 * 50 * 50 + heads * 399 + 2 * 2 * 50 + dense(50, 50)
    return (V + RESERVED) * 50 + 200 * 50 + layers * block + 2 * 50


EXPECTED = {
    # Theirs has 3,420 rows in the place of V + RESERVED, 2 types of segments (128) and a layer of
    # the first state (4,160), on which no output depends.
    "bert4rec": bert(64, 200, 256),
    # No LayerNorm of embeddings (512), nor dense and LayerNorm before the scores (66,304), but a
    # table of its own. Theirs has no LayerNorm after the last block (512), and a score for PAD.
    "bert4rec_vae": causal(256, 100, 1024) + V * 256 + V,
    # Theirs has 51 positions (64).
    "bert4rec_recbole": bert(64, 50, 256),
    # Theirs has no LayerNorm after the last block (512).
    "bert4rec_rectools": causal(256, 100, 1024),
    # Theirs has 200 positions, of which 100 are used (6,400), and 2 types of segments (128).
    "bert4rec_study": bert(64, 100, 3072),
    # One block for both layers; a table of width 128, projected to 256, and back for the scores.
    # Theirs has 400 positions, types of segments, and both of width 128, before the projection.
    "albert4rec": (V + RESERVED) * 128
    + 128 * 256
    + 200 * 256
    + 2 * 256
    + block(256, 16384)
    + dense(256, 128)
    + 2 * 128
    + V,
    # No positions in the embeddings: 399 distances for all blocks, and in each a query and a key of
    # these. The library's has V + 2 rows, 512 distances with a LayerNorm (128), and biases of
    # queries and values alone.
    "deberta4rec": bert(64, 0, 3072) + 399 * 64 + 2 * 2 * dense(64, 64),
    # Theirs has no dense layer behind the attention (2 x 2,550).
    "sasrec": causal(50, 200, 50),
    "sasrec_modern": causal(64, 200, 256),
    # Theirs has V + 1 rows in the place of V + RESERVED.
    "sasrec+": causal(64, 200, 64),
    "sasrec+_3000": causal(64, 200, 64),
    # Theirs has no dense layer behind the attention (2 x 16,512).
    "gsasrec": causal(128, 200, 128),
    "gbert4rec": bert(64, 200, 256),
    # Theirs has no biases in the feed-forward layer (2 x 576).
    # Two gates and the third layer of the feed-forward in each block.
    "esasrec": causal(64, 200, 256) + 2 * (2 * dense(64, 64) + dense(64, 256)),
    # Theirs has no LayerNorms with parameters, 5 of 100 each.
    "hstu": hstu(layers=2, heads=1),
    # A number for each of 30 octaves of time; theirs has 129.
    "hstu_time": hstu(layers=2, heads=1) + 2 * 30,
    "hstu_large": hstu(layers=8, heads=2),
    # Three gates of the event, and of the state two without biases and one with.
    "gru4rec": (V + RESERVED) * 64 + 3 * dense(64, 64) + 2 * 64 * 64 + dense(64, 64),
}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_variant_has_the_parameters_that_are_counted_by_hand(variant):
    assert parameters(variant) == EXPECTED[variant]


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_variant_is_accepted_under_every_protocol(variant):
    for protocol in PROTOCOLS:
        check_config(follow(vary(default(), variant), protocol))


# What makes a model large and a step long, and nothing else.
SMALL = {
    "data.stride": 4,
    "model.width": 8,
    "model.heads": 2,
    "model.feed_forward": 16,
    "model.max_len": 8,
    "optim.learning_rate": 1e-3,
    "optim.schedule": "constant",
    "optim.warmup_steps": 0,
    "train.batch_size": 24,
    "train.steps_at_once": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_parameter_of_a_variant_moves_in_a_step(tmp_path, optax_promotes, variant):
    simulate(tmp_path / "shop", Shop(sequences=80, items=20, mean_length=7.0, max_length=12))
    config = follow(vary(default(), variant), "turning_dross")
    # What a block has not, or a window, stays as it is.
    left = {"data.stride"} if config.data.window != "sliding" else set()
    left |= {"model.feed_forward"} if config.model.block != "transformer" else set()
    left |= {"model.heads"} if config.model.block == "gru" else set()
    few = {knob: value for knob, value in SMALL.items() if knob not in left}
    config.update_from_flattened_dict(few)
    config.data.path = str(tmp_path / "shop")
    if config.model.widths:
        config.model.widths = ("item=4",)
    if config.loss.negatives:
        config.loss.negatives = min(config.loss.negatives, 6)
    context, state = set_up(config, tmp_path / "run")
    before = {name: np.asarray(one) for name, one in by_name(state.params).items()}
    for step in range(2):  # some are zero at first, and keep others from moving
        state, metrics = context.steps(state, step, 1)
    assert np.isfinite(metrics["loss"]).all()
    # The bias of keys moves all scores of a question alike, and has no gradient but rounding.
    still = [n for n, one in by_name(state.params).items() if np.array_equal(before[n], one)]
    assert [name for name in still if not name.endswith("key/bias")] == []


def test_a_variant_that_is_not_known_is_refused_with_all_that_are():
    with pytest.raises(ValueError, match=r"'sasrek' is not one of the variants .*'sasrec\+'"):
        vary(default(), "sasrek")


def test_a_variant_comes_first():
    with pytest.raises(ValueError, match="config.data.position_from='start' is not its default"):
        vary(vary(default(), "bert4rec"), "sasrec")
    config = default()
    config.model.width = 32
    with pytest.raises(ValueError, match="model.width=32 is not .* take the variant 'sasrec' fir"):
        vary(config, "sasrec")
    assert vary(follow(default(), "uni50"), "sasrec").model.width == 50
