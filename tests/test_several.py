"""Variables that have several values at once: prepared, moved, embedded, learned."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from logs import UIT, accounts_for_every_row, prepared, sequences, write_parquet
from toy import layout, make_task, small_config

from clickflax.baselines.feature_table import read_event_columns
from clickflax.batch import CLS, MASK, NA, PAD, RESERVED, SEP
from clickflax.data.batches import Query, Windows, fill_rows, shift_left
from clickflax.data.eval_batches import DeviceLayout, eval_batches
from clickflax.data.store import new_dataset_folder, open_dataset, write_dataset
from clickflax.data.variables import Variable, describe_variables, missing_column, read_columns
from clickflax.data.where import matches
from clickflax.evaluation.main import evaluate_run
from clickflax.evaluation.request import EvalRequest
from clickflax.inference import recommend
from clickflax.preparation.main import main, prepare
from clickflax.preparation.options import Options, parse_columns
from clickflax.run.folder import load_run, open_data
from clickflax.run.model import build_model
from clickflax.run.targets import make_task_data
from clickflax.runtime.params import by_name
from clickflax.tasks.task import Masking, mask_where
from clickflax.training.input_pipeline import make_resident
from clickflax.training.loop import train
from clickflax.training.setup import set_up
from clickflax.training.step import init_params

TAGGED = UIT + ",tags=g:several"


def test_a_text_is_split_and_ids_go_by_frequency_and_then_by_token(tmp_path):
    text = "u,i,t,g\n1,a,1,new|red\n1,b,2,\n1,a,3,red|sale|red\n1,b,4,|\n"
    data = prepared(tmp_path, text, TAGGED)
    # red is in two events, new and sale in one each
    assert data.vocabulary("tags").tokens() == ["red", "new", "sale"]
    assert data.vocabulary("tags").column("count") == [2, 1, 1]
    assert data.columns["tags"].dtype == np.int32
    assert data.columns["tags"].tolist() == [[6, 7], [NA, PAD], [6, 8], [NA, PAD]]
    assert data.info["variables"]["tags"] == {"kind": "several", "size": 9, "width": 2}


def test_lists_of_parquet_are_several_without_being_named_so(tmp_path):
    write_parquet(
        tmp_path / "log.parquet",
        "SELECT * FROM (VALUES (1, 'a', [7, 30, 7]), (1, 'b', []), (1, 'c', NULL), "
        "(2, 'a', [30, NULL, 4])) AS t(u, i, g)",
    )
    columns = parse_columns("sequence=u,item=i,tags=g")
    prepare("log", tmp_path / "log.parquet", tmp_path / "out", Options(columns))
    data = open_dataset(tmp_path / "out")
    assert data.vocabulary("tags").tokens() == ["30", "4", "7"]
    assert data.columns["tags"].tolist() == [[6, 8], [NA, PAD], [NA, PAD], [6, 7]]


def test_arrays_of_json_are_lists_and_other_texts_are_split(tmp_path):
    lines = ['"g": ["x|y", "", null]', '"g": "x;[y"', '"g": null', '"h": 0']
    text = "".join(f'{{"u": 1, "i": "{k}", "t": {k}, {g}}}\n' for k, g in enumerate(lines))
    data = prepared(tmp_path, text, TAGGED, "log.jsonl", separator=";")
    assert data.vocabulary("tags").tokens() == ["[y", "x", "x|y"]
    assert data.columns["tags"].tolist() == [[8, PAD], [6, 7], [NA, PAD], [NA, PAD]]


def test_an_event_of_too_many_values_is_named_and_can_be_skipped(tmp_path):
    many = "|".join(str(k) for k in range(65))
    text = f"u,i,t,g\n1,a,1,x\n1,b,2,{many}\n1,b,3,{many[:-3]}\n"
    with pytest.raises(ValueError, match=r"log.csv, line 3: tags has more than 64 values \('65'\)"):
        prepared(tmp_path, text, TAGGED)
    data = prepared(tmp_path, text, TAGGED, on_bad_rows="skip")
    assert data.columns["tags"].shape == (2, 64)
    assert data.info["counts"]["dropped"] == {"tags has more than 64 values": 1}
    assert accounts_for_every_row(data)


def test_an_event_repeats_another_with_all_the_same_values_in_any_order(tmp_path):
    text = "u,i,t,g\n1,a,1,x|y\n1,a,2,y|x\n1,a,3,x\n1,b,4,x\n"
    data = prepared(tmp_path, text, TAGGED, repeats="merge")
    assert data.columns["tags"].tolist() == [[6, 7], [6, PAD], [6, PAD]]


def test_values_of_dropped_events_leave_the_vocabulary(tmp_path):
    text = "u,i,t,g\n1,a,1,z|y\n1,b,2,x|y\n1,a,3,y|w\n1,c,4,w\n1,c,5,w\n"
    data = prepared(tmp_path, text, TAGGED, min_count=2)
    assert sequences(data)["1"] == ["a", "a", "c", "c"]
    assert data.vocabulary("tags").tokens() == ["w", "y", "z"]
    assert data.columns["tags"].tolist() == [[7, 8], [6, 7], [6, PAD], [6, PAD]]


def test_the_command_splits_at_the_separator_and_reports_the_maximum_values(tmp_path, capsys):
    (tmp_path / "log.csv").write_text('u,i,t,g,h\n1,a,1,"x,y,z",a\n1,b,2,"y,x","b,a"\n')
    flags = ["--raw", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out")]
    main(["log", *flags, "--columns", TAGGED + ",more=h:several", "--separator", ","])
    said = capsys.readouterr().out
    assert re.search(r"tags: tokens +│ +3 ", said)
    assert re.search(r"tags: maximum values per event +│ +3 ", said)
    columns = open_dataset(tmp_path / "out").columns
    assert columns["tags"].tolist() == [[6, 7, 8], [6, 7, PAD]]
    assert columns["more"].tolist() == [[6, PAD], [6, 7]]


def test_lists_of_recbole_are_taken_up_when_they_are_named(tmp_path):
    text = "user_id:token\titem_id:token\ttags:token_seq\n1\ta\tx y\n1\tb\ty\n"
    (tmp_path / "toy.inter").write_text(text)
    columns = parse_columns("sequence=user_id,item=item_id,tags=tags")
    prepare("recbole", tmp_path, tmp_path / "out", Options(columns))
    assert open_dataset(tmp_path / "out").columns["tags"].tolist() == [[6, 7], [6, PAD]]


def test_a_variable_without_any_value_is_missing_everywhere(tmp_path):
    data = prepared(tmp_path, "u,i,t,g\n1,a,1,\n1,b,2,|\n", TAGGED)
    assert data.columns["tags"].tolist() == [[NA], [NA]]
    assert data.vocabulary("tags").tokens() == []


# Moved


TAGS = np.array([[6, 8], [7, PAD], [NA, PAD], [6, 7], [8, PAD]], np.int32)
COLUMNS = {"item": np.array([6, 7, 6, 6, 8], np.int32), "tags": TAGS}
BOTH = Windows(np.array([0, 2]), np.array([2, 5]))


def write(path, tags=TAGS, tokens=("red", "new", "sale")):
    with new_dataset_folder(path) as folder:
        write_dataset(
            folder,
            source="toy",
            options={},
            offsets=np.array([0, 2, 5]),
            events={**COLUMNS, "tags": tags},
            vocabularies={
                "item": pa.table({"token": ["b", "a", "c"], "count": [3, 1, 1]}),
                "tags": pa.table({"token": list(tokens), "count": [1] * len(tokens)}),
            },
            sequences=pa.table({"token": ["u", "v"]}),
            counts={},
        )
    return open_dataset(path)


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "toy")


def test_a_row_opens_with_cls_ends_with_what_is_asked_and_is_filled_up_with_pad():
    batch = fill_rows(COLUMNS, BOTH, np.array([0, 0]), 1, layout(10, cls=True), query=Query(MASK))
    first = [[CLS, PAD], [6, 8], [7, PAD], [MASK, PAD]]
    second = [[CLS, PAD], [NA, PAD], [6, 7], [8, PAD], [MASK, PAD], [PAD, PAD]]
    assert batch.variables["tags"][0].tolist() == first + second


def test_the_last_events_of_a_history_come_with_their_values():
    devices = DeviceLayout(1, 1, 2)
    (asked,) = eval_batches(
        COLUMNS, BOTH, layout(3, packing=False), Query(MASK), devices, seen=False
    )
    assert asked.batch.variables["tags"].shape == (1, 1, 2, 3, 2)
    found = asked.batch.variables["tags"][0, 0].tolist()
    for history in ([6, 8], [7, PAD], [MASK, PAD]), ([6, 7], [8, PAD], [MASK, PAD]):
        assert list(history) in found


def test_what_follows_has_all_values_of_the_event_after():
    assert shift_left(TAGS).tolist() == [*TAGS[1:].tolist(), [PAD, PAD]]


def test_between_two_parts_stands_one_sep(data):
    chained = data.with_sessions("item")
    found = read_columns(
        chained, describe_variables(chained, ("item", "tags"), {}, np.ones(5, bool))
    )["tags"]
    sep = [SEP, PAD]
    assert found.tolist() == [[6, 8], sep, [7, PAD], [NA, PAD], [6, 7], sep, [8, PAD]]


def test_hidden_are_all_values_of_an_event_and_no_other():
    found = mask_where({"tags": jnp.asarray(TAGS[None])}, jnp.arange(5)[None] == 3)["tags"][0]
    assert found.tolist() == [*TAGS[:3].tolist(), [MASK, PAD], [8, PAD]]


def test_an_absent_variable_of_several_values_is_missing_everywhere():
    assert missing_column(Variable(size=9, several=True), 2).tolist() == [[NA], [NA]]


def test_events_are_chosen_and_counted_by_one_of_their_values(data):
    assert np.flatnonzero(matches(data, "tags=new")).tolist() == [1, 3]
    found = read_columns(data, {"count.tags=red": Variable()})["count.tags=red"]
    np.testing.assert_allclose(np.expm1(found), [1, 1, 0, 1, 1], rtol=1e-6)


# Embedded


def rows_of(tags):
    """A row of events that have these tags, each with an item of its own."""
    columns = {"item": (np.arange(len(tags)) + RESERVED).astype(np.int32), "tags": np.array(tags)}
    columns["tags"] = columns["tags"].astype(np.int32)
    windows = Windows(np.array([0]), np.array([len(tags)]))
    batch = fill_rows(
        columns, windows, np.array([0]), 1, layout(len(tags) + 1, position_from="start")
    )
    return jax.tree.map(jnp.asarray, batch)


def model_of(batch, **changed):
    model = build_model(small_config(**changed).model, {"item": 10, "tags": 12})
    return model, init_params(model, jax.random.key(0), batch)


def test_an_event_has_the_mean_of_the_vectors_of_its_values():
    tags = np.array([[6, 8], [7, PAD], [NA, PAD], [MASK, PAD]])
    batch = rows_of(tags)
    model, params = model_of(batch, embedding_norm=False)

    def embed(batch):
        return model.apply(
            {"params": params},
            batch.variables,
            batch.position,
            False,
            method=lambda model, *given: model.embedder(*given),
        )[0, :4]

    table = np.asarray(params["embedder"]["tables_tags"]["embedding"])
    means = [(table[6] + table[8]) / 2, table[7], table[NA], table[MASK]]
    nothing = embed(rows_of(np.full((4, 2), PAD)))
    np.testing.assert_allclose(embed(batch) - nothing, means, atol=1e-6)
    wider = embed(rows_of(np.pad(tags, ((0, 0), (0, 3)))))
    np.testing.assert_allclose(wider, embed(batch), atol=1e-6)


def test_the_values_of_a_hidden_event_are_not_read():
    tags = [[6, PAD], [7, 8], [9, 10]]
    batch = rows_of(tags)
    model, params = model_of(batch)
    task = make_task("masked_item")
    question = task.prepare(jax.random.key(1), batch, Masking(0.4, "mask", 0.0, 1, 4, ()))
    (hidden,) = np.flatnonzero(question.inputs["item"][0] == MASK).tolist()

    def loss(params):
        asked = (question.inputs, *batch[1:3], False, False, question.positions)
        states = model.apply({"params": params}, *asked, method="encode")
        scores = model.apply({"params": params}, states, method="answer").scores()
        return -jax.nn.log_softmax(scores[0, 0])[question.targets[0, 0]]

    gradient = jax.jit(jax.grad(loss))(params)["embedder"]["tables_tags"]["embedding"]
    moved = set(np.flatnonzero(np.abs(gradient).max(axis=1)).tolist())
    seen = [id for place, ids in enumerate(tags) if place != hidden for id in ids if id != PAD]
    assert moved == {*seen, MASK}


# Learned


def log_of(path, most, sequences=60):
    """A log whose events have up to `most` of four tags; all tags are in it equally often."""
    chance = np.random.default_rng(0)
    lines = ["u,i,t,action,tags"]
    for k in range(sequences * 6):
        tags = "|".join(f"t{(k + j) % 4}" for j in range(k // 4 % (most + 1)))
        lines.append(f"u{k // 6},i{chance.integers(12)},{k * 86400},{'view'},{tags}")
    path.mkdir()
    (path / "log.csv").write_text("\n".join(lines) + "\n")
    columns = parse_columns("sequence=u,item=i,time=t,action=action,tags=tags:several")
    prepare("log", path / "log.csv", path / "data", Options(columns))
    return path / "data"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """The same events with up to three and with up to two tags each."""
    folder = tmp_path_factory.mktemp("logs")
    return log_of(folder / "three", 3), log_of(folder / "two", 2)


def config_for(path, task="masked_item", **changed):
    c = small_config(layers=1)
    c.tasks, c.data.path = (task,), str(path)
    c.data.variables, c.data.position_from = ("item", "tags"), "start"
    c.train.update({"batch_size": 32, "steps": 4, "eval_every": 2, "log_every": 2})
    c.update_from_flattened_dict(changed)
    return c


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotes")
@pytest.mark.parametrize(
    ("task", "changed"),
    [
        ("masked_item", {"train.steps_at_once": 2, "model.widths": ("tags=3",)}),
        ("next_item", {"data.cls": True, "model.combine": "concat"}),
        ("basket", {"data.chain": "12h", "data.variables": ("item", "tags", "count.tags=t1")}),
    ],
)
def test_a_run_is_trained_and_asked_also_of_events_of_fewer_values(logs, tmp_path, task, changed):
    train(config_for(logs[0], task, **changed), tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.variables["tags"] == Variable(size=RESERVED + 4, several=True)
    record = evaluate_run(tmp_path / "run", "test")
    assert record["users"] == 60 and 0 < record["ndcg@10"] < 1
    assert [open_data(run, path).columns["tags"].shape for path in logs] == [(360, 3), (360, 2)]
    assert evaluate_run(tmp_path / "run", "test", EvalRequest(data=str(logs[1])))["users"] == 60
    with pytest.warns(UserWarning, match="the histories have no .*tags: taken as missing"):
        (found,) = recommend.top_k(run, [["i1", "i2"]], k=3)
    assert len(found) == 3
    out = tmp_path / "lists.parquet"
    assert recommend.write_recommendations(run, None, None, out, 3, True, ()) == 60


@pytest.fixture(scope="module")
def old_run(tmp_path_factory):
    """A run on the toy data."""
    folder = tmp_path_factory.mktemp("old")
    with jax.numpy_dtype_promotion("standard"):
        train(config_for(write(folder / "toy").path, **WITHOUT_VALIDATION), folder / "run")
    return folder / "run"


WITHOUT_VALIDATION = {"data.split": "leave_one_out", "data.validation_users": 0}


def test_a_token_takes_its_vector_to_another_vocabulary(old_run, tmp_path):
    write(tmp_path / "new", tokens=("sale", "dear", "red", "new"))
    init = {"init.run": str(old_run), "init.vocab": "remap"}
    config = config_for(tmp_path / "new", **WITHOUT_VALIDATION, **init)
    context, state = set_up(config, tmp_path / "run")
    name, old = "embedder/tables_tags/embedding", load_run(old_run).params
    before, after = (np.asarray(by_name(params)[name]) for params in (old, state.params))
    red, new, sale = before[RESERVED:]
    expected = [*before[:RESERVED], sale, before[RESERVED:].mean(0), red, new]
    np.testing.assert_allclose(after, expected, atol=1e-6)
    assert context.transferred and context.transferred.tokens["tags"] == {
        "kept": 3,
        "new": 1,
        "gone": 0,
    }


def test_a_run_of_several_values_does_not_go_on_with_one(old_run, tmp_path):
    write(tmp_path / "single", TAGS[:, 0])
    config = config_for(tmp_path / "single", **WITHOUT_VALIDATION, **{"init.run": str(old_run)})
    with pytest.raises(ValueError, match="'tags' as several values per event, which .*single"):
        set_up(config, tmp_path / "run")


def test_what_stays_on_the_devices_has_all_values(logs, tmp_path):
    context, _ = set_up(config_for(logs[0]), tmp_path / "run")
    assert make_resident(context.data.batches["masked_item"]).columns["tags"].shape == (360, 3)


@pytest.mark.parametrize(
    ("task", "changed", "message"),
    [
        ("masked_tags", {}, "'tags' has several values per event .* cannot be predicted"),
        ("next_tags", {}, "'tags' has several values per event"),
        ("next_item", {"data.given": ("tags",)}, "data.given names 'tags', which has several"),
        ("masked_item", {"data.given": ("tags",)}, "data.given names 'tags', which has several"),
        ("next_item", {"data.chain": "tags"}, "'tags' is neither .* variables with one value"),
        ("next_item", {"data.quantiles": ("tags=4",)}, "'tags', which has ids and no numbers"),
    ],
)
def test_what_cannot_be_asked_of_several_values_is_an_error(logs, tmp_path, task, changed, message):
    with pytest.raises(ValueError, match=message):
        set_up(config_for(logs[0], task, **changed), tmp_path / "run")


def test_one_value_is_not_read_as_several_nor_several_as_one(data, tmp_path):
    described = describe_variables(data, ("item", "tags"), {}, np.ones(5, bool))
    single = write(tmp_path / "single", TAGS[:, 0])
    with pytest.raises(ValueError, match="'tags' has one value per event in .*, several where"):
        read_columns(single, described)
    with pytest.raises(ValueError, match="'tags' has several values per event in .*, one where"):
        read_columns(data, {"tags": Variable(size=9)})


def test_features_made_by_hand_leave_several_values_out(logs):
    changed = {"data.split": "time", "data.validation_from": "1970-07-01"}
    changed |= {"data.test_from": "1970-10-01", "label.buy": "view"}
    dataset = open_dataset(logs[0])
    asked = make_task_data(config_for(logs[0], "purchase", **changed), dataset)["purchase"]
    assert sorted(read_event_columns(dataset, asked, ("item", "tags")).ids) == ["action", "item"]


@pytest.mark.parametrize("name", ["item", "price"])
def test_items_and_numbers_have_one_value(tmp_path, name):
    price = np.zeros((5, 2), np.float32)
    with (
        pytest.raises(ValueError, match=f"events/{name}.npy is .* than the item may have several"),
        new_dataset_folder(tmp_path / "toy") as folder,
    ):
        write_dataset(
            folder,
            source="toy",
            options={},
            offsets=np.array([0, 5]),
            events={"item": TAGS} if name == "item" else {**COLUMNS, "price": price},
            vocabularies={"item": pa.table({"token": ["b", "a", "c"], "count": [3, 1, 1]})},
            sequences=pa.table({"token": ["u"]}),
            counts={},
        )
