"""Secrets in URLs: nothing of them is left, in any of the forms that people write."""

import sys

import pytest
from toy import small_config

from clickflax.config.default import from_dict, to_dict
from clickflax.data import remote
from clickflax.evaluation.main import evaluate_run
from clickflax.evaluation.request import EvalRequest
from clickflax.runtime.redact import redact, without_secrets
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.training.loop import train

PLAIN = [
    ("s3://key:SECRET@bucket/x", "s3://bucket/x"),
    ("s3://key:SEC/RET@bucket/x", "s3://bucket/x"),
    ("s3://key:SEC@RET@bucket/x", "s3://bucket/x"),
    ("s3://key:SEC@RE/SECRET@bucket/x", "s3://bucket/x"),
    ("s3://key:SEC:RET@bucket/x", "s3://bucket/x"),
    ("s3://key:SEC%40RET@bucket/x", "s3://bucket/x"),
    ("s3://key:SEC?RET@bucket/x", "s3://bucket/x"),
    ("s3://key:SEC#RET@bucket/x", "s3://bucket/x"),
    ("s3://key:12/SECRET@bucket/x", "s3://bucket/x"),
    ("s3://:SECRET@bucket/x", "s3://bucket/x"),
    ("s3://bucket/x@v1/y", "s3://bucket/x@v1/y"),
    ("s3://bucket/x?aws_secret_access_key=SECRET", "s3://bucket/x"),
    ("https://SECRET@host/x.csv", "https://host/x.csv"),
    ("https://SECRET:x-oauth-basic@github.com/a/b", "https://github.com/a/b"),
    ("https://oauth2:SECRET@gitlab.com/a/b.git", "https://gitlab.com/a/b.git"),
    ("https://host/x.csv?signature=SECRET", "https://host/x.csv"),
    ("https://host/x.csv#token=SECRET", "https://host/x.csv"),
    ("https://host?token=SECRET", "https://host"),
    ("https://host:8080/x?a=1&sig=SECRET#b", "https://host:8080/x"),
    ("https://u:SECRET@[::1]:8080/x", "https://[::1]:8080/x"),
    ("https://u:SECRET@[bad/x", "https://..."),
    ("postgres://ann:SECRET@host/shop?key=1", "postgres://host/shop"),
    ("postgres://ann@host/shop?password=SECRET", "postgres://host/shop"),
    ("snowflake://u:SECRET@account/db/schema?warehouse=w", "snowflake://account/db/schema"),
    ("duckdb://md:db?motherduck_token=SECRET", "duckdb://md:db"),
    ("--engine=postgres://u:SECRET@h/db", "--engine=postgres://h/db"),
    ("--config.data.path=s3://k:SECRET@b/x", "--config.data.path=s3://b/x"),
    ("simplecache::s3://k:SECRET@b/x", "simplecache::s3://b/x"),
    ("zip://a.csv::https://SECRET@h/x.zip?s=SECRET", "zip://a.csv::https://h/x.zip"),
    ("filecache::zip://a::sftp://u:SECRET@h/x", "filecache::zip://a::sftp://h/x"),
    ("abfs://container@account.dfs.core.windows.net/x", None),
    ("abfs://container:SECRET@account/x", "abfs://account/x"),
    ("gs://bucket/shop", None),
    ("data/log?.csv", None),
    ("user@host:folder#1", None),
    ("", None),
]


@pytest.mark.parametrize(("url", "expected"), PLAIN)
def test_a_url_is_left_without_its_secrets(url, expected):
    shown = without_secrets(url)
    assert shown == (url if expected is None else expected)
    assert "SEC" not in shown and "RET" not in shown
    assert without_secrets(shown) == shown


def test_all_texts_of_a_json_value_are_left_without_secrets():
    value = {"a": ["s3://k:SECRET@b/x", 1], "b": ("https://h?t=SECRET", None), "c": {"d": True}}
    assert redact(value) == {"a": ["s3://b/x", 1], "b": ("https://h", None), "c": {"d": True}}


@pytest.mark.usefixtures("optax_promotes")
def test_a_run_on_a_url_keeps_no_secret_and_opens_it_only_where_it_is_named(tmp_path, monkeypatch):
    url = "memory://shops/mine?token=SECRET"
    monkeypatch.setenv("CLICKFLAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["clickflax", "train", f"--config.data.path={url}"])
    simulate(tmp_path / "data", Shop(sequences=60, items=12, mean_length=6.0, seed=1))
    remote.publish(tmp_path / "data", url)
    config = small_config(layers=1)
    config.data.path = url
    config.train.update({"batch_size": 16, "steps": 2, "eval_every": 2})
    config = from_dict(to_dict(config))
    train(config, tmp_path / "run")
    train(config, tmp_path / "run")  # resumes: its command names the URL
    with pytest.raises(ValueError, match="data set at memory://shops/mine. .* add --data=URL"):
        evaluate_run(tmp_path / "run")
    evaluate_run(tmp_path / "run", "test", EvalRequest(data=url))
    assert (tmp_path / "run" / "test.json").is_file()
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes(), path
