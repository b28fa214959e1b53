"""What is hidden, what is asked, and how wrong an answer is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import ITEMS, rows

from clickflax.batch import MASK, RESERVED, UNK
from clickflax.model.heads import Answers, Bonus
from clickflax.tasks.cloze import choose_masked, cloze, masked_count, max_masked
from clickflax.tasks.find import find_tasks
from clickflax.tasks.labels import label_targets
from clickflax.tasks.losses import binary_loss, class_loss, number_loss, softmax_loss
from clickflax.tasks.next_event import next_events
from clickflax.tasks.task import LabelSettings, Masking, unk_dropout

hide_items = functools.partial(cloze, "item")
shift_items = functools.partial(next_events, "next_item", "item")

LONG = list(range(10))


def masking(ratio=0.3, replace="mask", last=0.0, places=8):
    return Masking(ratio, replace, last, places, ITEMS, ())


@pytest.mark.parametrize(("length", "count"), [(1, 1), (3, 1), (5, 2), (10, 3), (100, 30)])
def test_the_share_is_hidden_to_the_nearest_event_and_at_least_one(length, count):
    assert int(masked_count(np.array([length]), 0.3)[0]) == count
    assert int(masked_count(jnp.array(length), 0.3)) == count


def test_every_sequence_of_a_row_has_its_own_number_of_hidden_events():
    segment = jnp.array([[1] * 10 + [2] + [3] * 5 + [0] * 4])
    for seed in range(20):
        hidden = choose_masked(jax.random.key(seed), segment, 0.3, 0.0)[0]
        assert [int(hidden[segment[0] == s].sum()) for s in (1, 2, 3, 0)] == [3, 1, 2, 0]


def test_every_position_is_hidden_equally_often():
    segment = jnp.ones((4000, 10), int)
    hidden = choose_masked(jax.random.key(0), segment, 0.3, 0.0)
    # Four standard deviations of a share of 4,000 draws, also for the first position.
    np.testing.assert_allclose(hidden.mean(0), 0.3, atol=4 * (0.21 / 4000) ** 0.5)


def test_the_last_event_alone_is_hidden_in_its_share_of_the_sequences():
    segment = jnp.tile(jnp.array([[1] * 6 + [2] * 4]), (3000, 1))
    hidden = np.asarray(choose_masked(jax.random.key(0), segment, 0.5, 0.25))
    only_last = (hidden[:, :6].sum(1) == 1) & hidden[:, 5]
    assert only_last.mean() == pytest.approx(0.25, abs=0.03)
    both = only_last & (hidden[:, 6:].sum(1) == 1) & hidden[:, 9]
    assert both.mean() == pytest.approx(0.0625, abs=0.02)  # each sequence tosses its own coin


def test_the_targets_are_the_items_that_were_hidden_and_only_they_weigh():
    batch = rows([LONG, [10, 11]], [0, 0], 14)
    question = hide_items(jax.random.key(3), batch, masking())
    item = batch.variables["item"][0]
    asked = np.asarray(question.weights[0]) == 1
    places = np.asarray(question.positions[0])[asked]
    assert asked.sum() == 3 + 1
    assert np.array_equal(question.targets[0][asked], item[places] - RESERVED)
    assert (question.inputs["item"][0][places] == MASK).all()
    untouched = np.setdiff1d(np.arange(14), places)
    assert np.array_equal(question.inputs["item"][0][untouched], item[untouched])


def test_the_first_position_can_be_a_target():
    batch = rows([[5]])
    question = hide_items(jax.random.key(0), batch, masking())
    assert question.positions[0, 0] == 0
    assert question.weights[0, 0] == 1
    assert question.targets[0, 0] == 5


def test_eighty_ten_ten():
    batch = rows([LONG] * 3000, length=10)
    question = hide_items(jax.random.key(0), batch, masking(1.0, "80/10/10", places=10))
    item, given = batch.variables["item"], np.asarray(question.inputs["item"])
    assert (given == MASK).mean() == pytest.approx(0.8, abs=0.01)
    # One in twelve random items is the very one.
    assert (given == item).mean() == pytest.approx(0.1 + 0.1 / ITEMS, abs=0.01)
    assert given.max() < ITEMS + RESERVED


def test_what_follows_from_the_item_is_hidden_with_it():
    batch = rows([LONG], length=10)
    batch = batch._replace(variables={**batch.variables, "category": batch.variables["item"]})
    for replace in ("mask", "80/10/10"):
        question = hide_items(jax.random.key(1), batch, masking(1.0, replace, places=10))
        given, item = question.inputs["category"], question.inputs["item"]
        changed = np.asarray(item != batch.variables["item"])
        assert (np.asarray(given)[changed] == MASK).all()


def test_an_item_outside_the_catalog_is_no_target():
    batch = rows([[0, 1]])
    batch.variables["item"] = batch.variables["item"].at[0, 0].set(2)  # UNK
    question = hide_items(jax.random.key(0), batch, masking(1.0))
    assert list(question.weights[0][:2]) == [0, 1]


def test_the_next_item_is_asked_everywhere_but_at_nothing():
    batch = rows([[1, 2, 3], [4, 5]], [0, 0], shifted=True)
    question = shift_items(jax.random.key(0), batch, masking())
    assert list(question.targets[0][:3]) == [2, 3, 5]
    assert list(question.weights[0]) == [1, 1, 1, 0, 0, 0, 0, 0]
    assert all(question.inputs[name] is values for name, values in batch.variables.items())


def test_the_static_number_of_places_is_the_most_that_a_row_hides():
    lengths, offsets = np.array([10, 1, 5, 20]), np.array([0, 3, 4])
    assert max_masked(lengths, offsets, 0.3) == 6  # 3 + 1 + 2 in one row, 6 in the other


def answers(features, items=ITEMS, bias=True):
    """Answers with random features and table, after three rows that are no items."""
    keys = jax.random.split(jax.random.key(1), 3)
    x = jax.random.normal(keys[0], (*features, 4))
    table = jax.random.normal(keys[1], (3 + items, 4))
    return Answers(x, table, jax.random.normal(keys[2], (items,)) if bias else None, 3)


def plain_loss(answers, targets, weights):
    """The same by the book: log-softmax of all scores, and autodiff."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(answers.scores()), targets[..., None], axis=-1)
    return -(chosen[..., 0] * weights).sum()


