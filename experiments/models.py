"""All models on public data sets, compared with published numbers and with baselines.

    python experiments/models.py --data data --runs runs           # all runs without a record
    python experiments/models.py --data data --runs runs gsasrec_ml1m --seeds 0
    python experiments/table.py                              # experiments/models.md

Each run is a config of `configs/`, some with changed knobs. Its data set is in the folder `--data`,
under the last part of the config's `data.path`. tasks.py describes where records go.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from clickflax.config.default import load
from clickflax.evaluation.request import EvalRequest
from experiments.study import (
    HERE,
    commits,
    devices_of,
    markdown,
    mean_and_interval,
    parse_run_flags,
    read_records,
    run_command,
    write_record,
)

CONFIGS, RECORDS = HERE.parent / "configs", HERE / "models"
POPULAR = {"negatives": 100, "drawn": "popularity"}
ALL_DRAWN = {**POPULAR, "unseen": False}
ML100K = ("gru4rec_ml100k", "bert4rec_ml100k", "sasrec_ml100k")


class Run(NamedTuple):
    """A training, and published numbers of the same model."""

    config: str
    published: str = ""  # source: the two metrics of the table
    changed: tuple[str, ...] = ()  # knobs
    candidates: Mapping[str, Any] = {}  # `eval` knobs of the test that differ from the config


class Table(NamedTuple):
    """Runs with one protocol."""

    title: str
    protocol: str  # a sentence below the title
    metrics: tuple[str, str]
    runs: dict[str, Run]
    baselines_of: str  # the run whose config the baselines use; "": no baselines


DROSS = (
    "The last two events of each user are held out; the history of the test has the last but one."
)
PREFIXES = (
    "Every prefix of a test session is a test example, and seen items are ranked, too. With one "
)
PREFIXES += "target per example, R@20 equals the P@20 of SR-GNN."
SHORT = ("train.steps=283", "optim.warmup_steps=0", "optim.schedule=constant")
RECBOLE_1 = ("model.output=none", "model.output_bias=False", "model.max_len=50")
RECBOLE_1 += ("model.dropout=0.5", "model.attention_dropout=0.5")
# Sources: Turning Dross Into Gold Loss (Klenitskiy and Vasilev, 2023); gSASRec (Petrov and
# Macdonald, 2023: 512 validation users, the others train on their validation events); BERT4Rec (Sun
# et al., 2019); A Systematic Review and Replicability Study of BERT4Rec (Petrov and Macdonald,
# 2022: 2,048 validation users) and the RecTools results in its repository.
STUDY = "the replicability study"
TABLES = (
    Table(
        "MovieLens-1M",
        DROSS,
        ("recall@10", "ndcg@10"),
        {
            "bert4rec_ml1m": Run("bert4rec_ml1m", "Turning Dross: .2843 / .1537"),
            "sasrec_ml1m": Run("sasrec_ml1m", "Turning Dross: .3152 / .1821"),
            "sasrec_wide_ml1m": Run("sasrec_wide_ml1m", "Turning Dross: .3152 / .1821"),
            "albert4rec_ml1m": Run("albert4rec_ml1m", f"in {STUDY}: about .300 / .1656"),
            "bert4rec_cosine_ml1m": Run("bert4rec_cosine_ml1m"),
            "deberta4rec_ml1m": Run("deberta4rec_ml1m", f"in {STUDY}: about .290 / .1596"),
            "gsasrec_ml1m": Run("gsasrec_ml1m", "gSASRec: .3003 / .1726"),
            "sasrec_cosine_ml1m": Run("sasrec_cosine_ml1m", "HSTU-large: .3294 / .1893"),
        },
        "bert4rec_ml1m",
    ),
    Table(
        "Common mistakes, on MovieLens-1M",
        "As above. RecTools trains for 3 epochs by default; RecBole 1.0 had windows of 50, dropout "
        "rates of 0.5 and no output layer.",
        ("recall@10", "ndcg@10"),
        {
            "bert4rec_ml1m_3_epochs": Run("bert4rec_ml1m", changed=SHORT),
            "bert4rec_ml1m_recbole_1": Run(
                "bert4rec_ml1m", f"RecBole in {STUDY}: .1061 / .0546", RECBOLE_1
            ),
        },
        "",
    ),
    Table(
        "MovieLens-1M, among 100 negatives drawn by popularity",
        "Runs of the first table, with `clickflax evaluate --negatives 100 --drawn popularity`.",
        ("recall@10", "ndcg@10"),
        {
            "bert4rec_ml1m_popular": Run(
                "bert4rec_ml1m", "BERT4Rec: .6970 / .4818", candidates=POPULAR
            ),
            "bert4rec_cosine_ml1m_popular": Run("bert4rec_cosine_ml1m", candidates=POPULAR),
            "albert4rec_ml1m_popular": Run("albert4rec_ml1m", candidates=POPULAR),
            "sasrec_ml1m_popular": Run("sasrec_ml1m", candidates=POPULAR),
            "sasrec_cosine_ml1m_popular": Run("sasrec_cosine_ml1m", candidates=POPULAR),
        },
        "",
    ),
    Table(
        "MovieLens-1M, among 100 negatives as the replicability study draws them",
        "The same with `--no-unseen`: negatives are drawn from all items, and those that the user "
        "has seen are removed, so that fewer than 100 remain.",
        ("recall@10", "ndcg@10"),
        {
            "bert4rec_ml1m_study": Run(
                "bert4rec_ml1m", f"RecTools in {STUDY}: .7151 / .5020", candidates=ALL_DRAWN
            ),
            "bert4rec_cosine_ml1m_study": Run("bert4rec_cosine_ml1m", candidates=ALL_DRAWN),
            "albert4rec_ml1m_study": Run("albert4rec_ml1m", candidates=ALL_DRAWN),
            "sasrec_ml1m_study": Run(
                "sasrec_ml1m", f"RecTools in {STUDY}: .7041 / .4951", candidates=ALL_DRAWN
            ),
            "sasrec_cosine_ml1m_study": Run("sasrec_cosine_ml1m", candidates=ALL_DRAWN),
        },
        "",
    ),
    Table(
        "Amazon Beauty",
        f"As in {STUDY}: the last two events of 2,048 users and the last event of all others are "
        "held out. With `data.validation_users=-1` the last two events of all users are.",
        ("recall@10", "ndcg@10"),
        {
            "sasrec_beauty": Run("sasrec_beauty", f"RecTools in {STUDY}: .0595 / .0359"),
            "sasrec_beauty_dross": Run(
                "sasrec_beauty", "Turning Dross: .0533 / .0327", ("data.validation_users=-1",)
            ),
        },
        "sasrec_beauty",
    ),
    Table(
        "S3-Rec's Beauty",
        DROSS,
        ("recall@10", "ndcg@10"),
        {"sasrec_s3rec_beauty": Run("sasrec_s3rec_beauty", "eSASRec: .0928 / .0523")},
        "sasrec_s3rec_beauty",
    ),
    Table(
        "Diginetica",
        PREFIXES,
        ("recall@20", "mrr@20"),
        {"sasrec_diginetica": Run("sasrec_diginetica", "GCE-GNN: .5422 / .1904")},
        "sasrec_diginetica",
    ),
    Table(
        "YooChoose 1/64",
        PREFIXES,
        ("recall@20", "mrr@20"),
        {"sasrec_yoochoose": Run("sasrec_yoochoose", "SR-GNN: .7057 / .3094")},
        "sasrec_yoochoose",
    ),
    Table(
        "MovieLens-100K",
        DROSS,
        ("recall@10", "ndcg@10"),
        {name: Run(name) for name in ML100K},
        ML100K[0],
    ),
)
SHOWN = ("MovieLens-1M", "Amazon Beauty", "S3-Rec's Beauty", "Diginetica", "YooChoose 1/64")

# Published models of README: paper, presets, and the run of `TABLES` that has their architecture.
FAMILY = (
    ("SASRec (Kang and McAuley, 2018)", ("sasrec", "sasrec_modern"), "sasrec_ml1m"),
    ("SASRec+ (Klenitskiy and Vasilev, 2023)", ("sasrec+", "sasrec+_3000"), ""),
    ("gSASRec (Petrov and Macdonald, 2023)", ("gsasrec", "gbert4rec"), "gsasrec_ml1m"),
    ("eSASRec (RecTools; LiGR: Borisyuk et al., 2025)", ("esasrec",), ""),
    (
        "BERT4Rec (Sun et al., 2019)",
        ("bert4rec", "bert4rec_vae", "bert4rec_recbole", "bert4rec_rectools", "bert4rec_study"),
        "bert4rec_ml1m",
    ),
    ("ALBERT4Rec (Petrov and Macdonald, 2022)", ("albert4rec",), "albert4rec_ml1m"),
    ("DeBERTa4Rec (Petrov and Macdonald, 2022)", ("deberta4rec",), "deberta4rec_ml1m"),
    ("HSTU (Zhai et al., 2024)", ("hstu", "hstu_time", "hstu_large"), ""),
    ("GRU4Rec (Hidasi et al., 2016)", ("gru4rec",), "gru4rec_ml100k"),
)


def all_runs() -> dict[str, Run]:
    """All runs of all tables, by name."""
    return {name: run for table in TABLES for name, run in table.runs.items()}


def knobs(run: Run, data: pathlib.Path) -> list[str]:
    """Flags for the config of a run."""
    config = CONFIGS / f"{run.config}.py"
    path = f"data.path={data / pathlib.Path(load(config).data.path).name}"
    return [f"--config={config}", *(f"--config.{knob}" for knob in (path, *run.changed))]


def train(name: str, seed: int, data: pathlib.Path, runs: pathlib.Path, kept: pathlib.Path) -> None:
    """Trains and evaluates one run, unless it has a record."""
    run, record = all_runs()[name], kept / f"{name}.{seed}.json"
    if record.is_file():
        return
    same = (n for n, r in all_runs().items() if (r.config, r.changed) == (run.config, run.changed))
    folder = runs / f"{next(same)}.{seed}"  # several tables may show one training
    run_command("train", *knobs(run, data), f"--workdir={folder}", f"--config.seed={seed}")
    flags = [f"--no-{k}" if v is False else f"--{k}={v}" for k, v in run.candidates.items()]
    run_command("evaluate", f"--run={folder}", *flags)
    file = folder / f"test{EvalRequest(**run.candidates).suffix()}.json"
    write_record(record, json.loads(file.read_text(encoding="utf-8")))


def row(name: str, run: Run, metrics: tuple[str, str]) -> list[str] | None:
    """Row of a run; None without a record."""
    found = read_records("models", f"{name}.[0-9]*")
    if not found:
        return None
    changed = "".join(f", {knob}" for knob in run.changed)
    seconds = np.mean([one["train_seconds"] for one in found])
    machines = sorted({devices_of(one["environment"]) for one in found})
    return [
        f"[{run.config}](../configs/{run.config}.py){changed}",
        *(mean_and_interval([one[metric] for one in found]) for metric in metrics),
        str(len(found)),
        run.published,
        f"{seconds:,.0f} s, {' or '.join(machines)}",
        commits(found),
    ]


def baselines(name: str, metrics: tuple[str, str]) -> list[list[str]]:
    """Rows of the baselines."""
    rows = []
    for record in read_records("models", f"{name}.baselines"):
        for way, one in record["baselines"].items():
            values = [f"{one[metric]:.4f}" for metric in metrics]
            commit = commits([record])
            rows.append([way, *values, "", "", f"{one['seconds']:,.0f} s", commit])
    return rows


def shown(table: Table) -> str:
    """A table with its title; "" without a record."""
    rows = [row(name, run, table.metrics) for name, run in table.runs.items()]
    rows = [*baselines(table.baselines_of, table.metrics), *(line for line in rows if line)]
    if not rows:
        return ""
    metrics = [metric.upper().replace("RECALL", "R") for metric in table.metrics]
    head = ["", *metrics, "seeds", "published", "training", "commit"]
    align = ["---", "--:", "--:", "--:", "---", "---", "---"]
    return f"### {table.title}\n\n{table.protocol}\n\n{markdown(head, align, rows)}"


def tables() -> str:
    """Tables of models.md."""
    return "\n\n".join(filter(None, map(shown, TABLES)))


def family(root: str = "") -> str:
    """Table of README: the published models, their presets, and our result on a data set.

    Links start at `root`, the path from the page to the repository.
    """
    data = {name: table.title for table in reversed(TABLES) for name in table.runs}
    rows = []
    for paper, presets, name in FAMILY:
        found = read_records("models", f"{name}.[0-9]*") if name else []
        result = [mean_and_interval([one["ndcg@10"] for one in found])] if found else [""]
        config = all_runs()[name].config if found else ""
        result += [data[name], f"[{config}]({root}configs/{config}.py)"] if found else ["", ""]
        rows.append([paper, ", ".join(f"`{preset}`" for preset in presets), *result])
    return markdown(["model", "presets", "NDCG@10", "", "config"], ["---"] * 5, rows)


def best(root: str = "") -> str:
    """Table of README: our best run and the best published one on each data set.

    Links start at `root`, the path from the page to the repository.
    """
    rows = []
    for table in TABLES:
        known = {name: read_records("models", f"{name}.[0-9]*") for name in table.runs}
        means = {
            name: np.mean([one[table.metrics[1]] for one in found])
            for name, found in known.items()
            if found
        }
        if table.title not in SHOWN or not means:
            continue
        name = max(means, key=means.__getitem__)
        values = (
            mean_and_interval([one[metric] for one in known[name]]) for metric in table.metrics
        )
        config = table.runs[name].config
        published = [run.published for run in table.runs.values() if run.published]
        rows.append(
            [
                table.title,
                " / ".join(metric.upper().replace("RECALL", "R") for metric in table.metrics),
                " / ".join(values),
                f"[{config}]({root}configs/{config}.py)",
                str(len(known[name])),
                max(published, key=lambda said: float(re.findall(r"\.\d+", said)[-1])),
            ]
        )
    return markdown(["", "", "ours", "", "seeds", "published"], ["---"] * 6, rows)


def main() -> None:
    flags = parse_run_flags(__doc__, all_runs(), RECORDS)
    for name in flags.names:
        for seed in flags.seeds:
            train(name, seed, flags.data, flags.runs, flags.records)
    for table in TABLES:
        record = flags.records / f"{table.baselines_of}.baselines.json"
        if table.baselines_of in flags.names and not record.is_file():
            run = table.runs[table.baselines_of]
            write_record(record, run_command("baselines", *knobs(run, flags.data)))


if __name__ == "__main__":
    main()
