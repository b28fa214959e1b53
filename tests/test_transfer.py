"""What a run takes from another one: by token; what is frozen, thawed, and slow."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from toy import rows, small_config

from clickflax.batch import RESERVED
from clickflax.config.default import from_dict, to_dict
from clickflax.data.store import new_dataset_folder, write_dataset
from clickflax.model.names import depth, table_rows
from clickflax.run.folder import load_run
from clickflax.run.model import build_model
from clickflax.run.transfer import copy_rows, count_tokens, matching_ids, plan_training
from clickflax.runtime import checkpoint
from clickflax.runtime.optim import make_optimizer
from clickflax.runtime.params import by_name, join_params, split_params
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.training.loop import banner, train
from clickflax.training.progress import resume_training
from clickflax.training.setup import set_up
from clickflax.training.step import init_params

pytestmark = pytest.mark.usefixtures("optax_promotes")

TASKS = ("masked_item", "next_item", "purchase")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A simulated shop of 40 items."""
    path = tmp_path_factory.mktemp("shop") / "data"
    simulate(path, Shop(sequences=300, items=40, mean_length=6.0, max_length=12))
    return path


def config_for(shop, task="masked_item", **groups):
    """A run of a few steps; `init={...}` and the like change the knobs of a group."""
    c = small_config(layers=1)
    c.data.path, c.tasks = str(shop), (task,)
    c.data.variables = ("item", "action", "item.category", "item.price")
    c.data.position_from = "start"
    c.optim.update({"warmup_steps": 0, "learning_rate": 0.01})
    c.train.update({"batch_size": 32, "steps": 4, "eval_every": 2, "log_every": 2})
    if task == "purchase":
        c.data.split, c.train.monitor = "time", "auc"
        c.data.validation_from, c.data.test_from = "2025-02-15", "2025-03-01"
    for group, knobs in groups.items():
        c[group].update(knobs)
    return from_dict(to_dict(c))


def leaves(params):
    return {name: np.asarray(value) for name, value in by_name(params).items()}


def changed(before, after):
    """The names of the parameters that differ in any bit."""
    before, after = leaves(before), leaves(after)
    assert before.keys() == after.keys()
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


def states(config, folder, count):
    """The parameters before the first step and after each of `count`, and the last metrics."""
    context, state = set_up(config, folder)
    found, metrics = [leaves(state.params)], {}
    for step in range(count):
        state, metrics = context.steps(state, step, 1)
        found.append(leaves(state.params))
    return found, metrics


# Frozen


@pytest.mark.parametrize("task", TASKS)
def test_a_step_changes_all_but_the_frozen_parameters(shop, tmp_path, task):
    # The smallest eps: where the gradient is only rounding, the step is large all the same.
    config = config_for(shop, task, optim={"weight_decay": 0.5, "eps": 1e-30})
    config.init.freeze = ("encoder/*/Attention_0/*", "embedder/tables_*")
    (before, after), _ = states(config, tmp_path / "run", 1)
    kept = {name for name in before if "Attention_0" in name or "tables_" in name}
    assert len(kept) == 8 + 2
    # Nothing is missing in this shop, and labels hide nothing: these vectors are not read.
    unread = {name for name in before if "instead" in name}
    assert changed(before, after) >= before.keys() - kept - unread
    assert not changed(before, after) & kept


def test_a_frozen_backbone_leaves_no_moments_and_no_gradient_in_the_norm(shop, tmp_path):
    config = config_for(shop, init={"freeze": ("embedder/*", "encoder/*")})
    context, state = set_up(config, tmp_path / "head")
    moments = [x.size for x in jax.tree.leaves(state.optimizer)]
    head = {n: x for n, x in leaves(state.params).items() if n.startswith("head_")}
    assert sum(moments) == 2 * sum(x.size for x in head.values()) + 2  # and two counts of steps
    state, found = context.steps(state, 0, 1)
    _, every = states(config_for(shop), tmp_path / "all", 1)
    assert 0 < float(found["gradient_norm"][0]) < float(every["gradient_norm"][0])
    assert float(found["loss"][0]) == pytest.approx(float(every["loss"][0]), rel=1e-5)


