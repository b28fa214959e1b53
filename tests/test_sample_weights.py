"""What a target weighs in the loss: of the log or of a file, on the host and on the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from toy import layout, make_task, rows, small_config

from clickflax.batch import CLS, RESERVED
from clickflax.data import store
from clickflax.data.batches import Windows, fill_rows
from clickflax.run.sample_weights import add_sample_weights, age_weights, column_weights
from clickflax.run.targets import make_task_data
from clickflax.tasks.task import MAY_MASK, WEIGHT, Masking, target_weights
from clickflax.training.setup import set_up

pytestmark = pytest.mark.usefixtures("optax_promotes")

HOUR = 3600 * 1_000_000
# Items of three users. The last two events of each are its validation and its test.
LOG = [[0, 1, 2, 3, 8, 9], [4, 5, 6, 7, 8, 9], [2, 0, 5, 1, 8, 9]]
ONES = [[1.0] * 6] * 3


# Batches are made by the host, or picked on the devices.
ASKS = [pytest.param("masked_item", 1, marks=pytest.mark.slow), ("next_item", 2)]


def write(path, log=LOG, weight=ONES, times=True):
    """A log of ten items, in which a day passes before the third event of each user."""
    lengths = [len(one) for one in log]
    time = np.concatenate([np.array([0, 1, 25, 26, 27, 28, 29, 30][:n]) * HOUR for n in lengths])
    with store.new_dataset_folder(path) as folder:
        store.write_dataset(
            folder,
            source="toy",
            options={},
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            events={
                "item": (np.concatenate(log) + RESERVED).astype(np.int32),
                **({"time": time} if times else {}),
                "counts": np.concatenate(weight).astype(np.float32),
            },
            vocabularies={"item": pa.table({"token": list("abcdefghij"), "count": [1] * 10})},
            sequences=pa.table({"token": [f"user-{i}" for i in range(len(log))]}),
            counts={},
        )
    return store.open_dataset(path)


def config_for(path, task, **changed):
    c = small_config(layers=1, positions="none")
    c.data.path, c.tasks, c.data.weight = str(path), (task,), "counts"
    c.mask.last, c.data.position_from = 1.0 if task == "masked_item" else 0.0, "start"
    # All the sequences of the toy log at once; the tables of what is read and scored are apart.
    c.train.batch_size, c.model.tied, c.train.steps_at_once = 3, False, 1
    c.optim.warmup_steps, c.optim.clip_norm = 0, 0.0
    # A gradient of rounding errors is a step of nothing, too.
    c.optim.learning_rate, c.optim.eps = 1.0, 1.0
    c.update_from_flattened_dict(changed)
    return c


def step(config, folder):
    """Parameters after a step on all there is, and the loss of it."""
    context, state = set_up(config, folder)
    state, metrics = context.steps(state, 0, 1)
    return jax.tree.map(np.asarray, state.params), float(metrics["loss"][0])


def close(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.allclose(x, y, atol=2e-6), one, other)))


@pytest.mark.parametrize(("task", "at_once"), ASKS)
def test_a_target_that_weighs_nothing_may_be_any_item(tmp_path, task, at_once):
    # Of the four events that are trained on, the Cloze hides the last one; a causal model is asked
    # for it and never reads it.
    other = [[*LOG[0][:3], 9, 8, 9], *LOG[1:]]
    none = [[1, 1, 1, 0, 1, 1], *ONES[1:]]

    def found(name, log, weight):
        write(tmp_path / name, log, weight)
        config = config_for(tmp_path / name, task, **{"train.steps_at_once": at_once})
        return step(config, tmp_path / f"run-{name}")

    one = found("one", LOG, none)
    assert close(one, found("two", other, none))
    assert not close(one, found("three", other, ONES))


@pytest.mark.parametrize(("task", "at_once"), ASKS)
def test_a_hundredth_and_two_hundredths_are_as_a_copy_and_two(tmp_path, task, at_once):
    write(tmp_path / "weighed", LOG, [[0.02] * 6, [0.01] * 6, [0.01] * 6])
    write(tmp_path / "copied", [LOG[0], *LOG], [*ONES, *ONES[:1]])

    def found(data, name, **changed):
        config = config_for(tmp_path / data, task, **{"train.steps_at_once": at_once})
        config.update_from_flattened_dict(changed)
        return step(config, tmp_path / name)

    weighed = found("weighed", "run-weighed")
    copies = {"data.weight": "", "train.batch_size": 4}
    assert close(weighed, found("copied", "run-copied", **copies))
    assert not close(weighed, found("weighed", "run-plain", **{"data.weight": ""}))


def label_file(path, *rows, names="sequence,event,label,weight"):
    path.write_text("\n".join([names, *rows]))
    return str(path)


def label_config(path, file):
    times = {"data.split": "time", "data.validation_from": "2000-01-01"}
    times |= {"data.test_from": "2000-01-01", "train.monitor": "auc", "train.steps_at_once": 2}
    return config_for(path, "label", **{"label.path": file, "data.weight": "", **times})


def test_a_label_of_a_file_weighs_what_the_file_says(tmp_path):
    write(tmp_path / "data", weight=np.arange(18).reshape(3, 6))

    def found(name, *rows, **changed):
        config = label_config(tmp_path / "data", label_file(tmp_path / f"{name}.csv", *rows))
        config.update_from_flattened_dict(changed)
        return step(config, tmp_path / name)

    yes = found("yes", "user-0,5,1,1", "user-1,5,0,0", "user-2,5,0,0")
    assert close(yes, found("same", "user-0,5,1,1", "user-1,5,0,0", "user-2,5,1,0"))
    no = found("no", "user-0,5,1,0", "user-1,5,0,1", "user-2,5,0,0")
    # A yes with weight 3 and a no with weight 1, whatever the log says.
    rows = ("user-0,5,1,3", "user-1,5,0,1", "user-2,5,0,0")
    both = found("both", *rows, **{"data.weight": "counts"})
    assert both[1] == pytest.approx(0.75 * yes[1] + 0.25 * no[1], rel=1e-5)


def test_a_label_without_a_weight_in_its_file_weighs_what_its_event_does(tmp_path):
    data = write(tmp_path / "data", weight=np.arange(18).reshape(3, 6))
    file = label_file(tmp_path / "labels.csv", "user-0,2,1", "user-1,3,0", names=NAMES)
    config = label_config(tmp_path / "data", file)
    config.data.weight = "counts"
    one = add_sample_weights(config, data, make_task_data(config, data))["label"]
    told = np.isfinite(one.labels["label"])
    assert one.labels[WEIGHT][told].tolist() == [2, 9]


NAMES = "sequence,event,label"


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("-1", "csv, line 3: the weight '-1' is not a finite number, 0 or more"),
        ("inf", "csv, line 3: the weight 'inf' is not a finite number"),
        ("nan", "csv, line 3: the weight 'nan' is not"),
        ("", "csv, line 3: the weight '' is not"),
    ],
)
def test_a_weight_of_a_file_that_is_none_is_refused(tmp_path, weight, message):
    write(tmp_path / "data")
    file = label_file(tmp_path / "labels.csv", "user-0,5,1,1", f"user-1,5,0,{weight}")
    with pytest.raises(ValueError, match=message):
        set_up(label_config(tmp_path / "data", file), tmp_path / "run")


@pytest.mark.parametrize("weight", [-2.0, np.nan, np.inf])
def test_a_weight_of_the_log_that_is_none_is_refused(tmp_path, weight):
    write(tmp_path / "data", weight=[[1, 1, weight, 1, 1, 1], *ONES[1:]])
    message = f"'counts': 1 events of .* that of event 2 is {weight:g}"
    with pytest.raises(ValueError, match=message):
        set_up(config_for(tmp_path / "data", "next_item"), tmp_path / "run")


def test_weights_that_leave_nothing_to_learn_are_refused(tmp_path):
    # The first event is no target of a causal model, the last two are not trained on.
    write(tmp_path / "data", weight=[[1, 0, 0, 0, 1, 1]] * 3)
    with pytest.raises(ValueError, match="weight='counts': all targets that next_item is trained"):
        set_up(config_for(tmp_path / "data", "next_item"), tmp_path / "run")
    set_up(config_for(tmp_path / "data", "masked_item"), tmp_path / "run")
    file = label_file(tmp_path / "labels.csv", "user-0,5,1,0", "user-1,5,0,0")
    with pytest.raises(ValueError, match="labels.csv: all targets that label is trained on weigh"):
        set_up(label_config(tmp_path / "data", file), tmp_path / "label")


@pytest.mark.parametrize("name", ["item", "time", "nothing"])
def test_what_weighs_is_a_number_of_the_log(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}' is not a numeric variable .* are .'counts'"):
        column_weights(write(tmp_path / "data"), name)


def test_half_of_a_weight_is_left_after_each_half_life(tmp_path):
    data = write(tmp_path / "data", weight=[[3.0] * 6] * 3)  # at 0, 1, 25, 26, 27 and 28 h
    age = age_weights(data, "2h")
    assert age[:6] == pytest.approx([14, 13.5, 1.5, 1, 0.5, 0])
    config = config_for(tmp_path / "data", "next_item", **{"data.half_life": "2h"})
    # What is trained on ends at 26 h. Weights are those of the event that is asked for.
    left = [2**-12.5, 2**-0.5, 1]

    def weights():
        return add_sample_weights(config, data, make_task_data(config, data))["next_item"].labels[
            WEIGHT
        ][:3]

    assert weights() == pytest.approx([3 * one for one in left])
    config.data.weight = ""
    assert weights() == pytest.approx(left)
    config.data.half_life = "1s"  # however long ago the training was
    assert weights()[-1] == 1
    alone = write(tmp_path / "alone", times=False)  # without times, ages are those of sequences
    assert age_weights(alone, "1")[::6].tolist() == [2, 1, 0]
    assert age_weights(alone, "0.5")[:6].tolist() == [4] * 6


def test_what_an_age_leaves_counts_for_labels_of_a_file_too(tmp_path):
    data = write(tmp_path / "data")
    file = label_file(tmp_path / "labels.csv", "user-0,5,1,3", "user-1,3,0,5")
    config = label_config(tmp_path / "data", file)
    config.data.half_life = "2h"
    one = add_sample_weights(config, data, make_task_data(config, data))["label"]
    told = np.isfinite(one.labels["label"])
    assert one.labels[WEIGHT][told] == pytest.approx([3, 2.5])


@pytest.mark.parametrize("task", [pytest.param("masked_item", marks=pytest.mark.slow), "next_item"])
def test_a_step_learns_more_of_what_is_young(tmp_path, task):
    write(tmp_path / "data", times=False)

    def loss(data, **changed):
        return step(config_for(tmp_path / data, task, **changed), tmp_path / f"run-{data}")[1]

    def of(name, *weights):
        write(tmp_path / name, weight=[[w] * 6 for w in weights], times=False)
        return loss(name)

    young = loss("data", **{"data.weight": "", "data.half_life": "0.5"})
    assert young == pytest.approx(of("weighed", 1, 4, 16), rel=1e-5)
    assert young != pytest.approx(of("alike", 1, 1, 1), rel=1e-5)


@pytest.mark.parametrize(
    ("times", "half_life", "message"),
    [
        (True, "100", "'100' must be a time such as 30d, or, if the log has no times"),
        (True, "0d", "config.data.half_life=0d is not a time"),
        (True, "soon", "config.data.half_life=soon is not a time"),
        (False, "30d", "'30d' must be a number of sequences, as .* has no times"),
        (False, "0", "a number of sequences above 0"),
        (False, "nan", "a number of sequences above 0"),
    ],
)
def test_a_half_life_that_is_none_is_refused(tmp_path, times, half_life, message):
    data = write(tmp_path / "data", times=times)
    with pytest.raises(ValueError, match=message):
        age_weights(data, half_life)


def test_a_sep_weighs_nothing_and_the_next_item_what_its_own_event_does(tmp_path):
    data = write(tmp_path / "data", weight=np.arange(18).reshape(3, 6)).with_sessions("12h")
    # Places of the first user: two events, SEP, two events; its last two are held out.
    config = config_for(tmp_path / "data", "next_item", **{"data.chain": "12h"})
    expected = {
        "next_item": ([1, 0, 2, 3, 4], "next_item"),
        "basket": ([0, 0, 0, 2, 3], "basket"),
    }
    for name, (weights, label) in expected.items():
        config.tasks = (name,)
        one = add_sample_weights(config, data, make_task_data(config, data))[name]
        columns = {"item": data.with_separators(data.columns["item"])}
        windows = Windows(np.array([0]), np.array([5 + (name == "next_item")]))
        batch = fill_rows(
            columns,
            windows,
            np.array([0]),
            1,
            layout(7, position_from="start"),
            labels={key: one.labels[key] for key in (label, WEIGHT)},
            shifted=name == "next_item",
        )
        masking = Masking(0.2, "mask", 0.0, 3, 10, ())
        question = make_task(name).prepare(
            jax.random.key(0), jax.tree.map(jnp.asarray, batch), masking
        )
        assert question.weights[0].tolist() == [*weights, 0, 0]


def test_the_cloze_weighs_what_it_hides_and_nothing_at_cls():
    weight = jnp.array([[jnp.nan, 10, 20, 30, 40, jnp.nan, jnp.nan, jnp.nan]])
    batch = rows([[1, 2, 3, 4]], cls=True)._replace(labels={WEIGHT: weight, MAY_MASK: weight})
    assert batch.variables["item"][0, 0] == CLS
    question = make_task("masked_item").prepare(
        jax.random.key(1), batch, Masking(0.5, "mask", 0.0, 4, 10, ())
    )
    places = np.asarray(question.positions)[0][:2]
    assert question.weights[0].tolist() == [10 * places[0], 10 * places[1], 0, 0]
    asked = jnp.array([[True, False]])
    assert target_weights(asked, batch._replace(labels={})).tolist() == [[1, 0]]
