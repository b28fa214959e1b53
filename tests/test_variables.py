"""What is read of an event: ids and numbers, from the log, the clock, the sequence, the catalog."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from toy import rows, small_config

from clickflax.batch import MASK, NA, PAD, RESERVED, UNK, reserved_value
from clickflax.data import store
from clickflax.data.derived import VARIABLES, Column
from clickflax.data.item_features import read_item_feature, read_item_features
from clickflax.data.variables import (
    Variable,
    describe_variables,
    find_column,
    missing_column,
    read_columns,
    variable_from_json,
)
from clickflax.run.folder import constants_of, event_variables
from clickflax.run.model import build_model, sizes_of
from clickflax.tasks.task import mask_where
from clickflax.training.step import init_params

# Two sequences, of 2 and of 3 events. The second begins on Sunday, 1970-01-04, at 23:59:58.
TIME = np.array([0, 9_000_000, 345_598_000_000, 345_599_000_000, 345_600_000_000])
ITEMS = {
    "token": ["b", "a", "c"],
    "count": [3, 1, 1],
    "genres": [["x", "y"], [], ["y"]],
    "weight": [1.0, 3.0, None],
    "text": [[1.0, 0.0], None, [0.5, 0.5]],
    "nothing": [None, None, None],
}


def write(path, sequences=None, **changed):
    with store.new_dataset_folder(path) as folder:
        store.write_dataset(
            folder,
            source="toy",
            options={},
            offsets=np.array([0, 2, 5]),
            events={
                "item": np.array([6, 7, 6, 6, 8], dtype=np.int32),
                "time": TIME,
                "price": np.array([1, 3, np.nan, 1, 7], dtype=np.float32),
            }
            | changed,
            vocabularies={"item": pa.table(ITEMS)},
            sequences=pa.table(
                sequences or {"token": ["u", "v"], "age": [30, None], "land": ["fr", None]}
            ),
            counts={},
        )
    return store.open_dataset(path)


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "toy")


ALL = np.ones(5, bool)


def column(data, name, quantiles=None, trained=ALL):
    described = describe_variables(
        data, ("item", name), {name: quantiles} if quantiles else {}, trained
    )
    return read_columns(data, described)[name]


def test_ids_of_the_log_are_read_as_they_are(data):
    assert column(data, "item").tolist() == [6, 7, 6, 6, 8]
    assert describe_variables(data, ("item",), {}, ALL)["item"].size == 3 + RESERVED


def test_numbers_are_standardised_by_the_events_that_are_trained_on(data):
    trained = np.array([True, True, True, False, False])  # 1 and 3, and one that is missing
    values = column(data, "price", trained=trained)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [-1, 1, np.nan, -1, 5])


def test_quantiles_of_numbers_are_ids_and_a_missing_number_is_na(data):
    # 1, 1, 3, 7: the median is 2.
    assert column(data, "price", 2).tolist() == [RESERVED, RESERVED + 1, NA, RESERVED, RESERVED + 1]
    assert describe_variables(data, ("price",), {"price": 2}, ALL)["price"].size == RESERVED + 2


def test_a_gap_is_the_logarithm_of_the_seconds_since_the_event_before(data):
    gaps = describe_variables(data, ("gap",), {}, ALL)["gap"]
    found = column(data, "gap") * gaps.scale + gaps.mean
    np.testing.assert_allclose(found, [np.nan, np.log(10), np.nan, np.log(2), np.log(2)], rtol=1e-6)


def test_hours_and_weekdays_are_those_of_the_clock_in_utc(data):
    assert (column(data, "hour") - RESERVED).tolist() == [0, 0, 23, 23, 0]
    assert (column(data, "weekday") - RESERVED).tolist() == [3, 3, 6, 6, 0]  # Thursday, Sunday


def test_a_feature_of_a_sequence_stands_at_each_of_its_events(data):
    assert column(data, "sequence.land").tolist() == [RESERVED, RESERVED, NA, NA, NA]


def test_a_feature_that_is_the_same_for_all_is_refused(data):
    with pytest.raises(ValueError, match=r"'sequence.age' is always 30.0 in the training events"):
        column(data, "sequence.age")


def test_texts_that_were_not_trained_on_are_unknown_later(data, tmp_path):
    described = describe_variables(data, ("item", "sequence.land"), {}, ALL)
    later = write(tmp_path / "later", {"token": ["u", "v"], "land": ["de", "fr"]})
    assert read_columns(later, described)["sequence.land"].tolist() == [UNK, UNK] + [RESERVED] * 3


def test_a_text_that_no_later_sequence_has_is_missing(data, tmp_path):
    described = describe_variables(data, ("sequence.land",), {}, ALL)
    later = write(tmp_path / "later", {"token": ["u", "v"], "land": pa.nulls(2, pa.string())})
    assert read_columns(later, described)["sequence.land"].tolist() == [NA] * 5


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (Column(np.zeros(4)), "'mine' has 4 values for 5 events"),
        (Column(np.zeros(5), size=8), "values of type float64 and size 8"),
        (Column(np.zeros(5, np.int32)), "values of type int32 and size 0"),
        (Column(np.full(5, 8, np.int32), size=8), "ids from 8 to 8.* below its size 8"),
    ],
)
def test_a_derived_column_that_does_not_fit_is_an_error(data, monkeypatch, column, message):
    monkeypatch.setitem(VARIABLES, "mine", lambda dataset, argument: column)
    with pytest.raises(ValueError, match=message):
        describe_variables(data, ("mine",), {}, ALL)


def test_the_rest_of_a_name_is_the_argument_of_a_prefix(data, monkeypatch):
    monkeypatch.setitem(VARIABLES, "price.", lambda data, power: Column(TIME ** float(power)))
    assert find_column(data, "price.2").values.tolist() == (TIME**2.0).tolist()
    assert find_column(data, "price").values is data.columns["price"]  # of the log


def test_a_description_survives_json(data):
    for variable in describe_variables(
        data, ("price", "sequence.land", "hour"), {"price": 3}, ALL
    ).values():
        stored = json.loads(json.dumps(dataclasses.asdict(variable)))
        assert variable_from_json(stored) == variable


@pytest.mark.parametrize(
    ("names", "quantiles", "message"),
    [
        (
            ("item", "colour"),
            {},
            r"names 'colour'.* has \['item', 'price', 'time'\]; derived .*'count.NAME', 'gap'",
        ),
        (("item", "count"), {}, "names 'count'"),
        (("item", "hour.action"), {}, "names 'hour.action'"),
        (
            ("item", "sequence.height"),
            {},
            r"names 'sequence.height'; the sequences .* have \['age', 'land'\]",
        ),
        (("item", "session"), {}, "'session' needs sessions: set config.data.chain"),
        (
            ("item",),
            {"price": 4},
            "data.quantiles names 'price', which is not one of the variables of events",
        ),
        (("item", "price"), {"price": 1}, "price=1 must be 2 or more"),
        (("item", "hour"), {"hour": 4}, "names 'hour', which has ids and no numbers"),
    ],
)
def test_what_the_data_do_not_have_is_named(data, names, quantiles, message):
    with pytest.raises(ValueError, match=message):
        describe_variables(data, names, quantiles, ALL)


def test_a_clock_needs_times(tmp_path):
    with store.new_dataset_folder(tmp_path / "timeless") as folder:
        store.write_dataset(
            folder,
            source="toy",
            options={},
            offsets=np.array([0, 2]),
            events={"item": np.array([6, 7], dtype=np.int32)},
            vocabularies={"item": pa.table(ITEMS)},
            sequences=pa.table({"token": ["u"]}),
            counts={},
        )
    with pytest.raises(ValueError, match="'gap', but .* has no times"):
        describe_variables(
            store.open_dataset(tmp_path / "timeless"), ("gap",), {}, np.ones(2, bool)
        )


def test_an_absent_variable_is_missing_everywhere():
    assert missing_column(Variable(size=9), 2).tolist() == [NA, NA]
    assert np.isnan(missing_column(Variable(), 2)).all()


def test_several_values_of_an_item_are_ids_filled_up_with_pad(data):
    feature = read_item_feature(data.vocabulary("item"), "genres")
    assert feature.size == RESERVED + 2
    x, y = RESERVED, RESERVED + 1
    assert feature.values[RESERVED:].tolist() == [[x, y], [PAD, PAD], [y, PAD]]
    assert (feature.values[:RESERVED] == PAD).all()


def test_a_number_of_an_item_is_standardised_and_a_vector_is_taken_as_it_is(data):
    items = data.vocabulary("item")
    assert read_item_feature(items, "weight").size == 0
    np.testing.assert_allclose(
        read_item_feature(items, "weight").values[RESERVED:], [[-1], [1], [np.nan]]
    )
    vectors = read_item_feature(items, "text").values[RESERVED:]
    np.testing.assert_allclose(vectors, [[1, 0], [np.nan, np.nan], [0.5, 0.5]])


def test_a_number_of_items_is_read_as_it_was_read_before(data):
    before = Variable(mean=1.0, scale=4.0)
    again = read_item_feature(data.vocabulary("item"), "weight", before)
    assert again.variable == before
    np.testing.assert_array_equal(again.values[RESERVED:], [[0], [0.5], [np.nan]])


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "no item has the feature 'nothing'"), ("colour", "the catalog has .*'genres'")],
)
def test_a_feature_that_says_nothing_is_named(data, name, message):
    with pytest.raises(ValueError, match=message):
        read_item_feature(data.vocabulary("item"), name)


def test_what_is_hidden_is_mask_among_ids_and_infinite_among_numbers():
    where = jnp.array([[True, False]])
    found = mask_where({"item": jnp.array([[7, 8]]), "price": jnp.array([[0.5, 1.5]])}, where)
    assert found["item"].tolist() == [[MASK, 8]]
    assert found["price"].tolist() == [[np.inf, 1.5]]
    assert (reserved_value(MASK, np.int32), reserved_value(MASK, np.float32)) == (MASK, np.inf)


NAMES = ("item", "price", "hour", "item.genres", "item.weight", "item.text")


def full_model(data, names=NAMES, **changed):
    described = describe_variables(data, event_variables(names), {}, ALL)
    features = read_item_features(data.vocabulary("item"), names, {})
    model = build_model(small_config(**changed).model, sizes_of(described), sizes_of(features))
    columns = read_columns(data, described)
    batch = rows([[0, 1], [0, 0, 2]])
    for name, values in columns.items():
        spread = np.zeros((2, 8), values.dtype)
        spread[0, :2], spread[1, :3] = values[:2], values[2:]
        batch.variables[name] = jnp.asarray(spread)
    given = jax.tree.map(jnp.asarray, constants_of(features))
    return model, init_params(model, jax.random.key(0), batch, given), given, batch


@pytest.mark.parametrize(
    "changed", [{}, {"combine": "concat"}, {"widths": ("price=3", "hour=2")}, {"positions": "none"}]
)
def test_every_parameter_of_the_embedder_moves_what_is_read_or_scored(data, changed):
    model, params, given, batch = full_model(data, **changed)
    batch.variables["price"] = batch.variables["price"].at[1, 1].set(jnp.inf)  # and one is missing

    def total(params):
        collections = {"params": params, "constants": given}
        hidden = model.apply(collections, *batch[:3], False, False, method="encode")
        answers = model.apply(collections, hidden, method="answer")
        read_columns = (jnp.sin(hidden) * jnp.arange(8.0)[None, None]).sum()
        return read_columns + jnp.sin(answers.scores()).sum()

    gradients = jax.jit(jax.grad(total))(params)["embedder"]
    assert all(np.isfinite(g).all() and (g != 0).any() for g in jax.tree.leaves(gradients))


def test_items_of_the_same_features_differ_by_their_own_vectors_alone(data):
    model, params, given, _ = full_model(data)

    def table(params):
        return model.apply(
            {"params": params, "constants": given}, method=lambda m: m.embedder.table("item")
        )

    embedder = dict(params["embedder"])
    embedder["tables_item"] = jax.tree.map(jnp.zeros_like, embedder["tables_item"])
    bare = table({**params, "embedder": embedder})
    assert not np.allclose(bare[RESERVED], bare[RESERVED + 1])
    assert np.array_equal(bare[:RESERVED], np.broadcast_to(bare[:1], (RESERVED, 8)))
    own = params["embedder"]["tables_item"]["embedding"]
    np.testing.assert_allclose(table(params), bare + own, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"widths": ("price",)}, "model.widths: 'price' is not of the form price=20"),
        ({"widths": ("colour=4",)}, "names 'colour'"),
        ({"combine": "product"}, r"model.combine='product' is not one of \['concat', 'sum'\]"),
    ],
)
def test_widths_and_combination_that_make_no_sense_are_refused(data, changed, message):
    with pytest.raises(ValueError, match=message):
        full_model(data, **changed)
