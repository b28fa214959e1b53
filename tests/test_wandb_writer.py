"""Metrics at Weights & Biases, read from the file that it writes when it is offline."""

import json
import struct
import sys
import time

import pytest

from clickflax.config.default import load
from clickflax.runtime.log import MetricsWriter
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.training.loop import train

BLOCK = 32768  # of a log as LevelDB has it: 7 bytes before each piece of a record


def records(path):
    """The records of a .wandb file, one after the other."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def metrics_in(folder):
    """Steps with their metrics, from every start."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its process has written all when it is gone
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for text in records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(text)
            if record.WhichOneof("record_type") == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                own = {name: value for name, value in items.items() if name[0] != "_"}
                found.append({"step": record.history.step.num, **own})
    return found


@pytest.fixture
def offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "home"))


def test_metrics_are_written_under_their_names(offline, tmp_path):
    folder = tmp_path / "run"
    with MetricsWriter(folder, {"train.steps": 2, "tasks": ("next_item",)}, wandb="shop") as writer:
        writer.write(1, {"loss": 2.5})
        writer.write(2, {"validation/ndcg@10": 0.25, "validation/recall@10": 0.5})
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert metrics_in(folder) == lines
    kept = json.loads((folder / "wandb.json").read_text())
    assert kept["project"] == "shop" and kept["id"]


def test_a_run_that_is_resumed_is_the_same_one(offline, tmp_path):
    folder = tmp_path / "run"
    for resumed_at in (None, 1):
        time.sleep(1.1)  # W&B names folders by the second
        with MetricsWriter(folder, {}, resumed_at, wandb="shop") as writer:
            writer.write((resumed_at or 0) + 1, {"loss": 1.0})
    names = {path.name for path in folder.glob("wandb/offline-run-*/run-*.wandb")}
    assert names == {f"run-{json.loads((folder / 'wandb.json').read_text())['id']}.wandb"}
    assert [line["step"] for line in metrics_in(folder)] == [1, 2]


def test_without_the_extra_it_says_so_and_drops_nothing(tmp_path, monkeypatch):
    with MetricsWriter(tmp_path, {}) as writer:
        writer.write(1, {"loss": 1.0})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"config.train.wandb='shop'.*clickflax\[wandb\]"):
        MetricsWriter(tmp_path, {}, wandb="shop")
    assert (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_training_tells_the_project_that_its_config_names(
    offline, optax_promotes, tmp_path, request
):
    simulate(tmp_path / "data", Shop(sequences=40, items=20, mean_length=6.0, max_length=12))
    knobs = ("train.steps=2", "train.eval_every=2", "train.batch_size=16", "train.log_every=1")
    knobs += ("model.width=8", "model.heads=1", "model.max_len=8", "train.wandb=shop")
    flags = [f"config.{knob}" for knob in (*knobs, f"data.path={tmp_path / 'data'}")]
    folder = tmp_path / "run"
    train(load(request.config.rootpath / "configs" / "sasrec_ml100k.py", flags), folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2]
    merged = {**lines[1], **lines[2]}  # of a step it keeps one record
    assert metrics_in(folder) == [lines[0], merged]
