"""The family of models on public data sets, beside published numbers and what one would try first.

    python experiments/models.py --data data --runs runs           # what is not recorded yet
    python experiments/models.py --data data --runs runs gsasrec_ml1m --seeds 0
    python experiments/table.py                              # experiments/models.md

Each is a config of `configs/`, some with other knobs; its data set lies in the folder `--data`
under the name that its path has. Records are kept as those of tasks.py.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from study import HERE, clickflax, commits, keep, machine, markdown, records, spread, which_runs

from clickflax.config.default import load
from clickflax.evaluation.record import record_name

CONFIGS, RECORDS = HERE.parent / "configs", HERE / "models"
POPULAR = {"negatives": 100, "drawn": "popularity"}
ALL_DRAWN = {**POPULAR, "unseen": False}
ML100K = ("gru4rec_ml100k", "bert4rec_ml100k", "sasrec_ml100k")


class Run(NamedTuple):
    """What is trained, and what others have published of it."""

    config: str
    published: str = ""  # source: the two metrics of the table
    changed: tuple[str, ...] = ()  # knobs
    candidates: Mapping[str, Any] = {}  # of the test, where it is not as the config says


class Table(NamedTuple):
    """Runs that are measured alike."""

    title: str
    how: str  # what is common to them, and stands in no row
    metrics: tuple[str, str]
    runs: dict[str, Run]
    beside: str  # the run whose question baselines are asked; "": of none


DROSS = "Nobody trains on the last two events of a user; the test is told the last but one."
PREFIXES = "Every prefix of a test session is a question, and seen items are ranked, too; with one "
PREFIXES += "target for each, R@20 is what SR-GNN calls P@20."
SHORT = ("train.steps=283", "optim.warmup_steps=0", "optim.schedule=constant")
RECBOLE_1 = ("model.output=none", "model.output_bias=False", "model.max_len=50")
RECBOLE_1 += ("model.dropout=0.5", "model.attention_dropout=0.5")
# Where a number was published: Turning Dross Into Gold Loss (Klenitskiy and Vasilev, 2023), gSASRec
# (Petrov and Macdonald, 2023: 512 users are validated, the others train on theirs), BERT4Rec (Sun
# et al., 2019), and a Systematic Review and Replicability Study of BERT4Rec (Petrov and Macdonald,
# 2022: 2,048 users are validated) with what its repository has added of RecTools.
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
        "What mistakes cost on MovieLens-1M",
        "As above. RecTools trains for 3 epochs unless it is told otherwise; RecBole 1.0 had "
        "windows of 50, dropouts of 0.5 and no output layer.",
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
        "Trainings of the first table: `clickflax evaluate --negatives 100 --drawn popularity`.",
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
        "The same with `--no-unseen`: negatives are drawn from all items, and left out where the "
        "user has had them, so that fewer remain.",
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
        "Of 2,048 users the last two events are held back, of others the last alone, as in "
        f"{STUDY}; or of all the last two.",
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


def all_runs() -> dict[str, Run]:
    """Every run of every table."""
    return {name: run for table in TABLES for name, run in table.runs.items()}


def knobs(run: Run, data: pathlib.Path) -> list[str]:
    """The flags that make the config of a run."""
    config = CONFIGS / f"{run.config}.py"
    path = f"data.path={data / pathlib.Path(load(config).data.path).name}"
    return [f"--config={config}", *(f"--config.{knob}" for knob in (path, *run.changed))]


def train(name: str, seed: int, data: pathlib.Path, runs: pathlib.Path, kept: pathlib.Path) -> None:
    """Trains and evaluates one run, if it is not recorded."""
    run, record = all_runs()[name], kept / f"{name}.{seed}.json"
    if record.is_file():
        return
    same = (n for n, r in all_runs().items() if (r.config, r.changed) == (run.config, run.changed))
    folder = runs / f"{next(same)}.{seed}"  # one training answers several questions
    clickflax("train", *knobs(run, data), f"--workdir={folder}", f"--config.seed={seed}")
    flags = [f"--no-{k}" if v is False else f"--{k}={v}" for k, v in run.candidates.items()]
    clickflax("evaluate", f"--run={folder}", *flags)
    file = folder / f"test{record_name(**run.candidates)}.json"
    keep(record, json.loads(file.read_text(encoding="utf-8")))


def row(name: str, run: Run, metrics: tuple[str, str]) -> list[str] | None:
    """The line of a run; None where there is none yet."""
    found = records("models", f"{name}.[0-9]*")
    if not found:
        return None
    changed = "".join(f", {knob}" for knob in run.changed)
    seconds = np.mean([one["train_seconds"] for one in found])
    machines = sorted({machine(one["environment"]) for one in found})
    return [
        f"[{run.config}](../configs/{run.config}.py){changed}",
        *(spread([one[metric] for one in found]) for metric in metrics),
        str(len(found)),
        run.published,
        f"{seconds:,.0f} s, {' or '.join(machines)}",
        commits(found),
    ]


def baselines(name: str, metrics: tuple[str, str]) -> list[list[str]]:
    """The lines of what one would try first."""
    rows = []
    for record in records("models", f"{name}.baselines"):
        for way, one in record["baselines"].items():
            values = [f"{one[metric]:.4f}" for metric in metrics]
            commit = commits([record])
            rows.append([way, *values, "", "", f"{one['seconds']:,.0f} s", commit])
    return rows


def shown(table: Table) -> str:
    """A table, "" where nothing is recorded yet."""
    rows = [row(name, run, table.metrics) for name, run in table.runs.items()]
    rows = [*baselines(table.beside, table.metrics), *(line for line in rows if line)]
    if not rows:
        return ""
    metrics = [metric.upper().replace("RECALL", "R") for metric in table.metrics]
    head = ["", *metrics, "seeds", "published", "training", "commit"]
    align = ["---", "--:", "--:", "--:", "---", "---", "---"]
    return f"### {table.title}\n\n{table.how}\n\n{markdown(head, align, rows)}"


def tables() -> str:
    """All tables that have a run."""
    return "\n\n".join(filter(None, map(shown, TABLES)))


def best() -> str:
    """Of the tables that README shows, our best run and the best published one."""
    rows = []
    for table in TABLES:
        known = {name: records("models", f"{name}.[0-9]*") for name in table.runs}
        means = {
            name: np.mean([one[table.metrics[1]] for one in found])
            for name, found in known.items()
            if found
        }
        if table.title not in SHOWN or not means:
            continue
        name = max(means, key=means.__getitem__)
        values = (spread([one[metric] for one in known[name]]) for metric in table.metrics)
        config = table.runs[name].config
        published = [run.published for run in table.runs.values() if run.published]
        rows.append(
            [
                table.title,
                " / ".join(metric.upper().replace("RECALL", "R") for metric in table.metrics),
                " / ".join(values),
                f"[{config}](configs/{config}.py)",
                max(published, key=lambda said: float(re.findall(r"\.\d+", said)[-1])),
            ]
        )
    return markdown(["", "", "ours", "", "published"], ["---"] * 5, rows)


def main() -> None:
    flags = which_runs(__doc__, all_runs(), RECORDS)
    for name in flags.names:
        for seed in flags.seeds:
            train(name, seed, flags.data, flags.runs, flags.records)
    for table in TABLES:
        record = flags.records / f"{table.beside}.baselines.json"
        if table.beside in flags.names and not record.is_file():
            run = table.runs[table.beside]
            keep(record, clickflax("baselines", *knobs(run, flags.data)))


if __name__ == "__main__":
    main()
