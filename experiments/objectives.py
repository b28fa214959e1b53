"""BERT4Rec beside SASRec under equal losses: one model, and the question of its training alone
differs.

    clickflax study run experiments/objectives.py --out studies/objectives --workers 2
    clickflax study table studies/objectives --format json > experiments/objectives.json
    python experiments/table.py
    clickflax report studies/objectives --out report.html

The block, the table of items, dropout, optimiser, users a step and steps are the same: on MovieLens
3,000 steps of 64 users, on Beauty 1,500 of 256. The Cloze hides three events of ten, the causal
objective asks each event for the next. The losses are the softmax over the catalog, and BCE beside
one negative, as SASRec began. As the Cloze learns from fewer places of a sequence at a step, one
line has 12,000 steps.
"""

import pathlib

from clickflax.study import Study

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
BASE = (CONFIGS / "sasrec_ml1m.py",)
CLOZE = ('tasks=("masked_item",)', "mask.ratio=0.3")
BCE = ("loss.name=bce", "loss.negatives=1")
ML_1M = ("data.path=data/ml-1m", "train.batch_size=64", "train.steps=3000", "train.eval_every=500")
BEAUTY = ("data.path=data/s3rec-beauty", "model.max_len=50", "train.batch_size=256")
BEAUTY += ("train.steps=1500", "train.eval_every=250")

# What README says before its table.
BEFORE = """Is BERT4Rec better than SASRec when both have the same loss?
([experiments/objectives.py](experiments/objectives.py): one model, 3,000 steps of 64 users on
MovieLens, 1,500 of 256 on Beauty, unless a line says otherwise.)"""


def get_study() -> Study:
    """Two objectives under two losses; one of them for longer, too."""
    return Study(
        question="Is BERT4Rec better than SASRec when both have the same loss?",
        configs={
            "SASRec, softmax": BASE,
            "BERT4Rec, softmax": (*BASE, *CLOZE),
            "SASRec, BCE": (*BASE, *BCE),
            "BERT4Rec, BCE": (*BASE, *CLOZE, *BCE),
            "BERT4Rec, softmax, 12,000 steps": (*BASE, *CLOZE, "train.steps=12_000"),
        },
        data={"MovieLens-1M": ML_1M, "S3-Rec's Beauty": BEAUTY},
        seeds=(0, 1, 2, 3, 4),
    )
