"""Negatives are drawn as the config says, and each loss beside them is that of its paper."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from toy import ITEMS, rows, small_config, small_model

from clickflax.batch import RESERVED
from clickflax.config.check import check_config
from clickflax.config.default import override
from clickflax.model.heads import Answers, Bonus
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.tasks.losses import softmax_loss
from clickflax.tasks.negatives import (
    DrawnItems,
    Negatives,
    Sampling,
    draw_negatives,
    make_pool,
    mask_negatives,
)
from clickflax.tasks.sampled_losses import (
    SAMPLED_LOSSES,
    bce,
    bpr,
    choose_sampled_loss,
    first_bias,
    gbce_beta,
    sampled_loss,
    softmax,
)
from clickflax.tasks.task import TaskBatch
from clickflax.training.setup import set_up

KEY = jax.random.key(7)


def answers_of(items=9, questions=(2, 3), width=4, bias=True, raised=False):
    """Random answers to B x K questions about a few items; the table has 6 more rows."""
    keys = iter(jax.random.split(KEY, 5))
    more = None
    if raised:
        ids = jnp.tile(jnp.array([3, 0, -1]), (*questions, 1))
        more = Bonus(ids, jnp.where(ids >= 0, 0.7, 0.0))
    return Answers(
        jax.random.normal(next(keys), (*questions, width)),
        jax.random.normal(next(keys), (items + RESERVED, width)),
        jax.random.normal(next(keys), (items,)) if bias else None,
        RESERVED,
        more,
    )


def sampling(count=4, drawn="uniform", shared=False, avoid="target", items=9, **more):
    knobs = {"drawable": None, "cumulative": None} | more
    return Sampling(count, drawn, shared, avoid, items, **knobs)


@pytest.mark.parametrize("raised", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("items", [9, 200])  # picked from all scores, and gathered
def test_scores_of_some_items_are_those_of_the_whole_catalog(items, bias, raised):
    answers = answers_of(items=items, bias=bias, raised=raised)
    everything = answers.scores()
    wanted = jax.random.randint(KEY, (2, 3, 2), 0, items).at[0, 0].set(jnp.array([3, 3]))
    found = answers.of(wanted)
    expected = jnp.take_along_axis(everything, wanted, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    same = jnp.array([3, 0, items - 1])
    expected = jnp.take(everything, same, axis=-1)
    np.testing.assert_allclose(answers.of(same), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answers.mean(), everything.mean(-1), rtol=1e-4, atol=1e-4)


SCORES = [(0.0, [0.0, 0.0]), (1.5, [-2.0, 0.25]), (-30.0, [40.0, 0.0]), (90.0, [-90.0, 88.0])]


def sigmoid(x):
    return 1 / (1 + np.exp(-np.longdouble(x)))


@pytest.mark.parametrize(("own", "others"), SCORES)
def test_losses_beside_negatives_are_those_of_their_papers(own, others):
    own, others = jnp.asarray([own]), jnp.asarray([others])
    a, b = np.longdouble(own), np.asarray(others, np.longdouble)
    keep = jnp.ones((1, 2), bool)
    # log(1 - sigmoid(s)) is log(sigmoid(-s)), which does not vanish.
    expected = {
        "softmax": np.log(np.exp(a) + np.exp(b).sum(-1)) - a,
        "bce": -(np.log(sigmoid(a)) + np.log(sigmoid(-b)).sum(-1)) / 3,
        "bpr": -np.log(sigmoid(a[:, None] - b)).mean(-1),
    }
    # As gSASRec has it: the positive probability to the power of beta, with beta from t and alpha.
    beta = gbce_beta(items=11, negatives=2, calibration=0.75)
    assert beta == pytest.approx(0.2 * (0.75 * (1 - 5) + 5))
    powered = sigmoid(a) ** np.longdouble(beta)
    expected["gbce"] = -(np.log(powered) + np.log(sigmoid(-b)).sum(-1)) / 3
    # The slopes by hand, for the score of the target and for those of the negatives.
    top = np.exp(np.longdouble([[*a, *b[0]]]) - max(*a, *b[0]))
    share = (top / top.sum())[0]
    wrong = sigmoid(b[0] - a)
    slopes = {
        "softmax": (share[0] - 1, share[1:]),
        "bce": (-sigmoid(-a[0]) / 3, sigmoid(b[0]) / 3),
        "gbce": (-np.longdouble(beta) * sigmoid(-a[0]) / 3, sigmoid(b[0]) / 3),
        "bpr": (-wrong.mean(), wrong / 2),
    }
    for name, value in expected.items():
        more = {"beta": beta} if name == "gbce" else {}
        found = SAMPLED_LOSSES[name](own, others, keep, **more)
        np.testing.assert_allclose(np.float64(found), np.float64(value), 1e-5, 1e-6)

        def total(own, others, loss=SAMPLED_LOSSES[name], more=more):
            return loss(own, others, keep, **more).sum()

        mine, theirs = jax.grad(total, (0, 1))(own, others)
        np.testing.assert_allclose(np.float64(mine), np.float64(slopes[name][0]), 1e-5, 1e-6)
        np.testing.assert_allclose(np.float64(theirs[0]), np.float64(slopes[name][1]), 1e-5, 1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("beta", [0.2, 0.9])
@pytest.mark.parametrize("name", sorted(SAMPLED_LOSSES))
def test_in_bfloat16_the_losses_are_those_of_the_rounded_factors(name, beta, scale):
    answers = answers_of()
    answers = answers._replace(features=(scale * answers.features).astype(jnp.bfloat16))
    targets, weights = jnp.array([[0, 3, 8], [5, 5, 1]]), jnp.ones((2, 3))
    drawn, keep = DrawnItems(jnp.array([2, 7]), jnp.zeros(2)), jnp.ones((2, 3, 2), bool)
    loss = (
        functools.partial(SAMPLED_LOSSES[name], beta=beta)
        if name == "gbce"
        else SAMPLED_LOSSES[name]
    )
    found, _ = sampled_loss(answers, targets, weights, Negatives(drawn, keep), loss, False)
    assert found.dtype == jnp.float32
    x = np.asarray(answers.features, np.float64)
    rows = np.asarray(answers.table.astype(jnp.bfloat16), np.float64)[RESERVED:]
    scores = np.einsum("bkd,vd->bkv", x, rows) + np.asarray(answers.bias, np.float64)
    a = np.take_along_axis(scores, np.asarray(targets)[..., None], -1)[..., 0]
    b = scores[..., [2, 7]]
    expected = {
        "softmax": np.log(np.exp(a) + np.exp(b).sum(-1)) - a,
        "bce": (np.log1p(np.exp(-a)) + np.log1p(np.exp(b)).sum(-1)) / 3,
        "gbce": (beta * np.log1p(np.exp(-a)) + np.log1p(np.exp(b)).sum(-1)) / 3,
        "bpr": np.log1p(np.exp(b - a[..., None])).mean(-1),
    }
    np.testing.assert_allclose(found, expected[name].sum(), rtol=1e-5)


@pytest.mark.parametrize(("items", "negatives"), [(9, 1), (9, 8), (1000, 256)])
def test_gbce_that_is_not_calibrated_is_bce(items, negatives):
    answers = answers_of(items=items)
    targets, weights = jnp.array([[0, 3, 8], [5, 5, 1]]), jnp.ones((2, 3))
    drawn = draw_negatives(sampling(negatives, items=items), KEY, (2, 3, negatives), None)
    against_them = Negatives(drawn, drawn.items != targets[..., None])
    config = small_config()
    config.loss.negatives = negatives

    def of(name, calibration):
        one, _ = choose_sampled_loss(name, items, negatives, calibration)
        loss = functools.partial(sampled_loss, loss=one, log_q=False)

        def total(features):
            asked = answers._replace(features=features)
            return loss(asked, targets, weights, negatives=against_them)[0]

        return jax.value_and_grad(total)(answers.features)

    jax.tree.map(np.testing.assert_array_equal, of("gbce", 0.0), of("bce", 0.75))
    assert of("gbce", 0.5)[0] < of("bce", 0.75)[0] or negatives == items - 1


def test_fully_calibrated_gbce_weighs_a_yes_by_the_share_that_is_drawn():
    assert gbce_beta(items=101, negatives=5, calibration=0.0) == 1.0
    assert gbce_beta(items=101, negatives=5, calibration=1.0) == pytest.approx(0.05)


@pytest.mark.parametrize("own", [-7.0, -0.5, 0.0, 2.0, 9.0])
@pytest.mark.parametrize("beta", [0.05, 0.4, 1.0])
def test_gbce_is_bce_of_the_transformed_target_score_of_the_gsasrec_code(own, beta):
    others = np.longdouble([0.3, -1.0])
    changed = np.log(1 / (sigmoid(own) ** -np.longdouble(beta) - 1))
    expected = np.log1p(np.exp(-changed)) + np.log1p(np.exp(others)).sum()
    keep = jnp.ones((1, 2), bool)
    found = SAMPLED_LOSSES["gbce"](jnp.array([own]), jnp.array([[0.3, -1.0]]), keep, beta=beta)
    np.testing.assert_allclose(3 * np.float64(found), np.float64(expected), rtol=1e-5)


@pytest.mark.parametrize(("beta", "negatives"), [(1.0, 1), (0.3, 256)])
def test_biases_begin_where_the_loss_of_a_model_that_knows_nothing_is_least(beta, negatives):
    keep = jnp.ones((1, negatives), bool)

    def loss(bias):
        return bce(jnp.full(1, bias), jnp.full((1, negatives), bias), keep, beta=beta).sum()

    assert abs(jax.grad(loss)(first_bias(beta, negatives))) < 1e-6
    assert first_bias(1.0, 1) == 0


def test_a_training_beside_negatives_begins_there(tmp_path):
    simulate(tmp_path / "shop", Shop(sequences=40, items=30))
    config = small_config()
    config.data.path = str(tmp_path / "shop")
    config.loss.update({"name": "gbce", "negatives": 8, "calibration": 0.5})
    _, state = set_up(config, tmp_path / "run")
    beta = gbce_beta(items=30, negatives=8, calibration=0.5)
    np.testing.assert_allclose(state.params["head_item"]["bias"], math.log(beta / 8), rtol=1e-6)


def test_a_negative_that_does_not_count_adds_nothing():
    own, others = jnp.array([0.5]), jnp.array([[2.0, 1.0]])
    keep = jnp.array([[False, True]])
    np.testing.assert_allclose(softmax(own, others, keep), np.log1p(np.exp(0.5)), rtol=1e-6)
    half = (np.log1p(np.exp(-0.5)) + np.log1p(np.exp(1.0))) / 3
    np.testing.assert_allclose(bce(own, others, keep), half, rtol=1e-6)
    np.testing.assert_allclose(bpr(own, others, keep), np.log1p(np.exp(0.5)) / 2, rtol=1e-6)


@pytest.mark.parametrize("raised", [False, True])
def test_sampled_softmax_over_all_other_items_is_softmax_and_has_its_gradient(raised):
    answers = answers_of(raised=raised)
    targets, weights = jnp.array([[0, 3, 8], [5, 5, 1]]), jnp.array([[1.0, 2, 0], [1, 0.5, 1]])
    everything = DrawnItems(jnp.arange(9), jnp.zeros(9))
    keep = jnp.arange(9).reshape(1, 1, 9) != targets[..., None]

    def whole(factors):
        return softmax_loss(answers._replace(**factors), targets, weights, 0)[0]

    def sampled(factors):
        negatives = Negatives(everything, keep)
        told = answers._replace(**factors)
        return sampled_loss(told, targets, weights, negatives, softmax, False)[0]

    factors = {"features": answers.features, "table": answers.table, "bias": answers.bias}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        jax.value_and_grad(whole)(factors),
        jax.value_and_grad(sampled)(factors),
    )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("drawn", ["uniform", "popularity", "in_batch"])
def test_a_few_corrected_negatives_sum_up_to_the_whole_catalog_in_expectation(drawn, shared):
    """exp(loss) - 1 is the sum over the negatives, by the target's: here of 40,000 draws of 4."""
    count, draws, target = np.arange(1, 10), 40_000, 4
    answers = answers_of(questions=(1, draws))
    alike = answers._replace(features=answers.features.at[:].set(answers.features[:, :1]))
    targets, ones = jnp.full((1, draws), target), jnp.ones((1, draws))
    how = sampling(4, drawn, shared, cumulative=np.cumsum(count))
    # In the batch, where items are asked for as often as they come in training.
    pool = make_pool(jnp.repeat(jnp.arange(9), count)[None], jnp.ones((1, 45)))
    found = draw_negatives(how, KEY, (1, draws, 4), pool)

    def losses(log_q):
        def one(items, log_chance, features):
            if not shared:  # for each target its own
                items, log_chance = items[None, None], log_chance[None, None]
            negatives = Negatives(DrawnItems(items, log_chance), (items != target).reshape(1, 1, 4))
            asked = alike._replace(features=features[None, None])
            return sampled_loss(asked, targets[:, :1], ones[:, :1], negatives, softmax, log_q)[0]

        return jax.vmap(one)(found.items[0], found.log_chance[0], alike.features[0])

    scores = np.asarray(alike.scores()[0, 0], np.float64)
    whole = np.exp(np.delete(scores, target) - scores[target]).sum()
    sums = np.expm1(np.asarray(losses(True), np.float64))
    assert sums.mean() == pytest.approx(whole, abs=5 * sums.std() / draws**0.5)
    assert sums.std() / draws**0.5 < 0.01 * whole
    assert abs(np.expm1(np.asarray(losses(False), np.float64)).mean() - whole) > 0.2 * whole


