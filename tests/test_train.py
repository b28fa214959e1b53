"""Training: the same numbers on any number of devices, and after any interruption."""

import errno
import json
import os
import shutil
import signal

import jax
import numpy as np
import optax
import pytest
from toy import small_config

from clickflax.config.check_numbers import RANGES
from clickflax.config.default import from_dict, to_dict
from clickflax.data.store import open_dataset
from clickflax.evaluation import main as evaluation_module
from clickflax.evaluation.main import evaluate_run
from clickflax.inference import recommend
from clickflax.run.folder import load_run
from clickflax.runtime import checkpoint, environment, sharding
from clickflax.runtime.files import read_json, write_json
from clickflax.runtime.optim import learning_rate, make_optimizer
from clickflax.runtime.signals import Stopped
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.study.results import distinct_environments
from clickflax.training import loop as train_module
from clickflax.training.loop import train
from clickflax.training.setup import set_up

pytestmark = pytest.mark.usefixtures("optax_promotes")
all_devices = sharding.make_mesh


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A simulated shop of 60 items."""
    path = tmp_path_factory.mktemp("shop") / "data"
    simulate(path, Shop(sequences=40, items=60, mean_length=6.0, max_length=12))
    return path


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    """The folder of a run of `config_for(shop)`, which no test changes."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with jax.numpy_dtype_promotion("standard"):
        train(config_for(shop), folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """The folder of a run of `config_for(shop)`, for one test."""
    return shutil.copytree(trained, tmp_path / "run")


def config_for(shop, **train_knobs):
    c = small_config(layers=1, dropout=0.2, attention_dropout=0.2)
    c.data.path = str(shop)
    c.optim.warmup_steps = 2
    c.optim.learning_rate = 0.01
    # The gradient of the biases of the keys is zero but for rounding, which Adam would blow up.
    c.optim.eps = 1e-3
    c.train.update({"batch_size": 32, "micro_rows": 1, "steps": 6, "eval_every": 3} | train_knobs)
    c.train.log_every = 2
    return from_dict(to_dict(c))


def one_device(*_):
    return all_devices(devices=jax.devices()[:1])


def steps(config, folder, count):
    context, state = set_up(config, folder)
    for step in range(0, count, context.steps.at_once):
        state, metrics = context.steps(state, step, min(context.steps.at_once, count - step))
    return context, state, metrics


def optimised():
    """Whether programs are compiled as users have them: see conftest."""
    return "backend_optimization_level=0" not in os.environ["XLA_FLAGS"]


def leaves(params):
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(params)}


def assert_alike(a, b, **tolerance):
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], err_msg=name, **tolerance)


OWN = {"name": "gbce", "negatives": 3, "avoid": "history"}
SHARED = {"negatives": 5, "drawn": "popularity", "shared": True, "log_q": True}
IN_BATCH = {"name": "bpr", "negatives": 2, "drawn": "in_batch"}


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ("masked_item", {}),
        pytest.param("next_item", OWN, marks=pytest.mark.slow),
        pytest.param("masked_item", SHARED, marks=pytest.mark.slow),
        pytest.param("next_item", IN_BATCH, marks=pytest.mark.slow),
    ],
)
def test_one_and_eight_devices_jit_and_pmap_give_the_same_parameters(
    shop, tmp_path, monkeypatch, task, loss
):
    config = config_for(shop, batch_size=13)  # does not divide over eight devices
    config.tasks = (task,)
    config.loss.update(loss)
    context, eight, _ = steps(config, tmp_path / "jit", 3)
    assert context.mesh.size == 8
    assert context.data.batches[task].rows % 8
    mapped = config_for(shop, batch_size=13, parallel="pmap")
    mapped.tasks = (task,)
    mapped.loss.update(loss)
    _, pmapped, _ = steps(mapped, tmp_path / "pmap", 3)
    # Without optimisation, XLA sums in another order in the two.
    assert_alike(eight.params, pmapped.params, rtol=0, atol=0 if optimised() else 1e-7)
    monkeypatch.setattr(sharding, "make_mesh", one_device)
    alone, one, _ = steps(config, tmp_path / "one", 3)
    assert alone.mesh.size == 1
    assert_alike(eight.params, one.params, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "loss", "repeat"),
    [("masked_item", {}, False), ("next_item", {}, True)]
    + [("next_item", {"name": "bce", "negatives": 3}, True)],
)
def test_every_parameter_changes_in_a_step(shop, tmp_path, task, loss, repeat):
    config = config_for(shop)
    config.tasks, config.model.repeat = (task,), repeat
    config.loss.update(loss)
    config.optim.warmup_steps = 0
    config.optim.weight_decay = 0.0  # which would change them without any gradient
    config.optim.eps = 1e-30
    _, before = set_up(config, tmp_path / "fresh")
    before = leaves(before.params)
    _, state, _ = steps(config, tmp_path / "stepped", 1)
    after = leaves(state.params)
    assert [name for name in before if np.array_equal(before[name], after[name])] == []


