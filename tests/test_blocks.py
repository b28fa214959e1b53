"""Every block and every kind of position: what a state depends on, and formulas of papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_model import SEQUENCES
from toy import ITEMS, rows, small_config

from clickflax.batch import RESERVED
from clickflax.config import default
from clickflax.model.attention import Attention, disentangled, rotate, xla
from clickflax.model.blocks.gru import GRUBlock
from clickflax.model.blocks.hstu import HSTUBlock
from clickflax.model.blocks.registry import BLOCKS
from clickflax.model.blocks.transformer import TransformerBlock
from clickflax.model.distance import (
    OCTAVES,
    Distances,
    gather_distances,
    relative_positions,
    time_octaves,
)
from clickflax.model.rows import Rows, take_columns
from clickflax.run.model import build_model
from clickflax.training.step import init_params

HSTU_HAS_NONE = {name: default().model[name] for name in ("feed_forward", "attention_dropout")}
GRU_HAS_NONE = {**HSTU_HAS_NONE, "heads": default().model.heads}
LIGR = {"norm": "pre", "gate": True, "glu": True, "activation": "silu"}
VARIANTS = {
    "sasrec": {"norm": "query"},
    "ligr": LIGR,
    "shared": {"shared_layers": True},
    "rotary": {"positions": "rotary"},
    "relative": {"positions": "relative"},
    "disentangled": {"positions": "disentangled"},
    "time": {"relative_time": True},
    "hstu": {"block": "hstu", **HSTU_HAS_NONE},
    "hstu_time": {"block": "hstu", "relative_time": True, **HSTU_HAS_NONE},
    "gru": {"block": "gru", "positions": "none", **GRU_HAS_NONE},
    "factorised": {"widths": ("item=4",)},
    "none": {"positions": "none"},
}


@functools.cache
def model_of(name, **more):
    """A model of a variant, and parameters none of which is zero."""
    sizes = {"item": ITEMS + RESERVED}
    if VARIANTS[name].get("relative_time"):
        sizes["time"] = 0
    model = build_model(small_config(**(VARIANTS[name] | more)).model, sizes)
    params = init_params(model, jax.random.key(0), timed(rows([[1, 2, 3]])))
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    noise = jax.tree.map(lambda x, key: x + 0.2 * jax.random.normal(key, x.shape), params, keys)
    return model, noise


def timed(batch):
    """The batch with times, such that those of an item are always the same."""
    time = jnp.sqrt(batch.variables["item"].astype(jnp.float32))
    return batch._replace(variables={**batch.variables, "time": time})


def encode(model, params, batch, causal, columns=None):
    rest = (batch.segment, batch.position, causal, False, columns)
    return model.apply({"params": params}, timed(batch).variables, *rest, method="encode")


def directions(name):
    block = BLOCKS[VARIANTS[name].get("block", "transformer")]
    return [True] if block.causal_only else [True, False]


# Each has a part of the model that no other one has; the others are slow.
FAST = ("sasrec", "relative", "disentangled", "time", "hstu_time", "gru", "factorised")


def marked(names):
    """The variants as parameters, of which those that are not `FAST` are slow."""
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


EVERY = [
    pytest.param(name, causal, marks=() if name in FAST else pytest.mark.slow)
    for name in VARIANTS
    for causal in directions(name)
]


@pytest.mark.parametrize(("name", "causal"), EVERY)
def test_a_state_depends_on_what_it_may_see_in_its_sequence_and_on_all_of_that(name, causal):
    model, params = model_of(name)
    batch = rows([[1, 2, 3, 4, 5], [6, 7, 8]], [0, 0])
    table = params["embedder"]["tables_item"]["embedding"]

    def states(table):
        embedder = {**params["embedder"], "tables_item": {"embedding": table}}
        return encode(model, {**params, "embedder": embedder}, batch, causal)[0]

    gradient = jax.jit(jax.jacobian(states))(table)[:, :, batch.variables["item"][0]]
    seen = np.abs(np.asarray(gradient)).max(axis=(1, 3)) > 1e-9
    same = np.asarray(batch.segment[0])[:, None] == np.asarray(batch.segment[0])[None]
    assert np.array_equal(seen, same & np.tri(8, dtype=bool) if causal else same)


@pytest.mark.parametrize("name", marked(VARIANTS))
def test_a_sequence_has_the_same_states_alone_packed_padded_and_at_some_columns(name):
    causal = True  # in both directions, `EVERY` is tested by gradients above
    model, params = model_of(name, max_len=16)
    packed = encode(model, params, rows(SEQUENCES, [0, 0, 0], 10), causal)[0]
    padded = encode(model, params, rows(SEQUENCES, length=16), causal)
    for i, sequence in enumerate(SEQUENCES):
        n, first = len(sequence), sum(map(len, SEQUENCES[:i]))
        own = encode(model, params, rows([sequence], length=n), causal)[0]
        np.testing.assert_allclose(padded[i, :n], own, atol=2e-5)
        np.testing.assert_allclose(packed[first : first + n], own, atol=2e-5)
    columns = jnp.array([[2, 4, 4], [0, 1, 1], [4, 0, 2]])
    some = encode(model, params, rows(SEQUENCES, length=16), causal, columns)
    expected = jnp.take_along_axis(padded, columns[..., None], axis=1)
    np.testing.assert_allclose(some, expected, atol=2e-5)


@pytest.mark.parametrize("name", ["rotary", "relative", "disentangled", "hstu", "gru", "none"])
def test_the_order_of_events_matters_to_every_kind_of_position_and_to_none_without(name):
    # With two causal layers it would matter without any position.
    positions = {"positions": "none"} if name in ("hstu", "none") else {}
    model, params = model_of(name, layers=1, **positions)
    one = encode(model, params, rows([[1, 2, 3, 4]]), True)[0, 3]
    other = encode(model, params, rows([[2, 1, 3, 4]]), True)[0, 3]
    assert (jnp.abs(one - other).max() > 1e-4) == (name != "none")


def test_time_matters_where_it_is_compared_alone():
    for name in ("time", "hstu_time"):
        model, params = model_of(name)
        batch = timed(rows([[1, 2, 3, 4]]))

        def states(time, batch=batch, model=model, params=params):
            variables = {**batch.variables, "time": time}
            rest = (batch.segment, batch.position, True, False)
            return model.apply({"params": params}, variables, *rest, method="encode")[0, :4]

        time = batch.variables["time"]
        np.testing.assert_allclose(states(time), states(time + 1), atol=1e-5)  # all of them later
        assert jnp.abs(states(time) - states(4 * time)).max() > 1e-4
        missing = states(time.at[0, 1].set(jnp.nan).at[0, 3].set(jnp.inf))
        assert jnp.isfinite(missing).all()


def test_a_product_of_rotated_vectors_depends_on_their_distance_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 6))
    position = jnp.array([[0], [3], [100]])

    def product(a, b):
        return (rotate(q, position[a : a + 1]) * rotate(k, position[b : b + 1] + 2)).sum()

    assert product(0, 0) == pytest.approx(float(product(2, 2)), abs=1e-4)
    assert abs(product(0, 0) - product(0, 1)) > 1e-2
    assert jnp.array_equal(rotate(q, position[:1]), q)  # position 0 is not rotated
    # The first pair is numbers 0 and 3, rotated by 1 at position 1.
    one = rotate(q, jnp.array([[1]]))[0, 0, 0]
    assert one[0] == pytest.approx(float(q[0, 0, 0, 0] * np.cos(1) - q[0, 0, 0, 3] * np.sin(1)))


def test_distances_are_relative_positions_and_octaves_of_time():
    day = 1 / 400.0  # of a year whose deviation is 1
    time = jnp.array([[0.0, 0.0, day, 3 * day, jnp.inf]])
    batch = Rows(jnp.ones((1, 5), int), jnp.arange(5)[None], time)
    apart = relative_positions(batch, 3)[0]
    assert apart[0].tolist() == [2, 1, 0, 0, 0] and apart[4].tolist() == [4, 4, 4, 3, 2]
    found = time_octaves(batch)[0]
    found = np.asarray(found)
    assert found[0, 0] == found[0, 1] == 0
    assert found[1, 2] == found[2, 1] == np.floor(np.log2(day)) + 21
    assert found[2, 3] == found[1, 2] + 1  # twice as far apart
    assert found[0, 4] == found[4, 4] == OCTAVES  # a time that is not known
    some = batch._replace(columns=jnp.array([[3, 1]]))
    assert np.array_equal(time_octaves(some)[0], found[[3, 1]])
    assert np.array_equal(relative_positions(some, 3)[0], apart[jnp.array([3, 1])])


def test_a_bias_of_distance_is_read_from_its_table():
    batch = Rows(jnp.ones((1, 4), int), jnp.arange(4)[None], jnp.zeros((1, 4)))
    module = Distances(2, 4, "relative", True)
    tables = {
        "places": jnp.arange(14.0),
        "octaves": 100 * jnp.ones(2 * OCTAVES + 2),
    }
    bias = module.apply({"params": tables}, batch)
    assert bias.shape == (1, 2, 4, 4)
    assert bias[0, 1, 2, 0] == 100 + 2 * (2 + 3) + 1  # head 1; two events before
    assert Distances(2, 4, "learned", False).apply({}, batch) is None


def test_disentangled_scores_are_the_sums_over_pairs_of_the_paper():
    keys = jax.random.split(jax.random.key(0), 4)
    q, k = (jax.random.normal(key, (2, 2, 3, 4)) for key in keys[:2])
    theirs = [jax.random.normal(key, (1, 2, 5, 4)) for key in keys[2:]]  # distances -2 ... 2
    found = disentangled(q, k, *theirs, None)
    query_of, key_of = theirs
    for i in range(3):
        for j in range(3):
            asks = (q[:, :, i] * key_of[:, :, i - j + 2]).sum(-1)
            asked = (k[:, :, j] * query_of[:, :, j - i + 2]).sum(-1)
            np.testing.assert_allclose(found[:, :, i, j], asks + asked, rtol=1e-4, atol=1e-5)
    columns = jnp.array([[2, 0], [1, 1]])
    some = disentangled(take_columns(q.swapaxes(1, 2), columns).swapaxes(1, 2), k, *theirs, columns)
    expected = take_columns(found.swapaxes(1, 2), columns).swapaxes(1, 2)
    np.testing.assert_allclose(some, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("most", [4, 6])  # distances, among them some that no row has
@pytest.mark.parametrize("columns", [None, [[3, 0], [1, 1]]])
def test_gathered_distances_are_the_values_at_the_distances(most, columns):
    columns = None if columns is None else jnp.array(columns)
    queries = 4 if columns is None else 2
    x = jax.random.normal(jax.random.key(0), (2, 3, queries, 2 * most - 1))
    batch = Rows(jnp.ones((2, 4), int), jnp.zeros((2, 4), int), columns=columns)
    apart = relative_positions(batch, most)
    apart = np.broadcast_to(np.asarray(apart)[:, None], (2, 3, queries, 4))
    expected = np.take_along_axis(np.asarray(x), apart, axis=3)
    assert np.array_equal(gather_distances(x, columns, 4), expected)


def dense(params, x):
    return x @ params["kernel"] + params.get("bias", 0.0)


def norm(params, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * params["scale"] + params["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def one_row(module, length=4, width=6, time=False):
    """Random states of a row of one sequence, random parameters, the row, and what comes out."""
    x = jax.random.normal(jax.random.key(5), (1, length, width))
    position = jnp.arange(length)[None]
    times = jnp.sqrt(position.astype(jnp.float32)) if time else None
    batch = Rows(jnp.ones((1, length), int), position, times)
    params = module.init(jax.random.key(6), x, batch, True, False)["params"]
    params = jax.tree.map(lambda p: p + 0.3 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    found = module.apply({"params": params}, x, batch, True, False)
    return np.float64(x[0]), jax.tree.map(np.float64, params), batch, found[0]


def test_hstu_is_the_formula_of_its_paper():
    init = jax.nn.initializers.normal(0.3)
    x, params, batch, found = one_row(HSTUBlock(2, 8, True, 0.0, init), time=True)
    seen = norm(params["LayerNorm_0"], x)
    u, q, k, v = (silu(dense(params[n], seen)) for n in ("gate", "query", "key", "value"))
    tables = params["Distances_0"]
    heads = []
    for head, part in enumerate([slice(0, 3), slice(3, 6)]):
        bias = tables["places"].reshape(-1, 2)[np.asarray(relative_positions(batch, 8))[0], head]
        bias = bias + tables["octaves"].reshape(-1, 2)[np.asarray(time_octaves(batch))[0], head]
        heads.append(np.tri(4) * silu(q[:, part] @ k[:, part].T + bias) / 8 @ v[:, part])
    mixed = norm(params["LayerNorm_1"], np.concatenate(heads, 1))
    expected = x + dense(params["out"], mixed * u)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def softmax_attention(params, asking, x):
    q, k, v = (dense(params[n], y) for n, y in [("query", asking), ("key", x), ("value", x)])
    scores = np.where(np.tri(len(x), dtype=bool), q @ k.T / np.sqrt(q.shape[1]), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return dense(params["out"], weights / weights.sum(-1, keepdims=True) @ v)


def block(norm, **more):
    plain = {"glu": False, "gate": False, "activation": "relu"}
    rest = {"positions": "learned", "relative_time": False, "max_len": 8}
    rest |= {"dropout": 0.0, "attention_dropout": 0.0}
    init = jax.nn.initializers.normal(0.3)
    return TransformerBlock(1, 5, norm, **(plain | more), **rest, attend=xla, kernel_init=init)


def test_the_block_of_sasrec_is_the_formula_of_its_paper():
    x, params, _, found = one_row(block("query"))
    asking = norm(params["LayerNorm_0"], x)
    y = asking + softmax_attention(params["Attention_0"], asking, x)
    y = norm(params["LayerNorm_1"], y)
    layers = params["FeedForward_0"]
    expected = y + dense(layers["down"], np.maximum(dense(layers["up"], y), 0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_block_of_ligr_is_the_formula_of_its_paper():
    x, params, _, found = one_row(block("pre", gate=True, glu=True, activation="silu"))

    def sigmoid(y):
        return 1 / (1 + np.exp(-y))

    seen = norm(params["LayerNorm_0"], x)
    mixed = softmax_attention(params["Attention_0"], seen, seen)
    y = x + mixed * sigmoid(dense(params["gate_of_attention"], x))
    layers, seen = params["FeedForward_0"], norm(params["LayerNorm_1"], y)
    inner = silu(dense(layers["up"], seen)) * dense(layers["beside"], seen)
    expected = y + dense(layers["down"], inner) * sigmoid(dense(params["gate_of_feed_forward"], y))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_rotary_and_disentangled_attention_are_the_formulas_of_their_papers():
    for positions in ("rotary", "disentangled"):
        x = jax.random.normal(jax.random.key(5), (1, 4, 6))
        relative = jax.random.normal(jax.random.key(6), (7, 6))  # distances -3 ... 3
        batch = Rows(jnp.ones((1, 4), int), 2 + jnp.arange(4)[None], distances=relative)
        init = jax.nn.initializers.normal(0.5)
        distances = Distances(1, 4, positions, False)
        module = Attention(1, 0.0, positions, distances, xla, init)
        params = module.init(jax.random.key(7), x, x, batch, False, False)["params"]
        found = module.apply({"params": params}, x, x, batch, False, False)[0]
        params = jax.tree.map(np.float64, params)
        q, k, v = (dense(params[name], np.float64(x[0])) for name in ("query", "key", "value"))
        if positions == "rotary":
            q, k = (
                np.float64(rotate(jnp.float32(y)[None, None], batch.position)[0, 0]) for y in (q, k)
            )
            scores = q @ k.T / np.sqrt(6)
        else:
            query_of = dense(params["query_of_distance"], np.float64(relative))
            key_of = dense(params["key_of_distance"], np.float64(relative))
            scores = np.empty((4, 4))
            for i in range(4):
                for j in range(4):
                    asks = q[i] @ key_of[i - j + 3] + k[j] @ query_of[j - i + 3]
                    scores[i, j] = (q[i] @ k[j] + asks) / np.sqrt(3 * 6)
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        expected = dense(params["out"], weights @ v)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", marked(["ligr", "rotary", "disentangled", "hstu_time", "gru"]))
def test_in_bfloat16_states_are_nearly_the_same_and_gradients_float32(name):
    model, params = model_of(name)
    rough, _ = model_of(name, dtype="bfloat16")
    batch = rows(SEQUENCES)
    exact = encode(model, params, batch, True)
    found = encode(rough, params, batch, True)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.15)

    def size(params):
        return jnp.square(encode(rough, params, batch, True).astype(jnp.float32)).sum()

    for gradient in jax.tree.leaves(jax.jit(jax.grad(size))(params)):
        assert gradient.dtype == jnp.float32 and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("remat", ["attention", "block"])
@pytest.mark.parametrize("name", marked(["ligr", "relative", "disentangled", "shared"]))
def test_what_is_computed_twice_changes_no_number(name, remat):
    batch, found = rows(SEQUENCES), []
    for how in ("none", remat):
        model, params = model_of(name, remat=how)

        def size(params, model=model):
            return jnp.square(encode(model, params, batch, True)).sum()

        found.append(jax.grad(size)(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)


def test_layers_that_are_shared_drop_different_elements():
    model, params = model_of("shared", dropout=0.5, attention_dropout=0.5)
    one, _ = model_of("shared", dropout=0.5, attention_dropout=0.5, layers=1)
    batch = timed(rows([[1, 2, 3]]))
    rest = (batch.variables, batch.segment, batch.position, True, True)

    def masks(model):
        key = {"dropout": jax.random.key(3)}
        _, kept = model.apply(
            {"params": params},
            *rest,
            method="encode",
            rngs=key,
            capture_intermediates=lambda module, _: type(module).__name__ == "Dropout",
            mutable=["intermediates"],
        )
        return [np.asarray(x) == 0 for x in jax.tree.leaves(kept)]

    assert len(masks(model)) > len(masks(one))
    several = [m for m in masks(model) if m.shape == (1, 8, 8)]
    assert not any(np.array_equal(a, b) for i, a in enumerate(several) for b in several[:i])


def test_a_recurrent_layer_is_the_formula_of_its_paper():
    x, params, _, found = one_row(GRUBlock(0.0, jax.nn.initializers.normal(0.3)))
    cell, state = params["cell"], np.zeros(6)

    def sigmoid(y):
        return 1 / (1 + np.exp(-y))

    for event, expected in zip(x, np.asarray(found), strict=True):
        reset = sigmoid(dense(cell["ir"], event) + dense(cell["hr"], state))
        update = sigmoid(dense(cell["iz"], event) + dense(cell["hz"], state))
        new = np.tanh(dense(cell["in"], event) + reset * dense(cell["hn"], state))
        state = (1 - update) * new + update * state
        np.testing.assert_allclose(state, expected, rtol=1e-4, atol=1e-5)


def count(name):
    _, params = model_of(name)
    return sum(x.size for x in jax.tree.leaves(params))


def test_variants_have_the_parameters_of_their_papers():
    width, hidden, length, layers, heads = 8, 16, 8, 2, 2
    table = (ITEMS + RESERVED) * width
    dense = width * width + width
    norm = 2 * width
    feed_forward = width * hidden + hidden + hidden * width + width
    block = 4 * dense + feed_forward + 2 * norm
    head = dense + norm + ITEMS
    around = table + length * width + norm + head  # with learned positions
    assert count("sasrec") == around + layers * block + norm
    assert count("shared") == around + block
    gates = 2 * dense + width * hidden + hidden  # of both branches, and the third layer
    assert count("ligr") == around + layers * (block + gates) + norm
    around -= length * width  # positions are in the attention
    assert count("rotary") == around + layers * block
    assert count("relative") == around + layers * (block + (2 * length - 1) * heads)
    relative = (2 * length - 1) * width
    assert count("disentangled") == around + relative + layers * (block + 2 * dense)
    around += length * width
    hstu = norm + 4 * width * width + (2 * length - 1) * heads + norm + dense
    assert count("hstu") == around + layers * hstu + norm
    assert count("hstu_time") == around + layers * (hstu + (OCTAVES + 1) * heads) + norm
    gru = 3 * (width * width + width) + 2 * width * width + width * width + width
    assert count("gru") == around - length * width + layers * gru
    # A table of width 4, projected, and answers of that width.
    narrow = (ITEMS + RESERVED) * 4 + 4 * width
    answers = width * 4 + 4 + 2 * 4 + ITEMS
    assert count("factorised") == narrow + length * width + norm + layers * block + answers
