"""The model: what a state depends on, and the number of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import ITEMS, encode, rows, small_config, small_model

from clickflax.batch import NA, PAD, RESERVED, UNK
from clickflax.model.blocks.transformer import REMAT
from clickflax.model.dropout import Dropout, keep_mask
from clickflax.model.heads import history_before
from clickflax.run.model import build_model
from clickflax.training.step import init_params

SEQUENCES = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10]]


def influence(model, params, batch, causal):
    """Which input positions (axis 1) the state at each position (axis 0) depends on.

    By gradient: the items of the row are all different, so a row of the table is a position.
    """
    table = params["embedder"]["tables_item"]["embedding"]

    def states(table):
        embedder = {**params["embedder"], "tables_item": {"embedding": table}}
        return encode(model, {**params, "embedder": embedder}, batch, causal)[0]

    gradient = jax.jacobian(states)(table)[:, :, batch.variables["item"][0]]
    return np.abs(np.asarray(gradient)).max(axis=(1, 3)) > 1e-9


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_causal_state_depends_on_its_past_and_on_nothing_else(norm):
    model, params = small_model(norm=norm)
    seen = influence(model, params, rows([[1, 2, 3, 4, 5, 6, 7, 8]]), True)
    assert np.array_equal(seen, np.tri(8, dtype=bool))


def test_a_bidirectional_state_depends_on_every_event_of_its_sequence():
    model, params = small_model()
    seen = influence(model, params, rows([[1, 2, 3, 4, 5, 6, 7, 8]]), False)
    assert seen.all()


def test_the_history_has_the_last_event_of_every_item_of_a_sequence():
    batch = rows([[1, 2, 1], [1, 3, 3, 1]], [0, 0], length=8)
    values = batch.variables["item"].at[0, 1].set(UNK)  # which is no item
    columns = jnp.array([[0, 2, 4, 6]])
    past = history_before(values, batch.segment, columns, True)
    valid = np.asarray(past.valid[0]).astype(int).tolist()
    assert valid[0] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert valid[1] == [0, 0, 1, 0, 0, 0, 0, 0]  # the same item: its last event
    assert valid[2] == [0, 0, 0, 1, 1, 0, 0, 0]  # of the second sequence
    assert valid[3] == [0, 0, 0, 0, 0, 1, 1, 0]
    assert past.items[0, 3, [5, 6]].tolist() == [3, 1]
    assert past.count[0, 3, [5, 6]].tolist() == [2, 2]
    assert past.distance[0, 3, [5, 6]].tolist() == [1, 0]
    assert past.count[0, 0, 0] == 1
    # The event of the column is a target, and left out.
    masked = history_before(values, batch.segment, columns, False)
    assert [np.flatnonzero(masked.valid[0, q]).tolist() for q in range(4)] == [[], [0], [3], [3, 5]]
    assert masked.count[0, 3, [3, 5]].tolist() == [1, 2]
    assert masked.distance[0, 3, [3, 5]].tolist() == [3, 1]


def test_at_first_a_repetition_scores_as_it_did():
    (model, params), (plain, _) = small_model(repeat=True), small_model()
    batch = rows([[1, 2, 1]])
    hidden = encode(model, params, batch, True)
    columns = jnp.arange(batch.segment.shape[1])[None]
    past = history_before(batch.variables["item"], batch.segment, columns, True)

    def scores(*gates):
        head = {**params["head_item"]}
        if gates:
            head["repeat"] = {**head["repeat"], "bias": jnp.array(gates)}
        changed = {"params": {**params, "head_item": head}}
        return model.apply(changed, hidden, "item", past, method="answer").scores()

    without = {key: value for key, value in params["head_item"].items() if key != "repeat"}
    found = plain.apply(
        {"params": {**params, "head_item": without}}, hidden, "item", method="answer"
    )
    np.testing.assert_array_equal(scores(), found.scores())
    raised = np.asarray(scores(2.0, 3.0, 5.0) - scores())[0]
    assert np.flatnonzero(raised[0].round(4)).tolist() == [1]
    assert np.flatnonzero(raised[2].round(4)).tolist() == [1, 2]
    # Item 1 came twice, and just now; item 2 once, one event ago.
    expected = [2 + 3 * np.log(3), 2 + 3 * np.log(2) + 5 * np.log(2)]
    np.testing.assert_allclose(raised[2, [1, 2]], expected, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_no_state_depends_on_another_sequence_of_its_row(causal):
    model, params = small_model()
    seen = influence(model, params, rows([[1, 2, 3], [4, 5]], [0, 0]), causal)
    assert not seen[:3, 3:5].any()
    assert not seen[3:5, :3].any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
def test_a_sequence_has_the_same_states_alone_batched_packed_and_padded(causal, norm, positions):
    model, params = small_model(norm=norm, positions=positions, max_len=32)
    alone = [encode(model, params, rows([s], length=len(s)), causal)[0] for s in SEQUENCES]
    batched = encode(model, params, rows(SEQUENCES), causal)
    packed = encode(model, params, rows(SEQUENCES, [0, 0, 0], 10), causal)[0]
    padded = encode(model, params, rows(SEQUENCES, length=32), causal)
    for i, own in enumerate(alone):
        n = len(own)
        np.testing.assert_allclose(batched[i, :n], own, atol=1e-5)
        np.testing.assert_allclose(padded[i, :n], own, atol=1e-5)
        first = sum(map(len, SEQUENCES[:i]))
        np.testing.assert_allclose(packed[first : first + n], own, atol=1e-5)


def test_a_variable_that_is_missing_hides_no_event():
    sizes = {"item": ITEMS + RESERVED, "action": 2 + RESERVED}
    model = build_model(small_config().model, sizes)
    batch = rows([[1, 2, 3, 4]], length=6)
    action = jnp.array([[RESERVED, NA, RESERVED + 1, NA, PAD, PAD]])
    batch = batch._replace(variables={**batch.variables, "action": action})
    params = init_params(model, jax.random.key(0), batch)
    assert np.array_equal(
        influence(model, params, batch, False)[:4],
        np.repeat([[True] * 4 + [False] * 2], 4, axis=0),
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_states_at_some_columns_are_those_among_all(causal, norm):
    model, params = small_model(norm=norm)
    batch = rows([[1, 2, 3], [4, 5], [6, 7, 8, 9, 10]], [0, 0, 1])
    columns = jnp.array([[2, 4, 4], [0, 4, 1]])
    some = model.apply({"params": params}, *batch[:3], causal, False, columns, method="encode")
    among_all = jnp.take_along_axis(
        encode(model, params, batch, causal), columns[..., None], axis=1
    )
    np.testing.assert_allclose(some, among_all, atol=1e-5)


def test_a_row_without_a_single_event_gives_numbers():
    model, params = small_model()
    batch = rows([[1, 2], [3]], [0, 2])
    assert not batch.segment[1].any()
    for causal in (False, True):
        assert jnp.isfinite(encode(model, params, batch, causal)).all()


def test_dropout_drops_its_rate_and_keeps_the_mean():
    for rate in (0.0, 0.1, 0.25, 0.99):
        keep = keep_mask(jax.random.key(0), rate, (1000, 1001))
        assert abs(float(keep.mean(dtype=jnp.float32)) - (1 - rate)) < 0.002
    x = jnp.ones((1000, 1000))
    dropped = Dropout(0.2).apply({}, x, True, rngs={"dropout": jax.random.key(1)})
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.005)
    assert Dropout(0.2).apply({}, x, False) is x


def test_dropout_masks_are_independent_however_keys_are_mapped():
    keys = jax.random.split(jax.random.key(3), 64)
    keep = np.asarray(jax.vmap(lambda key: keep_mask(key, 0.5, (64, 256)))(keys), np.float32) - 0.5
    several = {
        "next": keep[..., 1:] * keep[..., :-1],
        "below": keep[:, 1:] * keep[:, :-1],
        "other key": keep[1:] * keep[:-1],
        "shifted": keep[1:, :, 1:] * keep[:-1, :, :-1],
    }
    for name, products in several.items():
        # A mean of n products of independent +-1/2 has a deviation of 1 / (4 sqrt(n)).
        assert abs(products.mean()) < 5 / (4 * products.size**0.5), name
    np.testing.assert_array_equal(keep[7] > 0, keep_mask(keys[7], 0.5, (64, 256)))


def test_the_model_has_the_parameters_of_the_paper():
    model, params = small_model()
    width, hidden, length = 8, 16, 8
    table = (ITEMS + RESERVED) * width
    embedder = table + length * width + 2 * width  # items, positions, LayerNorm
    attention = 4 * (width * width + width)  # query, key, value, out
    feed_forward = width * hidden + hidden + hidden * width + width
    block = attention + feed_forward + 2 * 2 * width  # two LayerNorms
    head = width * width + width + 2 * width + ITEMS  # dense, LayerNorm, a bias an item; table tied
    count = sum(x.size for x in jax.tree.leaves(params))
    assert count == embedder + 2 * block + head


def test_sasrec_has_no_output_layer_but_a_last_norm():
    width = 8
    _, bert = small_model()
    _, sasrec = small_model(norm="pre", output="none", output_bias=False, embedding_norm=False)
    count = [sum(x.size for x in jax.tree.leaves(p)) for p in (bert, sasrec)]
    head = width * width + width + 2 * width + ITEMS
    # Its norm over the embeddings is gone, its norm after the blocks has come.
    assert count[0] - count[1] == head
    assert "head_item" not in sasrec


def test_an_untied_table_is_its_own():
    _, params = small_model(tied=False)
    assert params["head_item"]["table"].shape == (ITEMS, 8)


def test_reserved_ids_are_no_candidates_and_column_i_is_item_i():
    model, params = small_model(output="none", output_bias=False)
    table = jnp.arange((ITEMS + RESERVED) * 8, dtype=jnp.float32).reshape(-1, 8)
    embedder = {**params["embedder"], "tables_item": {"embedding": table}}
    answers = model.apply(
        {"params": {**params, "embedder": embedder}}, jnp.eye(8)[:1], method="answer"
    )
    assert list(answers.scores()[0]) == [8 * (i + RESERVED) for i in range(ITEMS)]


def training_loss(model, batch):
    """A function of parameters, with dropout on, that counts every feature otherwise."""

    def loss(params):
        rngs = {"dropout": jax.random.key(1)}
        inputs = batch.variables, batch.segment, batch.position, False, True
        hidden = model.apply({"params": params}, *inputs, method="encode", rngs=rngs)
        features = model.apply({"params": params}, hidden, method="answer").features
        count = jnp.arange(features.size, dtype=jnp.float32).reshape(features.shape)
        return (features.astype(jnp.float32) * jnp.sin(count)).mean()

    return loss


def test_bfloat16_computes_nearly_the_same_with_float32_parameters_and_gradients():
    batch = rows(SEQUENCES, [0, 0, 0], 10)
    shape = {"max_len": 10, "norm": "pre", "layers": 1}
    model, params = small_model(**shape)
    half, half_params = small_model(**shape, dtype="bfloat16")
    assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(half_params)))

    exact, rough = encode(model, params, batch), encode(half, params, batch)
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.05)

    gradients = {}
    for name, which in {"exact": model, "rough": half}.items():
        loss, gradient = jax.jit(jax.value_and_grad(training_loss(which, batch)))(params)
        gradients[name] = (loss, *jax.tree.leaves(gradient))
    for a, b in zip(*gradients.values(), strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(b, a, atol=0.1 * float(jnp.abs(a).max()) + 0.001)


def test_a_row_without_a_single_event_gives_numbers_in_bfloat16_too():
    model, params = small_model(dtype="bfloat16")
    assert jnp.isfinite(encode(model, params, rows([[1, 2], [3]], [0, 2]))).all()


def test_what_is_computed_twice_changes_no_number_and_is_not_kept():
    batch = rows(SEQUENCES, [0, 0, 0], 10)
    dropout = {"dropout": 0.3, "attention_dropout": 0.3}
    found, kept = {}, {}
    for name in REMAT:
        model, params = small_model(max_len=10, layers=1, **dropout, remat=name)
        loss = training_loss(model, batch)
        found[name] = jax.jit(jax.value_and_grad(loss))(params)
        # The second result of vjp is a tree of what it has kept.
        pullback = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        kept[name] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback))
    for name in ("attention", "block"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found["none"], found[name]
        )
    assert kept["block"] < kept["attention"] < kept["none"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 10, "heads": 4}, "model.width=10 is not a multiple of config.model.heads=4"),
        ({"norm": "both"}, r"model.norm='both' is not one of \['post', 'pre', 'query'\]"),
        ({"heads": 0}, "model.heads=0"),
        ({"activation": "tanh"}, "gelu"),
        ({"positions": "rotatory"}, "rotary"),
        ({"positions": "rotary", "width": 6, "heads": 2}, "rotates pairs of numbers.*must be even"),
        ({"block": "lstm"}, r"model.block='lstm' is not one of \['gru', 'hstu', .*'transformer'\]"),
        (
            {"block": "hstu"},
            "config.model.feed_forward=16: config.model.block='hstu' does not.*leave it at 256",
        ),
        ({"block": "hstu", "norm": "pre"}, "config.model.norm='pre': .*leave it at 'post'"),
        (
            {"block": "gru", "feed_forward": 256},
            "attention_dropout=0.0: config.model.block='gru' does not take",
        ),
        (
            {"block": "gru", "relative_time": True, "feed_forward": 256, "attention_dropout": 0.1},
            "config.model.relative_time=True: config.model.block='gru' does not take",
        ),
        (
            {"block": "hstu", "positions": "rotary", "feed_forward": 256, "attention_dropout": 0.1},
            "positions='rotary' does not go with .*'hstu', .*'sinusoidal'",
        ),
        ({"gate": True}, "config.model.gate=True needs config.model.norm='pre', not 'post'"),
        ({"relative_time": True}, "config.data.variables must name 'time'"),
        ({"positions": "relative", "attention": "cudnn"}, "takes no bias of distances"),
        ({"widths": ("item=4",), "output": "none"}, "set config.model.output='dense'"),
        ({"widths": ("colour=4",)}, "model.widths names 'colour'"),
        ({"output": "mlp"}, "dense"),
        ({"initializer": "zeros"}, "normal"),
        ({"max_len": 1}, "at least 2"),
        ({"dtype": "float16"}, "bfloat16"),
        ({"remat": "all"}, "attention"),
    ],
)
def test_a_model_that_cannot_be_built_says_why(changed, message):
    with pytest.raises(ValueError, match=message):
        build_model(small_config(**changed).model, {"item": ITEMS + RESERVED})


def test_a_catalog_of_one_item_is_refused():
    with pytest.raises(ValueError, match="1 item"):
        build_model(small_config().model, {"item": 1 + RESERVED})