def test_uniform_negatives_are_all_items_alike_or_those_that_may_be_drawn():
    found = draw_negatives(sampling(), KEY, (90_000,), None)
    np.testing.assert_allclose(np.bincount(found.items, minlength=9), 10_000, rtol=0.05)
    np.testing.assert_allclose(found.log_chance, -np.log(9), rtol=1e-6)
    some = draw_negatives(sampling(drawable=np.array([1, 7])), KEY, (1000,), None)
    assert set(np.unique(some.items)) == {1, 7}
    np.testing.assert_allclose(some.log_chance, -np.log(2), rtol=1e-6)


def test_popular_negatives_are_drawn_as_often_as_they_come_in_training():
    count = np.array([0, 10, 30, 0, 60, 0, 0, 0, 0])
    found = draw_negatives(
        sampling(drawn="popularity", cumulative=np.cumsum(count)), KEY, (100_000,), None
    )
    np.testing.assert_allclose(np.bincount(found.items, minlength=9), count * 1000, rtol=0.05)
    np.testing.assert_allclose(np.exp(found.log_chance), count[found.items] / 100, rtol=1e-5)


def test_negatives_of_the_batch_are_the_targets_that_are_asked_for():
    how = sampling(drawn="in_batch", cumulative=np.cumsum([0, 0, 10, 0, 0, 30, 0, 0, 60]))
    targets, weights = jnp.array([[2, 5], [5, 7]]), jnp.array([[1.0, 0.5], [2.0, 0.0]])
    found = draw_negatives(how, KEY, (30_000,), make_pool(targets, weights))
    np.testing.assert_allclose(
        np.bincount(found.items, minlength=9), [0, 0, 10_000, 0, 0, 20_000, 0, 0, 0], rtol=0.05
    )
    # Over all batches an item is there as often as it comes in training.
    chance = np.where(found.items == 2, 0.1, 0.3)
    np.testing.assert_allclose(np.exp(found.log_chance), chance, rtol=1e-5)
    nothing = draw_negatives(how, KEY, (5,), make_pool(jnp.zeros((2, 2), int), jnp.zeros((2, 2))))
    assert nothing.items.max() < 9

    def total(features):  # item 0 never comes in training, and is drawn where nothing is asked
        answers = answers_of(questions=(1, 1))._replace(features=features)
        negatives = Negatives(nothing, jnp.ones((1, 1, 5), bool))
        zero = jnp.zeros((1, 1))
        return sampled_loss(answers, zero.astype(int), zero, negatives, softmax, True)[0]

    assert (jax.grad(total)(jnp.ones((1, 1, 4))) == 0).all()