def test_the_loss_of_equal_scores_is_the_logarithm_of_the_catalog():
    equal = Answers(jnp.zeros((1, 2, 4)), jnp.zeros((8, 4)), None, 0)
    loss, weight = softmax_loss(equal, jnp.zeros((1, 2), int), jnp.ones((1, 2)), 0)
    assert float(loss / weight) == pytest.approx(np.log(8))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [0, 1, 5, 12, 100])  # of 12 items; 5 leaves a rest of 2
def test_the_softmax_loss_and_its_gradients_are_those_of_autodiff_in_any_chunks(chunk, bias):
    question = answers((2, 5), bias=bias)
    targets = jax.random.randint(jax.random.key(2), (2, 5), 0, ITEMS)
    weights = jnp.array([[1.0, 0.0, 2.0, 1.0, 1.0], [0.5, 1.0, 0.0, 0.0, 1.0]])

    def of(loss):
        def scaled(floats):
            return 3.0 * loss(Answers(*floats, question.first))

        return jax.value_and_grad(scaled)(question[:3])

    found = of(lambda a: softmax_loss(a, targets, weights, chunk)[0])
    expected = of(lambda a: plain_loss(a, targets, weights))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, expected
    )
    assert jax.tree.structure(found) == jax.tree.structure(expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [0, 5])
def test_the_softmax_loss_of_raised_items_is_that_of_their_scores(chunk, bias):
    question = answers((2, 5), bias=bias)
    targets = jax.random.randint(jax.random.key(2), (2, 5), 0, ITEMS)
    weights = jnp.array([[1.0, 0.0, 2.0, 1.0, 1.0], [0.5, 1.0, 0.0, 0.0, 1.0]])
    # Of each row three columns have an item, of which not every question knows; one has none.
    row = jnp.array([[3, 0, 11, -1], [7, 2, 5, -1]])
    there = jax.random.bernoulli(jax.random.key(3), 0.6, (2, 5, 4)).at[0, 0, 0].set(True)
    items = jnp.where(there, row[:, None, :], -1)
    targets = targets.at[0, 0].set(3)
    more = 2 * jax.random.normal(jax.random.key(4), items.shape)
    more = jnp.where(items >= 0, more, 0.0)

    def of(loss):
        def one(floats, more):
            return loss(Answers(*floats, question.first, Bonus(items, more)))

        return jax.value_and_grad(one, argnums=(0, 1))(question[:3], more)

    found = of(lambda a: softmax_loss(a, targets, weights, chunk)[0])
    expected = of(lambda a: plain_loss(a, targets, weights))
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-5)
    (floats, raised), (their_floats, their_raised) = found[1], expected[1]
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), floats, their_floats
    )
    known = np.asarray(items >= 0)
    np.testing.assert_allclose(raised[known], their_raised[known], rtol=1e-4, atol=1e-5)
    assert np.abs(raised[0, 0, 0]) > 0.1  # that of a target


@pytest.mark.parametrize("more", [-100.0, -30.0, 30.0, 100.0])
@pytest.mark.parametrize("chunk", [0, 5])
def test_the_loss_is_right_when_what_is_sure_is_lowered_or_what_is_not_raised(chunk, more):
    """Item 1 is 100 above all others, of which item 2 is raised by much, or item 1 lowered."""
    table = jnp.zeros((12, 1)).at[1].set(1.0)
    items = jnp.array([[[1 if more < 0 else 2]] * 3])
    targets, weights = jnp.array([[1, 2, 5]]), jnp.array([[1.0, 2.0, 0.5]])

    def of(loss):
        def one(x, more):
            return loss(Answers(x, table, None, 0, Bonus(items, more)))

        return jax.value_and_grad(one, (0, 1))(
            jnp.full((1, 3, 1), 100.0), jnp.full((1, 3, 1), more)
        )

    found = of(lambda a: softmax_loss(a, targets, weights, chunk)[0])
    expected = of(lambda a: plain_loss(a, targets, weights))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, expected
    )