def test_masks_dropout_and_gradients_are_the_same_however_the_batch_is_cut(
    shop, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharding, "make_mesh", one_device)
    several, few = config_for(shop, micro_rows=1000), config_for(shop, micro_rows=3)
    several.loss.negatives = few.loss.negatives = 4
    _, whole, _ = steps(several, tmp_path / "whole", 2)
    context, cut, _ = steps(few, tmp_path / "cut", 2)
    assert context.data.batches["masked_item"].rows % 3
    assert_alike(whole.params, cut.params, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", ["masked_item", pytest.param("next_item", marks=pytest.mark.slow)])
def test_steps_are_the_same_with_the_softmax_in_chunks(shop, tmp_path, task):
    configs = [config_for(shop, softmax_chunk=chunk) for chunk in (0, 7)]
    for config in configs:
        config.tasks = (task,)
    _, whole, _ = steps(configs[0], tmp_path / "whole", 2)
    _, chunked, _ = steps(configs[1], tmp_path / "chunked", 2)
    assert_alike(whole.params, chunked.params, rtol=1e-4, atol=1e-6)


def test_steps_in_bfloat16_lower_the_loss_and_keep_float32_parameters(shop, tmp_path):
    config = config_for(shop)
    config.model.dtype = "bfloat16"
    _, state, first = steps(config, tmp_path / "first", 1)
    assert {str(x.dtype) for x in jax.tree.leaves(state.params)} == {"float32"}
    _, _, last = steps(config, tmp_path / "last", 12)
    assert float(last["loss"][0]) < float(first["loss"][0])


def last_state(folder):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return checkpoint.load_params(folder / "checkpoints" / "last", here)


def untimed(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.slow
def test_a_run_made_longer_equals_the_run_that_was_long_from_the_beginning(shop, run, tmp_path):
    result = train(config_for(shop, steps=12), run)
    assert result["step"] == 12
    train(config_for(shop, steps=12), tmp_path / "one")
    progress, params = last_state(run)
    expected, uninterrupted = last_state(tmp_path / "one")
    assert_alike(params, uninterrupted, rtol=0, atol=0)
    assert untimed(run) == untimed(tmp_path / "one")
    del progress["seconds"], expected["seconds"]
    assert progress == expected


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_devices(shop, run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "make_mesh", one_device)
        train(config_for(shop, steps=9), run)
    train(config_for(shop, steps=9), tmp_path / "stayed")
    moved, stayed = last_state(run), last_state(tmp_path / "stayed")
    assert moved[0]["step"] == stayed[0]["step"] == 9
    assert_alike(moved[1], stayed[1], rtol=1e-3, atol=1e-5)


def test_a_run_resumed_on_another_machine_records_both_starts(shop, run, monkeypatch):
    first = read_json(run / "environment.json")
    train(config_for(shop, steps=7), run)
    assert read_json(run / "environment.json") == first  # resumed in the same environment
    monkeypatch.setattr(environment, "_cpu_model", lambda: "another processor")
    train(config_for(shop, steps=8), run)
    stored = read_json(run / "environment.json")
    assert {name: stored[name] for name in first} == first
    assert [start["cpu"] for start in environment.read_starts(stored)] == [
        first["cpu"],
        "another processor",
    ]
    evaluate_run(run, "test")
    record = read_json(run / "test.json")
    assert [made["cpu"] for made in distinct_environments([record])] == [
        first["cpu"],
        "another processor",
    ]
    train(config_for(shop, steps=9), run)
    assert read_json(run / "environment.json") == stored


def test_a_run_with_a_removed_attention_kernel_opens_and_resumes_with_auto(shop, run):
    stored = read_json(run / "config.json")
    stored["model"]["attention"] = "pallas_gpu"
    write_json(run / "config.json", stored)
    (run / "checksums.json").unlink()  # runs of that time have none
    assert load_run(run).config.model.attention == "pallas_gpu"
    with pytest.raises(
        ValueError, match="attention='pallas_gpu' is not supported any more.*'auto'"
    ):
        train(from_dict(read_json(run / "config.json")), run)
    assert train(config_for(shop, steps=8), run)["step"] == 8
    assert read_json(run / "config.json")["model"]["attention"] == "auto"


@pytest.mark.slow
def test_pmap_trains_validates_and_resumes(shop, tmp_path):
    config = config_for(shop, parallel="pmap")
    train(config, tmp_path / "run")
    assert train(config_for(shop, parallel="pmap", steps=9), tmp_path / "run")["step"] == 9
    train(config_for(shop, steps=9), tmp_path / "jit")
    mapped, jitted = last_state(tmp_path / "run"), last_state(tmp_path / "jit")
    assert_alike(mapped[1], jitted[1], rtol=0, atol=0)


@pytest.mark.parametrize("parallel", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_many_steps_of_a_dispatch_are_the_steps_one_by_one(shop, tmp_path, parallel):
    # Stretches of 3, which 2 does not divide.
    many = config_for(shop, steps=9, steps_at_once=2, parallel=parallel)
    train(many, tmp_path / "many")
    train(config_for(shop, steps=9), tmp_path / "single")
    found, expected = last_state(tmp_path / "many"), last_state(tmp_path / "single")
    assert_alike(found[1], expected[1], rtol=1e-5, atol=1e-7)
    many, single = untimed(tmp_path / "many"), untimed(tmp_path / "single")
    assert [line["step"] for line in many] == [line["step"] for line in single]
    for a, b in zip(many, single, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.slow
def test_many_steps_of_a_dispatch_resume_to_the_bit(shop, tmp_path):
    train(config_for(shop, steps_at_once=2), tmp_path / "two")
    train(config_for(shop, steps_at_once=2, steps=9), tmp_path / "two")
    train(config_for(shop, steps_at_once=2, steps=9), tmp_path / "one")
    assert_alike(last_state(tmp_path / "two")[1], last_state(tmp_path / "one")[1], rtol=0, atol=0)


def test_a_run_that_is_told_to_end_saves_and_goes_on_to_the_bit(shop, tmp_path, monkeypatch):
    config = config_for(shop, steps_at_once=2, steps=14, eval_every=10)
    config.train.log_every = 4
    look = train_module.check_finite

    def told_to_end(context, step, metrics):
        look(context, step, metrics)
        if step in (3, 11):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "check_finite", told_to_end)
        # What was sent is ended: two steps behind those that were looked at.
        with pytest.raises(Stopped, match="at step 6; the same command goes on"):
            train(config, tmp_path / "run")
        assert len(last_state(tmp_path / "run")[0]["losses"]) == 2  # since the line of step 4
        # At the last step, only its validation is left.
        with pytest.raises(Stopped, match="at step 14; the same command goes on"):
            train(config, tmp_path / "run")
        assert last_state(tmp_path / "run")[0]["unvalidated"]
        assert train(config, tmp_path / "run")["step"] == 14
    train(config, tmp_path / "whole")
    found, expected = last_state(tmp_path / "run"), last_state(tmp_path / "whole")
    assert_alike(found[1], expected[1], rtol=0, atol=0)
    assert untimed(tmp_path / "run") == untimed(tmp_path / "whole")
    del found[0]["seconds"], expected[0]["seconds"]
    assert found[0] == expected[0]


def test_a_run_that_is_told_to_end_while_it_validates_ends_with_that(shop, tmp_path, monkeypatch):
    look = train_module.check_finite

    def told_to_end(context, step, metrics):
        look(context, step, metrics)
        if "parameter_norm" in metrics and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train_module, "check_finite", told_to_end)
    with pytest.raises(Stopped, match="at step 3; the same command goes on"):
        train(config_for(shop), tmp_path / "run")


def test_a_run_without_validation_keeps_its_last_parameters(shop, tmp_path):
    config = config_for(shop)
    config.data.validation_users = 0
    result = train(config, tmp_path / "run")
    assert result["best_step"] == 0
    assert load_run(tmp_path / "run").checkpoint == "last"
    with pytest.raises(ValueError, match="checkpoint 'lastt' must be"):
        load_run(tmp_path / "run", "lastt")


def test_a_run_that_was_trained_with_a_kernel_of_another_machine_can_be_asked_here(run):
    path = run / "config.json"
    config = json.loads(path.read_text())
    config["model"] |= {"attention": "pallas_tpu", "attention_dropout": 0.0}
    path.write_text(json.dumps(config))
    (run / "checksums.json").unlink()
    assert load_run(run).config.model.attention == "pallas_tpu"
    assert evaluate_run(run, "test")["users"] == 40


def test_a_run_killed_between_its_two_checkpoints_still_has_the_best_of_before(run):
    loaded = load_run(run)
    before = last_state(run)[0]["best_step"]
    # What a kill would leave: a newer best that the last checkpoint does not know.
    folder = run / "checkpoints" / "best"
    progress = loaded.progress | {"step": 9, "best_step": 9}
    checkpoint.save(folder, 9, progress, params=jax.tree.map(np.zeros_like, loaded.params))
    again = load_run(run)
    assert again.progress["best_step"] == before
    assert_alike(again.params, loaded.params, rtol=0, atol=0)


def test_what_a_killed_start_has_left_does_not_block_the_next(shop, tmp_path):
    (tmp_path / "run" / "vocab").mkdir(parents=True)
    (tmp_path / "run" / ".data.123.tmp").mkdir()
    assert train(config_for(shop), tmp_path / "run")["step"] == 6


def test_the_same_data_may_lie_in_another_place(shop, run, tmp_path):
    shutil.copytree(shop, tmp_path / "moved")
    moved = config_for(tmp_path / "moved", steps=9)
    assert train(moved, run)["step"] == 9


def test_a_schedule_that_ends_with_the_steps_cannot_be_made_longer(shop, tmp_path):
    config = config_for(shop)
    config.optim.schedule = "cosine"
    train(config, tmp_path / "run")
    longer = config_for(shop, steps=9)
    longer.optim.schedule = "cosine"
    with pytest.raises(ValueError, match="config.train.steps: 6 there, 9 now"):
        train(longer, tmp_path / "run")


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(shop, trained, tmp_path):
    runs = {"a": leaves(last_state(trained)[1])}
    for name, seed in (("b", 0), ("c", 1)):
        config = config_for(shop)
        config.seed = seed
        train(config, tmp_path / name)
        runs[name] = leaves(last_state(tmp_path / name)[1])
    assert all(np.array_equal(runs["a"][k], runs["b"][k]) for k in runs["a"])
    assert not all(np.array_equal(runs["a"][k], runs["c"][k]) for k in runs["a"])


def test_a_finished_run_is_not_trained_again(shop, run):
    lines = (run / "metrics.jsonl").read_text()
    assert train(config_for(shop), run)["step"] == 6
    assert (run / "metrics.jsonl").read_text() == lines


def test_patience_without_a_validation_is_refused(shop, tmp_path):
    config = config_for(shop, patience=2)
    config.data.validation_users = 0
    with pytest.raises(ValueError, match="patience=2 stops by the validation of"):
        train(config, tmp_path / "run")


def test_training_stops_when_its_patience_is_over_and_stays_stopped(shop, tmp_path):
    config = config_for(shop, steps=60, eval_every=1, patience=2)
    config.optim.learning_rate = 1e-12  # so that nothing ever becomes better
    result = train(config, tmp_path / "run")
    assert result["best_step"] == 1
    assert result["step"] == 3
    assert train(config, tmp_path / "run")["step"] == 3


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    shop, run, monkeypatch
):
    monkeypatch.setitem(RANGES, "config.optim.learning_rate", (0, 1e30))
    config = config_for(shop, steps=30)
    config.optim.update({"learning_rate": 1e30, "weight_decay": 0.0})
    stored = json.loads((run / "config.json").read_text())
    stored["optim"] |= {"learning_rate": 1e30, "weight_decay": 0.0}
    (run / "config.json").write_text(json.dumps(stored))
    (run / "checksums.json").unlink()
    with pytest.raises(
        FloatingPointError, match=r"step [7-9]: .*fingerprint [0-9a-f]{16}.*step 6 is kept"
    ):
        train(config, run)
    assert last_state(run)[0]["step"] == 6


def test_another_config_in_the_same_folder_is_an_error_that_lists_what_differs(shop, run):
    other = config_for(shop)
    other.seed = 7
    with pytest.raises(ValueError, match="config.seed: 0 there, 7 now"):
        train(other, run)


def test_a_folder_of_something_else_is_left_alone(shop, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="notes.txt"):
        train(config_for(shop), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_starts_from_the_parameters_of_another(shop, trained, tmp_path):
    second = config_for(shop)
    second.init.run = str(trained)
    _, state = set_up(second, tmp_path / "second")
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    _, best = checkpoint.load_params(trained / "checkpoints" / "best", here)
    assert_alike(state.params, best, rtol=0, atol=0)
    origin = json.loads((tmp_path / "second" / "environment.json").read_text())["init_run"]
    assert origin == str(trained)


def test_what_does_not_fit_is_named_unless_it_was_named_before(shop, trained, tmp_path):
    other = config_for(shop)
    other.init.run = str(trained)
    other.model.output = "none"
    with pytest.raises(ValueError, match="head_item/dense/kernel: in the checkpoint, not"):
        set_up(other, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    other.init.skip = ("head_*",)
    set_up(other, tmp_path / "second")
    other.init.skip = ("head_*", "tail/*")
    with pytest.raises(ValueError, match="tail"):
        set_up(other, tmp_path / "third")


def test_a_run_does_not_start_from_another_catalog(shop, trained, tmp_path):
    simulate(tmp_path / "other", Shop(sequences=40, items=70, mean_length=6.0, max_length=12))
    config = config_for(tmp_path / "other")
    config.init.run = str(trained)
    with pytest.raises(ValueError, match="another vocabulary of 'item'"):
        set_up(config, tmp_path / "second")


@pytest.mark.parametrize(
    ("group", "knob", "value", "message"),
    [
        ("train", "monitor", "ndcg@11", "ndcg@10"),
        ("train", "steps", 0, "config.train.steps=0 must be at least 1"),
        ("eval", "cutoffs", (0, 10), r"\(0, 10\) must be at least 1"),
        ("model", "dropout", 1.0, "config.model.dropout=1.0 must be from 0 to 0.99"),
        ("data", "split", "parts", "test file of its own"),
        ("train", "parallel", "tpu", "train.parallel='tpu'"),
        ("mask", "ratio", 0.0, "mask.ratio"),
        ("mask", "replace", "noise", "80/10/10"),
        ("data", "position_from", "middle", r"\['end', 'start'\]"),
        ("data", "variables", ("item", "colour"), "'colour'.*'action'"),
        ("data", "variables", ("action",), "must name 'item'"),
        ("optim", "name", "sgdm", "adamw"),
        ("optim", "schedule", "steps", "cosine"),
    ],
)
def test_a_value_that_makes_no_sense_says_so_before_anything_is_written(
    shop, tmp_path, group, knob, value, message
):
    config = config_for(shop)
    config[group][knob] = value
    with pytest.raises(ValueError, match=message):
        set_up(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weight_decay_leaves_norms_and_biases_alone():
    config = small_config().optim
    config.weight_decay, config.warmup_steps, config.learning_rate = 0.5, 0, 0.1
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    optimizer = make_optimizer(config, 10)
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after["kernel"], 0.95)
    np.testing.assert_allclose(after["bias"], 1.0)


@pytest.mark.parametrize(
    ("schedule", "halfway", "end"), [("constant", 1, 1), ("linear", 0.5, 0), ("cosine", 0.5, 0)]
)
def test_the_learning_rate_rises_to_its_peak_and_follows_its_schedule(schedule, halfway, end):
    config = small_config().optim
    config.learning_rate, config.warmup_steps, config.schedule = 1.0, 10, schedule
    rate = learning_rate(config, 110)
    assert [float(rate(s)) for s in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert float(rate(60)) == pytest.approx(halfway)
    assert float(rate(110)) == pytest.approx(end, abs=1e-6)


@pytest.mark.slow
def test_a_run_that_reads_actions_validates_and_says_when_they_are_missing(shop, tmp_path):
    config = config_for(shop)
    config.data.variables = ("item", "action")
    assert train(config, tmp_path / "run")["validation/ndcg@10"] is not None
    run = load_run(tmp_path / "run")
    assert run.params["embedder"]["tables_action"]["embedding"].shape[0] == 4 + 6
    with pytest.warns(UserWarning, match="have no action"):
        assert len(recommend.top_k(run, [run.items.tokens()[:2]], k=2)[0]) == 2


@pytest.mark.slow
def test_a_split_by_time_trains_and_validates(shop, tmp_path):
    config = config_for(shop)
    dataset = open_dataset(shop)
    longest = dataset.offsets[np.argmax(np.diff(dataset.offsets))]
    # While this sequence goes on, so that it has a history, a validation and a test.
    first, second = dataset.columns["time"][longest + np.array([3, 6])].astype("datetime64[us]")
    config.data.split = "time"
    config.data.validation_from, config.data.test_from = str(first), str(second)
    assert train(config, tmp_path / "run")["validation/ndcg@10"] is not None
    record = evaluate_run(tmp_path / "run", "test")
    assert record["protocol"]["periods"]["test_from"] == str(second)
    assert 0 < record["users"] < 40


@pytest.mark.slow
def test_sliding_windows_train(shop, tmp_path):
    config = config_for(shop)
    config.data.window, config.data.stride = "sliding", 3
    assert train(config, tmp_path / "run")["step"] == 6


def test_the_run_folder_holds_what_it_takes_to_repeat_the_run(shop, trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "environment.json", "vocab", "metrics.jsonl", "checkpoints"} <= names
    stored = from_dict(json.loads((trained / "config.json").read_text()))
    assert stored == config_for(shop)
    made = json.loads((trained / "environment.json").read_text())
    assert {"commit", "dirty", "versions", "devices", "host", "command", "data"} <= set(made)


def test_an_evaluation_of_a_run_that_cannot_be_written_is_shown_with_a_warning(
    run, monkeypatch, capsys
):
    def refuse(number):
        def write(*_):
            raise OSError(number, os.strerror(number), str(run / "test.json"))

        monkeypatch.setattr(evaluation_module, "write_record", write)

    refuse(errno.EROFS)
    assert 0 <= evaluation_module.evaluate_run(run)["ndcg@10"] <= 1
    assert f"the record is not kept, as {run} cannot be written (Read-only file system)" in (
        capsys.readouterr().err
    )
    refuse(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        evaluation_module.evaluate_run(run)
