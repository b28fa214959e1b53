"""The real commands, each in a process of its own, from nothing to recommendations."""

import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

SHOP = ["--sequences", "300", "--items", "60", "--seed", "3", "--max-length", "20"]
FLAGS = {
    "data.path": "data",
    "model.width": 16,
    "model.max_len": 20,
    "train.batch_size": 32,
    "train.steps": 20,
    "train.eval_every": 5,
    "train.log_every": 3,
}


def clickflax(*arguments, cwd, **options):
    command = [sys.executable, "-m", "clickflax.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, **options)


def train_flags(root, workdir, **changed):
    flags = FLAGS | {"train.cpu_devices": 2} | changed
    config = root / "configs" / "quickstart.py"
    return [
        "train",
        f"--config={config}",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in flags.items()),
    ]


@pytest.fixture(scope="module")
def root(request):
    return request.config.rootpath


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
    """A folder with a simulated shop in `data` and a run in `whole`."""
    folder = tmp_path_factory.mktemp("commands")
    done = clickflax("simulate", "--out", "data", *SHOP, cwd=folder)
    assert done.returncode == 0, done.stderr
    done = clickflax(*train_flags(root, "whole"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["step"] == 20
    return folder


def parameters(run):
    """All the parameters of the last checkpoint of a run, and its step."""
    import jax

    from clickflax.runtime import checkpoint

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    progress, params = checkpoint.load_params(run / "checkpoints" / "last", here)
    return progress["step"], [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def untimed_metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.slow
def test_a_killed_run_that_is_started_again_equals_the_one_that_was_not(folder, root):
    steps = {"train.steps": 200}
    done = clickflax(*train_flags(root, "long", **steps), cwd=folder)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "clickflax.cli", *train_flags(root, "killed", **steps)]
    running = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    last = folder / "killed" / "checkpoints" / "last"
    while not (last.is_dir() and any(path.name.isdigit() for path in last.iterdir())):
        assert running.poll() is None
        time.sleep(0.01)
    delay = random.uniform(0, 1.0)
    time.sleep(delay)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it had ended before"
    done = clickflax(*train_flags(root, "killed", **steps), cwd=folder)
    assert done.returncode == 0, done.stderr
    step, killed = parameters(folder / "killed")
    long_step, long = parameters(folder / "long")
    assert step == long_step == 200, f"killed {delay} s after the first checkpoint"
    assert all(np.array_equal(a, b) for a, b in zip(killed, long, strict=True))
    assert untimed_metrics(folder / "killed") == untimed_metrics(folder / "long")


def test_the_vectors_of_items_have_titles(folder):
    vectors = np.loadtxt(folder / "whole" / "items.tsv", delimiter="\t")
    titles = (folder / "whole" / "titles.tsv").read_text().splitlines()
    assert vectors.shape[0] == len(titles) == 60


def test_evaluate_prints_a_table_and_then_one_json_object(folder):
    done = clickflax("evaluate", "--run", "whole", "--split", "test", cwd=folder)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert {"recall@10", "ndcg@10", "users", "protocol", "train_seconds"} <= set(record)
    assert 0 < record["seconds_to_checkpoint"] <= record["train_seconds"]
    assert record["users"] == 300
    assert "ndcg" in "\n".join(done.stdout.splitlines()[:-1])
    kept = json.loads((folder / "whole" / "test.json").read_text())
    assert kept["ndcg@10"] == record["ndcg@10"]
    assert kept["environment"]["versions"]["jax"]


def test_validation_metrics_of_training_are_those_of_the_command(folder):
    done = clickflax("evaluate", "--run", "whole", "--split", "validation", cwd=folder)
    record = json.loads(done.stdout.splitlines()[-1])
    lines = untimed_metrics(folder / "whole")
    (line,) = (x for x in lines if x["step"] == record["step"] and "validation/ndcg@10" in x)
    assert record["ndcg@10"] == pytest.approx(line["validation/ndcg@10"], abs=1e-9)


def test_recommend_answers_a_history(folder):
    done = clickflax(
        "recommend", "--run", "whole", "--history", "item-1|item-2", "--k", 3, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])) == 3


def test_a_data_set_of_another_catalog_is_refused(folder):
    clickflax("simulate", "--out", "other", "--items", "70", "--sequences", "50", cwd=folder)
    done = clickflax("evaluate", "--run", "whole", "--data", "other", cwd=folder)
    assert done.returncode == 1
    assert "another vocabulary of 'item'" in done.stderr
    assert done.stdout == ""


def test_a_knob_that_does_not_exist_names_the_nearest_one(folder, root):
    done = clickflax(*train_flags(root, "typo"), "--config.train.step=3", cwd=folder)
    assert done.returncode == 1
    assert "config.train.steps" in done.stderr
    assert not (folder / "typo").exists()


def test_a_data_set_that_is_not_there_says_how_to_make_one(folder, root):
    done = clickflax(*train_flags(root, "nowhere", **{"data.path": "nodata"}), cwd=folder)
    assert done.returncode == 1
    assert "clickflax prepare" in done.stderr


@pytest.mark.slow
def test_the_quick_start_comes_near_the_best_possible(tmp_path, root):
    config = root / "configs" / "quickstart.py"
    done = clickflax("train", f"--config={config}", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = clickflax("evaluate", "--run", "run", cwd=tmp_path)
    reached = json.loads(done.stdout.splitlines()[-1])["ndcg@10"]
    truth = json.loads((tmp_path / "run" / "data" / "truth" / "truth.json").read_text())
    possible = truth["ndcg@10"]
    assert possible["popularity"] < 0.1
    assert 0.8 * possible["best_possible"] < reached < 1.05 * possible["best_possible"]