@pytest.mark.parametrize("chunk", [0, 4])
def test_scores_of_a_thousand_overflow_nothing(chunk):
    question = answers((1, 3))
    large = question._replace(features=question.features * 1000)
    targets = jnp.array([[0, 1, 2]])

    def loss(features):
        return softmax_loss(large._replace(features=features), targets, jnp.ones((1, 3)), chunk)[0]

    value, gradient = jax.value_and_grad(loss)(large.features)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_a_chunked_softmax_never_holds_all_scores():
    wide = answers((1, 64), items=4096)
    targets, weights = jnp.zeros((1, 64), int), jnp.ones((1, 64))

    def temporary(chunk):
        def loss(floats):
            return softmax_loss(Answers(*floats, wide.first), targets, weights, chunk)[0]

        compiled = jax.jit(jax.grad(loss)).lower(wide[:3]).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = 64 * 4096 * 4  # bytes of the scores
    assert temporary(0) >= whole
    assert temporary(128) < whole / 4


def test_what_weighs_nothing_adds_nothing():
    question, targets = answers((1, 3)), jnp.array([[1, 2, 3]])
    part, weight = softmax_loss(question, targets, jnp.array([[1.0, 0.0, 0.0]]), 0)
    first = question._replace(features=question.features[:, :1])
    alone, _ = softmax_loss(first, targets[:, :1], jnp.ones((1, 1)), 0)
    assert float(part) == pytest.approx(float(alone))
    assert float(weight) == 1


@pytest.mark.parametrize("names", [("masked",), ("masked_",), ("purchases",), ("item",)])
def test_a_task_that_is_not_known_lists_those_that_are(names):
    with pytest.raises(ValueError, match=f"{names[0]}.*masked_\\*, next_\\*, purchase, returns"):
        find_tasks(names, LabelSettings(True, "event", "binary", 2))


@pytest.mark.parametrize("names", [(), ("purchase", "purchase")])
def test_tasks_are_one_or_several_different_ones(names):
    with pytest.raises(ValueError, match="name one task or several, each once"):
        find_tasks(names, LabelSettings(True, "event", "binary", 2))


def test_a_label_is_asked_where_there_is_one():
    batch = rows([[1, 2, 3]], length=5)
    labels = jnp.array([[1.0, jnp.nan, 0.0, 1.0, jnp.nan]])  # the fourth is no event
    question = label_targets(
        "label", False, jax.random.key(0), batch._replace(labels={"label": labels}), masking()
    )
    assert question.targets[0].tolist() == [1, 0, 0, 0, 0]
    assert question.weights[0].tolist() == [1, 0, 1, 0, 0]
    assert question.positions is None


def test_a_yes_counts_as_often_as_it_is_told_to():
    logits, one = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 2))
    loss, weight = binary_loss(logits, jnp.array([[1.0, 0.0]]), one, 3.0)
    assert float(loss) == pytest.approx(3 * np.log(2) + np.log(1 + np.exp(2)), rel=1e-6)
    assert float(weight) == 2


def test_losses_of_classes_and_numbers_by_hand():
    loss, weight = class_loss(jnp.zeros((1, 1, 4)), jnp.array([[2.0]]), jnp.full((1, 1), 0.5))
    assert (float(loss), float(weight)) == pytest.approx((0.5 * np.log(4), 0.5))
    loss, weight = number_loss(jnp.array([[[3.0]]]), jnp.array([[1.0]]), jnp.ones((1, 1)))
    assert (float(loss), float(weight)) == (2.0, 1.0)


def test_a_batch_without_a_target_weighs_nothing_and_is_not_nan():
    empty = rows([[1]])._replace(segment=jnp.zeros((1, 8), jnp.int32))
    question = hide_items(jax.random.key(0), empty, masking())
    loss, weight = softmax_loss(answers((1, 8)), question.targets, question.weights, 0)
    assert (float(loss), float(weight)) == (0, 0)


def test_some_items_are_read_as_unknown_and_reserved_ids_never():
    item = jnp.array([[MASK, 7, 8, 9] * 50])
    price = jnp.ones(item.shape)
    found = unk_dropout(jax.random.key(0), {"item": item, "price": price}, 0.5)
    lost = np.asarray(found["item"] == UNK)
    assert not lost[np.asarray(item == MASK)].any()
    assert 50 < lost.sum() < 100
    assert (np.asarray(found["item"])[~lost] == np.asarray(item)[~lost]).all()
    assert found["price"] is price