def test_what_is_avoided_does_not_count():
    batch = rows([[0, 1, 2], [3, 4]], row=[0, 0])  # two sequences in one row
    asked = TaskBatch(batch.variables, jnp.array([[2, 3]]), jnp.array([[2, 3]]), jnp.ones((1, 2)))
    drawn = DrawnItems(jnp.array([0, 2, 3, 4, 5]), jnp.zeros(5))

    def kept(avoid):
        how = sampling(5, avoid=avoid, shared=True)
        return np.asarray(mask_negatives(how, batch, asked, "item", drawn).keep[0]).tolist()

    yes, no = True, False
    assert kept("nothing") == [[yes] * 5] * 2
    assert kept("target") == [[yes, no, yes, yes, yes], [yes, yes, no, yes, yes]]
    assert kept("history") == [[no, no, yes, yes, yes], [yes, yes, no, no, yes]]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("items", [[3, 8, 3, 0, 1, 1], [5], [0]])
def test_the_scores_of_the_same_items_for_all_are_those_of_the_whole_catalog(items, bias):
    answers = answers_of(bias=bias, raised=True)
    more = answers.bonus.values * jnp.arange(1.0, 7.0).reshape(2, 3, 1)  # of each question its own

    def of(more):
        return answers._replace(bonus=Bonus(answers.bonus.items, more)).of(jnp.array(items))

    def whole(more):
        scores = answers._replace(bonus=Bonus(answers.bonus.items, more)).scores()
        return scores[..., jnp.array(items)]

    np.testing.assert_allclose(of(more), whole(more), rtol=1e-5, atol=1e-6)
    for found, expected in zip(*(jax.vjp(f, more)[1](of(more)) for f in (of, whole)), strict=True):
        there = np.asarray(answers.bonus.items) >= 0
        np.testing.assert_allclose(found[there], expected[there], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("chunk", [0, 4])
def test_the_softmax_over_the_catalog_is_that_of_float64(chunk, scale, dtype, smoothing):
    answers = answers_of(raised=True)
    answers = answers._replace(features=(scale * answers.features).astype(dtype))
    targets, weights = jnp.array([[0, 3, 8], [5, 5, 1]]), jnp.array([[1.0, 2, 0], [1, 0.5, 1]])
    x = np.asarray(answers.features, np.float64)
    rows_of_items = np.asarray(answers.table.astype(dtype), np.float64)[RESERVED:]
    scores = np.einsum("bkd,vd->bkv", x, rows_of_items) + np.asarray(answers.bias, np.float64)
    scores[..., [3, 0]] += 0.7  # what is raised
    logs = scores - scipy.special.logsumexp(scores, -1, keepdims=True)
    # A smooth label gives every item its share.
    label = (1 - smoothing) * np.eye(9)[np.asarray(targets)] + smoothing / 9
    expected = -((label * logs).sum(-1) * np.asarray(weights)).sum()
    found, weight = softmax_loss(answers, targets, weights, chunk, smoothing=smoothing)
    assert found.dtype == jnp.float32 and weight == weights.sum()
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_cosine_scores_lie_between_plus_and_minus_one_over_the_temperature():
    model, params = small_model(cosine=True, temperature=0.1, output_bias=False, output="none")
    hidden = jax.random.normal(KEY, (50, 8)) * 100
    scores = model.apply({"params": params}, hidden, method="answer").scores()
    assert scores.shape == (50, ITEMS) and 5 < jnp.abs(scores).max() <= 10.001
    longer = model.apply({"params": params}, 7 * hidden, method="answer").scores()
    np.testing.assert_allclose(scores, longer, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "bce"}, "loss.name='bce' needs config.loss.negatives"),
        ({"name": "gcbe", "negatives": 1}, "'gcbe' is not one of"),
        ({"drawn": "popularity"}, "loss.drawn='popularity' needs config.loss.negatives"),
        ({"shared": True}, "loss.shared=True needs config.loss.negatives"),
        ({"avoid": "history"}, "loss.avoid='history' needs config.loss.negatives"),
        ({"avoid": "seen", "negatives": 1}, "loss.avoid='seen' is not one of"),
        ({"log_q": True, "name": "bpr", "negatives": 4}, "not 'bpr' and 'target'"),
        ({"log_q": True, "avoid": "nothing", "negatives": 4}, "not 'softmax' and 'nothing'"),
        ({"calibration": 0.5, "name": "bce", "negatives": 4}, "name='gbce', not 'bce'"),
        ({"smoothing": 0.1, "negatives": 4}, "smoothing=0.1 is for losses over the whole catalog"),
    ],
)
def test_a_loss_that_makes_no_sense_is_refused(loss, message):
    config = small_config()
    config.loss.update(loss)
    with pytest.raises(ValueError, match=message):
        check_config(config)


def test_what_is_about_items_is_refused_where_nobody_asks_for_items():
    for knob, value in [("loss.negatives", 4), ("loss.smoothing", 0.1), ("model.cosine", True)]:
        config = override(small_config(), [f"config.{knob}={value}", "config.tasks=purchase"])
        with pytest.raises(ValueError, match=f"{knob}=.* is for tasks that rank items"):
            check_config(config)


def test_a_chunk_of_the_catalog_is_refused_beside_negatives():
    config = override(small_config(), ["config.train.softmax_chunk=5", "config.loss.negatives=2"])
    with pytest.raises(ValueError, match="softmax_chunk=5 is for losses over the whole catalog"):
        check_config(config)


def test_the_calibration_knows_how_many_items_may_be_drawn():
    loss, _ = choose_sampled_loss("gbce", items=5, negatives=2, calibration=1.0)
    assert loss.keywords["beta"] == pytest.approx(2 / 4)