@pytest.mark.parametrize(
    ("group", "knobs", "message"),
    [
        (
            "init",
            {"freeze": ("head_*", "tail")},
            r"init.freeze=\['tail'\] .*'head_item/bias'",
        ),
        ("init", {"freeze": ("*",)}, "freezes every parameter"),
        ("init", {"thaw": 5}, "thaw=5 needs config.init.freeze"),
        ("init", {"thaw": -1}, "config.init.thaw=-1 must be at least 0"),
        (
            "init",
            {"vocab": "other"},
            r"config.init.vocab='other' is not one of \['remap', 'same'\]",
        ),
        ("init", {"vocab": "remap"}, "need config.init.run"),
        ("init", {"skip": ("head_*",)}, "need config.init.run"),
        ("optim", {"layer_decay": 0.0}, "config.optim.layer_decay=0.0 must be from 0.001 to 1"),
        ("optim", {"layer_decay": 1.5}, "config.optim.layer_decay=1.5 must be from 0.001 to 1"),
    ],
)
def test_what_cannot_be_frozen_or_taken_says_so_before_anything_is_written(
    shop, tmp_path, group, knobs, message
):
    with pytest.raises(ValueError, match=message):
        set_up(config_for(shop, **{group: knobs}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Thawed

FROZEN = {"freeze": ("encoder/*",), "thaw": 2}


def test_what_thaws_after_two_steps_is_the_same_until_then_and_not_after(shop, tmp_path):
    found, _ = states(config_for(shop, init=FROZEN), tmp_path / "run", 3)
    encoder = {name for name in found[0] if name.startswith("encoder/")}
    for after, expected in ((1, set()), (2, set()), (3, encoder)):
        assert changed(found[0], found[after]) & encoder == expected
        assert changed(found[0], found[after]) - encoder


@pytest.mark.slow
def test_a_run_that_is_resumed_across_its_thaw_is_the_run_that_never_stopped(shop, tmp_path):
    init = FROZEN | {"thaw": 3}
    train(config_for(shop, init=init, train={"steps": 2}), tmp_path / "two")
    train(config_for(shop, init=init), tmp_path / "two")
    train(config_for(shop, init=init), tmp_path / "one")
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    two, one = (
        checkpoint.load_params(tmp_path / name / "checkpoints" / "last", here)[1]
        for name in ("two", "one")
    )
    assert not changed(two, one)


def toy_params():
    """A parameter of each depth of a model of two blocks."""
    names = ("embedder/tables_item/embedding", "encoder/block_0/a", "encoder/block_1/a")
    names += ("encoder/norm/scale", "head_item/bias")
    return join_params({}, {name: jnp.zeros(2) for name in names})


def speeds(step, **groups):
    """The factors of the parameters of a model of two blocks, by what they begin with."""
    config = small_config()
    for group, knobs in groups.items():
        config[group].update(knobs)
    speed = plan_training(config, toy_params()).speed
    assert speed is not None
    return [float(factor) for factor in by_name(speed(jnp.int32(step))).values()]


def test_each_layer_is_slower_than_the_one_above_it():
    # embedder, first block, last block, what comes after the blocks, head
    assert speeds(0, optim={"layer_decay": 0.5}) == [0.125, 0.25, 0.5, 1.0, 1.0]
    assert plan_training(small_config(), toy_params()).speed is None


def test_what_thaws_is_slow_like_its_layer_and_what_is_frozen_for_good_has_no_speed():
    slow = {"layer_decay": 0.5}
    init = {"freeze": ("encoder/block_0/*",), "thaw": 3}
    assert speeds(2, optim=slow, init=init) == [0.125, 0.0, 0.5, 1.0, 1.0]
    assert speeds(3, optim=slow, init=init) == [0.125, 0.25, 0.5, 1.0, 1.0]
    assert speeds(9, optim=slow, init=init | {"thaw": 0}) == [0.125, 0.5, 1.0, 1.0]


def test_the_first_step_after_a_thaw_is_as_large_as_any_other():
    config = small_config()
    config.optim.update({"warmup_steps": 0, "learning_rate": 0.1, "eps": 0.0, "clip_norm": 0.0})
    config.optim.weight_decay = 0.0
    config.init.update({"freeze": ("encoder/*",), "thaw": 100})
    params = toy_params()
    optimizer = make_optimizer(config.optim, 200, plan_training(config, params).speed)
    gradient = jax.tree.map(lambda x: x + 3.0, params)
    state = optimizer.init(params)
    for _ in range(100):
        updates, state = optimizer.update(gradient, state, params)
        assert float(by_name(updates)["encoder/block_0/a"][0]) == 0.0
    updates, state = optimizer.update(gradient, state, params)
    # Under the same gradient at every step, a step of Adam is the learning rate.
    for name, update in by_name(updates).items():
        np.testing.assert_allclose(update, -0.1, rtol=1e-5, err_msg=name)


def test_a_depth_is_counted_from_the_answers_downwards():
    names = ("head_purchase/out/kernel", "encoder/norm/scale", "encoder/block_11/a/b")
    names += ("encoder/block_0/a/b", "embedder/position/embedding", "encoder/distances")
    assert [depth(name, 12) for name in names] == [0, 0, 1, 12, 13, 13]


def test_parameters_that_are_parted_are_joined_as_they_were():
    params = {"a": {"b": 1, "c": 2}, "d": {"e": 3}}
    assert split_params(params, {"a/b", "d/e"}) == ({"a": {"c": 2}}, {"a": {"b": 1}, "d": {"e": 3}})
    assert join_params(*split_params(params, {"a/b", "d/e"})) == params
    assert join_params(*split_params(params, ())) == params


# By token


def test_a_token_keeps_its_row_and_a_new_one_has_the_mean_of_all():
    table = np.array([[0, 1], [1, 0], [10, 20], [30, 40]], np.float32)  # two reserved rows
    places = matching_ids(["b", "c", "a"], ["a", "b"])
    assert places.tolist() == [1, -1, 0]
    expected = [[0, 1], [1, 0], [30, 40], [20, 30], [10, 20]]
    assert copy_rows(table, places, 2).tolist() == expected
    assert copy_rows(np.array([1, 3], np.float32), places, 0).tolist() == [3, 2, 1]
    assert count_tokens(["a", "b"], ["b", "c", "a"]) == {"kept": 2, "new": 1, "gone": 0}
    assert count_tokens(["a", "b"], ["c"]) == {"kept": 0, "new": 1, "gone": 2}


def test_the_names_of_parameters_say_whose_rows_they_have():
    assert table_rows("embedder/tables_action/embedding") == ("action", RESERVED)
    assert table_rows("embedder/item_features_item.category/table/embedding") == (
        "item.category",
        RESERVED,
    )
    assert table_rows("head_item/bias") == table_rows("head_item/table") == ("item", 0)
    others = ("embedder/position/embedding", "head_item/dense/bias", "head_label/out/bias")
    assert [table_rows(name) for name in others] == [None] * 3


def test_no_parameter_with_a_row_for_every_token_is_forgotten():
    sizes = {"item": 101, "action": 203}  # no width is such a number
    config = small_config()
    config.model.widths = ("action=4",)  # so that its head has a table of its own
    model = build_model(config.model, sizes, {"item.category": 307}, tuple(sizes))
    batch = rows([[0, 1]])
    batch.variables["action"] = batch.variables["item"]
    given = {"embedder": {"item.category": jnp.zeros((101, 1), jnp.int32)}}
    params = init_params(model, jax.random.key(0), batch, given)
    tokens = {size - reserved for size in (101, 203, 307) for reserved in (0, RESERVED)}
    found = [name for name, x in by_name(params).items() if x.shape[0] in tokens]
    assert len(found) == 3 + 2 + 1
    assert [name for name in found if table_rows(name) is None] == []


OLD = {"item": list("abcdefghij"), "action": ["view", "buy"], "new": []}
# The other way round, without one, and with others before and between.
NEW = {"item": ["x", *"ihgf", "y", *"edcba"], "action": ["buy", "gift", "view"], "new": ["x", "y"]}


def write(path, tokens):
    """A shop of 30 sequences whose vocabularies are `tokens`; new items cost much, and are of
    another category."""
    rng = np.random.default_rng(0)
    offsets = np.arange(31) * 5
    events = {
        name: rng.integers(RESERVED, RESERVED + len(tokens[name]), 150).astype(np.int32)
        for name in ("item", "action")
    }
    new = [token in tokens["new"] for token in tokens["item"]]
    code = [ord(token) for token in tokens["item"]]
    items = {
        "token": tokens["item"],
        "count": np.bincount(events["item"] - RESERVED, minlength=len(new)),
        "category": np.where(new, "another", np.where(np.array(code) % 2, "odd", "even")),
        "price": np.where(new, 1000.0, code),
    }
    actions = {
        "token": tokens["action"],
        "count": np.bincount(events["action"] - RESERVED, minlength=len(tokens["action"])),
    }
    with new_dataset_folder(path) as folder:
        write_dataset(
            folder,
            source="toy",
            options={},
            offsets=offsets,
            events=events,
            vocabularies={"item": pa.table(items), "action": pa.table(actions)},
            sequences=pa.table({"token": [f"user-{i}" for i in range(30)]}),
            counts={},
        )
    return path


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    """Two data sets, the second one of a catalog that has changed."""
    folder = tmp_path_factory.mktemp("catalogs")
    return write(folder / "old", OLD), write(folder / "new", NEW)


def config_of(catalog, **groups):
    """A run that asks for items, with the table of the inputs, and for actions, with their own."""
    config = config_for(catalog, **groups)
    config.tasks, config.train.monitor = ("masked_item", "masked_action"), "masked_item/ndcg@10"
    config.model.widths = ("action=4",)
    return config


@pytest.fixture(scope="module")
def old_run(catalogs, tmp_path_factory):
    """A run on the first catalog."""
    folder = tmp_path_factory.mktemp("old") / "run"
    with jax.numpy_dtype_promotion("standard"):
        train(config_of(catalogs[0]), folder)
    return folder


def grown(catalogs, old_run, **groups):
    """The config of a run on the second catalog that starts from the one on the first."""
    config = config_of(catalogs[1], **groups)
    config.init.run, config.init.vocab = str(old_run), "remap"
    return config


def scores(model, params, given, tokens):
    """The score of every item, by token, at the end of a history of old items and actions."""
    ids = {name: {t: i for i, t in enumerate(tokens[name], RESERVED)} for name in tokens}
    history = {"item": list("acgi"), "action": ["view", "buy", "view", "view"]}
    batch = rows([[0] * 4])
    for name, values in history.items():
        known = jnp.array([[ids[name][value] for value in values] + [0] * 4], jnp.int32)
        batch.variables[name] = known
    collections = {"params": params, "constants": jax.tree.map(jnp.asarray, given)}
    inputs = (batch.variables, batch.segment, batch.position, False, False)
    hidden = model.apply(collections, *inputs, method="encode")
    answers = model.apply(collections, hidden[:, 3], "item", method="answer").scores()
    return dict(zip(tokens["item"], np.asarray(answers)[0].tolist(), strict=True))


def test_old_items_have_the_same_scores_in_a_catalog_that_has_changed(catalogs, old_run, tmp_path):
    config = grown(catalogs, old_run)
    context, state = set_up(config, tmp_path / "new")
    run, predictor = load_run(old_run), context.evaluators["masked_item"].predictor
    before = scores(run.model, run.params, run.constants, OLD)
    after = scores(predictor.model, state.params, predictor.constants, NEW)
    assert {t: after[t] for t in "abcdefghi"} == {t: before[t] for t in "abcdefghi"}
    assert after.keys() - before.keys() == {"x", "y"}
    assert len(set(before.values())) == 10


def test_rows_go_over_by_token_and_new_ones_are_means(catalogs, old_run, tmp_path):
    _, state = set_up(grown(catalogs, old_run), tmp_path / "new")
    before, after = leaves(load_run(old_run).params), leaves(state.params)
    wanted = {
        "embedder/tables_item/embedding": (OLD["item"], NEW["item"], RESERVED),
        "embedder/tables_action/embedding": (OLD["action"], NEW["action"], RESERVED),
        "embedder/item_features_item.category/table/embedding": (
            ["even", "odd"],
            ["another", "even", "odd"],
            RESERVED,
        ),
        "head_item/bias": (OLD["item"], NEW["item"], 0),
        "head_action/table": (OLD["action"], NEW["action"], 0),
        "head_action/bias": (OLD["action"], NEW["action"], 0),
    }
    for name, (old, new, reserved) in wanted.items():
        assert before[name].shape[0] == reserved + len(old)
        assert np.array_equal(before[name][:reserved], after[name][:reserved])
        rows = dict(zip(old, before[name][reserved:], strict=True))
        mean = before[name][reserved:].mean(0)
        for token, row in zip(new, after[name][reserved:], strict=True):
            np.testing.assert_allclose(row, rows.get(token, mean), rtol=1e-5 * (token not in rows))
    assert before.keys() == after.keys()
    assert not changed(
        {name: before[name] for name in before.keys() - wanted},
        {name: after[name] for name in after.keys() - wanted},
    )


def test_a_run_on_a_grown_catalog_says_what_it_took_and_can_be_asked(catalogs, old_run, tmp_path):
    config = grown(catalogs, old_run, init={"freeze": ("encoder/*",), "thaw": 3})
    context, state = set_up(config, tmp_path / "new")
    item = {"kept": 9, "new": 2, "gone": 1}
    kept = {"item": item, "action": {"kept": 2, "new": 1, "gone": 0}}
    kept["item.category"] = {"kept": 2, "new": 1, "gone": 0}
    stored = json.loads((tmp_path / "new" / "environment.json").read_text())
    assert stored["init_vocab"] == kept
    state, past = resume_training(context, state)
    line = banner(context, state, past).splitlines()[-1]
    every = sum(x.size for x in jax.tree.leaves(state.params))
    frozen = sum(x.size for x in jax.tree.leaves(state.params["encoder"]))
    assert line.startswith(f"{every:,} parameters ({every:,} from {old_run}, 0 fresh; ")
    assert "item: 9 kept, 2 new, 1 gone; " in line
    assert f"; {frozen:,} frozen for 3 steps) on " in line
    assert train(config, tmp_path / "new")["step"] == 4
    # The old run may be gone when this one goes on, or is asked.
    run = load_run(tmp_path / "new")
    assert run.variables["action"].size == RESERVED + 3
    for name, values in context.evaluators["masked_item"].predictor.constants["embedder"].items():
        np.testing.assert_array_equal(values, run.constants["embedder"][name])
    before, after = (
        dict(
            zip(tokens["item"], one.constants["embedder"]["item.price"][RESERVED:, 0], strict=True)
        )
        for one, tokens in ((load_run(old_run), OLD), (run, NEW))
    )
    assert {t: after[t] for t in "abcdefghi"} == {t: before[t] for t in "abcdefghi"}
    assert after["x"] > 100  # of the standard deviations of the old catalog


def test_another_vocabulary_or_category_is_refused_with_the_way_out(catalogs, old_run, tmp_path):
    config = grown(catalogs, old_run)
    config.init.vocab = "same"
    with pytest.raises(ValueError, match="another vocabulary of 'action': .*init.vocab='remap'"):
        set_up(config, tmp_path / "new")
    tokens = OLD | {"new": ["a"]}
    config.data.path = str(write(tmp_path / "category", tokens))
    with pytest.raises(ValueError, match="'item.category': 2 tokens there, 3 here"):
        set_up(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
