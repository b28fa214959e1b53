"""Published models by name: they are accepted, and have the
parameters of their sources, but for what is noted.
"""

import math

import jax
import jax.numpy as jnp
import pytest

from clickflax.build import build_model
from clickflax.checks import check_config
from clickflax.config import default
from clickflax.events import RESERVED, Batch
from clickflax.protocols import PROTOCOLS, follow
from clickflax.step import init_params
from clickflax.variants import VARIANTS, vary

V = 3416  # items of MovieLens-1M as BERT4Rec and SASRec have it


def parameters(variant):
    """How many numbers are in the parameters, by shape alone."""
    config = vary(default(), variant)
    ids = jnp.full((1, 4), RESERVED)
    batch = Batch({"item": ids}, jnp.ones((1, 4), jnp.int32), ids, {})
    model = build_model(config.model, {"item": V + RESERVED})
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
    # these.
    "deberta4rec": bert(64, 0, 3072) + 399 * 64 + 2 * 2 * dense(64, 64),
    # Theirs has no dense layer behind the attention (2 x 2,550).
    "sasrec": causal(50, 200, 50),
    # Theirs has a feed-forward layer of 64, and no dense layer behind the attention.
    "sasrec+": causal(64, 200, 256),
    # Theirs has no dense layer behind the attention (2 x 16,512).
    "gsasrec": causal(128, 200, 128),
    "gbert4rec": bert(64, 200, 256),
    # Theirs has no biases in the feed-forward layer (2 x 576).
    # Two gates and the third layer of the feed-forward in each block.
    "esasrec": causal(64, 200, 256) + 2 * (2 * dense(64, 64) + dense(64, 256)),
    # Query, key, value and gate without biases; 399 distances; two LayerNorms; out; and a last one.
    "hstu": (V + RESERVED) * 50
    + 200 * 50
    + 2 * (4 * 50 * 50 + 399 + 2 * 2 * 50 + dense(50, 50))
    + 2 * 50,
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


def test_a_variant_that_is_not_known_is_refused_with_all_that_are():
    with pytest.raises(ValueError, match=r"'sasrek' is not one of the variants .*'sasrec\+'"):
        vary(default(), "sasrek")
