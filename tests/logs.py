"""Small logs for the tests of `clickflax prepare`, and their prepared sequences."""

import duckdb
import numpy as np

from clickflax.batch import RESERVED
from clickflax.data.store import open_dataset
from clickflax.preparation.main import prepare
from clickflax.preparation.options import Options, parse_columns

ONE = "u,i,t\n1,a,1\n1,b,2\n"
UIT = "sequence=u,item=i,time=t"
SECOND = 1_000_000


def prepared(tmp_path, text, columns=UIT, name="log.csv", **options):
    (tmp_path / name).write_text(text, encoding="utf-8")
    log_options = Options(columns=parse_columns(columns), **options)
    prepare("log", tmp_path / name, tmp_path / "out", log_options, overwrite=True)
    return open_dataset(tmp_path / "out")


def write_parquet(path, query):
    duckdb.connect().execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")


def sequences(data, variable="item"):
    """The tokens of every sequence, by its token."""
    tokens = [None] * RESERVED + data.vocabulary(variable).tokens()
    ids = np.split(data.columns[variable], data.offsets[1:-1])
    names = data.sequence_column("token")
    return {n: [tokens[id] for id in own] for n, own in zip(names, ids, strict=True)}


def accounts_for_every_row(data):
    counts = data.info["counts"]
    return counts["read"] == counts["kept"] + sum(counts["dropped"].values())
