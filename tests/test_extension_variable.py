"""A derived variable in a file outside the package: registered, read, trained and evaluated."""

import numpy as np
import pytest
from toy import small_config

from clickflax.batch import RESERVED
from clickflax.config.default import from_dict, to_dict
from clickflax.data.store import open_dataset
from clickflax.data.variables import describe_variables, read_columns
from clickflax.evaluation.main import evaluate_run
from clickflax.run.folder import load_run
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.training.loop import train


@pytest.fixture(scope="module", autouse=True)
def my_variable(extension):
    return extension("my_variable")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    simulate(folder / "data", Shop(sequences=60, items=12, mean_length=6.0, max_length=12))
    return folder / "data"


def test_weekends_are_those_of_the_calendar(shop):
    data = open_dataset(shop)
    described = describe_variables(data, ("is_weekend",), {}, np.ones(data.events, bool))
    days = data.columns["time"].astype("datetime64[us]").astype("datetime64[D]")
    weekend = ~np.is_busday(days)
    assert 0 < weekend.sum() < len(weekend)
    assert np.array_equal(
        read_columns(data, described)["is_weekend"], RESERVED + weekend.astype(np.int32)
    )


@pytest.mark.usefixtures("optax_promotes")
def test_a_registered_variable_trains_and_its_run_is_evaluated(shop, tmp_path):
    config = small_config(layers=1)
    config.data.path = str(shop)
    config.data.variables = ("item", "is_weekend")
    config.tasks = ("next_item",)
    config.train.update({"batch_size": 32, "steps": 2, "eval_every": 1, "log_every": 1})
    assert train(from_dict(to_dict(config)), tmp_path / "run")["step"] == 2
    assert load_run(tmp_path / "run").variables["is_weekend"].size == RESERVED + 2
    assert 0 <= evaluate_run(tmp_path / "run", "test")["ndcg@10"] <= 1


def test_an_unknown_variable_lists_the_registered_ones(shop):
    data = open_dataset(shop)
    with pytest.raises(ValueError, match=r"names 'weekend'.*'hour', 'is_weekend', 'sequence.NAME'"):
        describe_variables(data, ("weekend",), {}, np.ones(data.events, bool))
