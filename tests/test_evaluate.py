"""Evaluation: the numbers do not depend on how users are laid out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import ITEMS, evaluate, make_task, small_config, small_model

from clickflax.batch import RESERVED
from clickflax.data.batches import Windows
from clickflax.data.splits.common import EventLog, Examples, next_item
from clickflax.evaluation.main import main
from clickflax.run.model import build_model
from clickflax.runtime import sharding

LENGTHS = np.array([4, 2, 12, 3, 7, 9])
BOUNDS = np.concatenate([[0], np.cumsum(LENGTHS)])
ITEM = (np.random.default_rng(0).integers(0, ITEMS, BOUNDS[-1]) + RESERVED).astype(np.int32)
COLUMNS = {"item": ITEM}
EXAMPLES = next_item(EventLog(BOUNDS, ITEM), np.arange(6), BOUNDS[1:] - 1)


def rank(params=None, filter_seen=True, task="masked_item", examples=EXAMPLES, **changed):
    config = small_config()
    config.tasks = (task,)
    config.data.packing = changed.pop("packing", True)
    config.train.micro_rows = changed.pop("micro_rows", 1)
    config.eval.batch_size = changed.pop("batch_size", 256)
    model = build_model(config.model, {"item": ITEMS + RESERVED})
    params = small_model()[1] if params is None else params
    config.eval.filter_seen = filter_seen
    return evaluate(config, model, make_task(task), params, COLUMNS, examples).values


def test_a_causal_task_and_the_cloze_rank_differently():
    assert not np.array_equal(rank(task="masked_item"), rank(task="next_item"))


@pytest.mark.parametrize("task", ["masked_item", "next_item"])
def test_ranks_are_the_same_packed_or_not_in_batches_of_any_size(task):
    expected = rank(task=task)
    assert np.isfinite(expected).all()
    assert len(set(expected)) > 1
    for changed in ({"packing": False}, {"batch_size": 1}, {"micro_rows": 3, "batch_size": 2}):
        assert np.array_equal(rank(task=task, **changed), expected)


@pytest.mark.parametrize("chunk", [1, 5, 6])
def test_ranks_are_the_same_in_chunks_of_the_catalog(monkeypatch, chunk):
    expected = rank()
    monkeypatch.setattr(sharding, "chunk_items", lambda *_: chunk)
    assert np.array_equal(rank(), expected)


def test_a_model_that_tells_nothing_apart_is_half_way_down_the_list():
    _, params = small_model()
    flat = jax.tree.map(jnp.zeros_like, params)
    assert (rank(flat, filter_seen=False) == (ITEMS - 1) / 2).all()
    seen = [set(ITEM[a:b]) - {ITEM[b]} for a, b in zip(*EXAMPLES.history, strict=True)]
    expected = [(ITEMS - len(s) - 1) / 2 for s in seen]
    assert list(rank(flat, filter_seen=True)) == expected


def test_a_model_of_nan_has_no_hits():
    _, params = small_model()
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    assert np.isinf(rank(broken)).all()


def test_ranks_are_those_of_a_sort_of_the_scores():
    _, params = small_model()
    # The bias alone decides: item 0 is best, then 1, and so on.
    params = jax.tree.map(jnp.zeros_like, params)
    params["head_item"]["bias"] = -jnp.arange(ITEMS, dtype=jnp.float32)
    assert list(rank(params, filter_seen=False)) == list(EXAMPLES.targets - RESERVED)


def test_several_targets_of_a_user_have_a_rank_each():
    examples = Examples(
        np.array([0, 2]),
        Windows(BOUNDS[[0, 2]], BOUNDS[[1, 3]] - 1),
        np.array([6, 8, 7], np.int64),
        np.array([0, 0, 1]),
    )
    _, params = small_model()
    params = jax.tree.map(jnp.zeros_like, params)
    params["head_item"]["bias"] = -jnp.arange(ITEMS, dtype=jnp.float32)
    assert list(rank(params, filter_seen=False, examples=examples)) == [0, 2, 1]


def test_metrics_are_means_over_users():
    config = small_config()
    config.eval.cutoffs = (1, ITEMS)
    model, params = small_model()
    task = make_task("masked_item")
    metrics = evaluate(config, model, task, params, COLUMNS, EXAMPLES).metrics
    assert metrics[f"recall@{ITEMS}"] == 1
    assert metrics["recall@1"] == np.mean(rank() == 0)


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        main(["--run", str(tmp_path)])


def test_cutoffs_that_are_no_numbers_say_so(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"train": {"cpu_devices": 0}}))
    with pytest.raises(ValueError, match="--cutoffs='ten'"):
        main(["--run", str(tmp_path), "--cutoffs", "ten"])
