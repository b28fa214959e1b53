"""An item baseline outside the package, in a file that `--extension` loads."""

import json

import numpy as np
import pytest

from clickflax.baselines.compare import main
from clickflax.baselines.registry import item_baselines
from clickflax.data.store import open_dataset
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop

CONFIG = """
from clickflax.config import default

def get_config():
    config = default()
    config.tasks = ("next_item",)
    config.data.split = "leave_one_out"
    config.eval.filter_seen = False
    return config
"""


def openers_rank(sequences):
    """Rank of the last item of each sequence by the mean position before the last two events."""
    positions = {}
    for sequence in sequences:
        for position, item in enumerate(sequence[:-2]):
            positions.setdefault(item, []).append(position)
    mean = {item: np.mean(values) for item, values in positions.items()}
    assert len(mean) == 20  # the whole catalog
    return [sum(mean[item] < mean[sequence[-1]] for item in mean) for sequence in sequences]


def test_a_registered_baseline_is_evaluated_after_the_built_in_ones(tmp_path, extension, capsys):
    built_in = list(item_baselines())
    extension("my_baseline")
    config_file = tmp_path / "config.py"
    config_file.write_text(CONFIG)
    simulate(tmp_path / "data", Shop(sequences=200, items=20, mean_length=6.0, max_length=12))
    dataset = open_dataset(tmp_path / "data")
    main([f"--config={config_file}", f"--config.data.path={dataset.path}"])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(record["baselines"]) == [*built_in, "openers"]
    sequences = np.split(np.asarray(dataset.columns["item"]), dataset.offsets[1:-1])
    hits = [rank < 10 for rank in openers_rank([list(one) for one in sequences])]
    assert record["baselines"]["openers"]["recall@10"] == pytest.approx(np.mean(hits))
