"""Losses and a task in files outside the package: registered, trained and evaluated."""

import jax.numpy as jnp
import numpy as np
import pytest
from toy import small_config

from clickflax.config.default import from_dict, to_dict
from clickflax.data.splits.labels import LabelOptions
from clickflax.data.store import open_dataset
from clickflax.evaluation.main import evaluate_run
from clickflax.model.heads import Answers
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.training.loop import train

pytestmark = pytest.mark.usefixtures("optax_promotes")


@pytest.fixture(scope="module", autouse=True)
def extensions(extension):
    return {name: extension(name) for name in ("my_loss", "my_sampled_loss", "my_task")}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    simulate(folder / "data", Shop(sequences=60, items=12, mean_length=6.0, max_length=12))
    return folder / "data"


def config_for(shop, **changed):
    c = small_config(layers=1)
    c.data.path = str(shop)
    c.tasks = ("next_item",)
    c.train.update({"batch_size": 32, "steps": 2, "eval_every": 1, "log_every": 1})
    c.update_from_flattened_dict(changed)
    return from_dict(to_dict(c))


def test_a_focal_loss_of_two_items_is_the_one_worked_out_by_hand(extensions):
    answers = Answers(jnp.array([[[1.0]]]), jnp.array([[0.0], [0.0]]), None, 0)
    loss, weight = extensions["my_loss"].focal_loss(
        answers, jnp.array([[0]]), jnp.array([[2.0]]), 0
    )
    assert float(loss) == pytest.approx(2 * 0.25 * np.log(2)) and float(weight) == 2


def test_a_hinge_loss_counts_what_is_less_than_one_below_the_target(extensions):
    own, others = jnp.array([2.0]), jnp.array([[0.0, 1.5, 3.0, 9.0]])
    keep = jnp.array([[True, True, True, False]])
    assert float(extensions["my_sampled_loss"].hinge(own, others, keep)[0]) == (0 + 0.5 + 2) / 4


@pytest.mark.parametrize("loss", [{"name": "focal"}, {"name": "hinge", "negatives": 3}])
def test_a_registered_loss_trains_and_its_run_is_evaluated(shop, tmp_path, loss):
    config = config_for(shop, **{f"loss.{name}": value for name, value in loss.items()})
    assert train(config, tmp_path / "run")["step"] == 2
    assert 0 <= evaluate_run(tmp_path / "run", "test")["ndcg@10"] <= 1


def test_a_registered_task_trains_and_its_run_is_evaluated(shop, tmp_path):
    changes = {"data.split": "time", "data.validation_from": "4/6", "data.test_from": "5/6"}
    changes |= {"train.monitor": "mae", "data.position_from": "start"}
    config = config_for(shop, tasks=("remaining",), **changes)
    train(config, tmp_path / "run")
    record = evaluate_run(tmp_path / "run", "test")
    assert record["mae"] > 0 and record["labels"] > 0


def test_the_label_of_the_task_counts_down_to_the_end_of_each_sequence(shop, extensions):
    data = open_dataset(shop)
    labelled = extensions["my_task"].count_remaining(data, LabelOptions("", "", 0, ""))
    lengths = np.diff(data.offsets)
    assert labelled.label.tolist() == [left for n in lengths for left in range(n - 1, -1, -1)]
