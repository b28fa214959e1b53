"""BERT4Rec and SASRec with equal losses: the same model, trained on two objectives.

    clickflax prepare ml-1m --raw RAW --out data/ml-1m     # Beauty: see sasrec_s3rec_beauty.py
    clickflax study run experiments/objectives.py --out studies/objectives --workers 2
    clickflax study table studies/objectives --format json > experiments/objectives.json
    python experiments/table.py
    clickflax report studies/objectives --out report.html
    python experiments/picture.py report.html curves pairs --out experiments/objectives.png

Blocks, item embeddings, dropout, optimiser, batch size and number of steps are the same: 3,000
steps of 64 users on MovieLens, 1,500 steps of 256 on Beauty. The 40 runs take one to sixteen
minutes each on a shared core, two hours in all on two cores. The Cloze objective masks 30 % of the
events; the causal objective predicts the next item at every event. The losses are the softmax over
the catalog, and binary cross-entropy with one negative as in the SASRec paper. Each pair of a loss
and a data set has a table.
"""

import pathlib
from collections.abc import Sequence

from clickflax.study import Study
from clickflax.study.results import LEVEL, Table

CONFIG = pathlib.Path(__file__).resolve().parents[1] / "configs" / "variant_ml1m.py"
BASE = (f"{CONFIG}:sasrec_modern",)
CLOZE = ('tasks=("masked_item",)', "mask.ratio=0.3")
BCE = ("loss.name=bce", "loss.negatives=1")
ML_1M = ("data.path=data/ml-1m",)
BEAUTY = ("data.path=data/s3rec-beauty", "model.max_len=50", "train.batch_size=256")
BEAUTY += ("train.steps=1500", "train.eval_every=250")
QUESTION = "Is BERT4Rec better than SASRec when both have the same loss?"
METRIC = "ndcg@10"


def get_study() -> Study:
    """Two objectives on two data sets, with two losses."""
    return Study(
        question=QUESTION,
        configs={"SASRec": BASE, "BERT4Rec": (*BASE, *CLOZE)},
        data={
            "MovieLens-1M, softmax": ML_1M,
            "MovieLens-1M, BCE": (*ML_1M, *BCE),
            "S3-Rec's Beauty, softmax": BEAUTY,
            "S3-Rec's Beauty, BCE": (*BEAUTY, *BCE),
        },
        seeds=(0, 1, 2, 3, 4),
    )


def answer(tables: Sequence[Table]) -> str:
    """Text of docs/results.md above the tables: the question, and its answer.

    Raises ValueError if a table has no comparison yet.
    """
    differences = []
    verdicts = {True: [], False: []}  # ahead, behind
    for table in tables:
        (row,) = (row for row in table.rows if row.config == "BERT4Rec")
        result = row.results.get(METRIC)
        if result is None or result.difference is None:
            raise ValueError(f"{table.data}: BERT4Rec is not compared yet. {table.not_compared}")
        mean, low, high, *_ = result.difference
        differences.append(f"{mean:+.4f} [{low:+.4f}, {high:+.4f}] ({table.data})")
        if result.p < LEVEL:
            verdicts[mean > 0].append(table.data)
    ahead, behind = (len(names) for names in (verdicts[True], verdicts[False]))
    verdict = f"After as many steps it is ahead in {ahead} and behind in {behind} of {len(tables)}."
    if len(tables) in (ahead, behind):
        verdict = "Yes, after as many steps." if ahead else "Not after as many steps: it is behind."
    seeds = min(len(row.seconds) for table in tables for row in table.rows)
    return (
        f"{QUESTION} {verdict} By {METRIC.upper()} it is {'; '.join(differences)}: means over "
        f"{seeds} seeds for the same users, with 95 % intervals by the paired bootstrap.\n"
        "([experiments/objectives.py](../experiments/objectives.py): one model, 3,000 steps of 64 "
        "users on MovieLens, 1,500 of 256 on Beauty. What longer trainings of both come to on "
        "MovieLens is in [experiments/models.md](../experiments/models.md).)"
    )
