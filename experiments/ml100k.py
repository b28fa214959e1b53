"""GRU4Rec, BERT4Rec and SASRec on MovieLens-100K, over the catalog and among 50 negatives.

    clickflax study run experiments/ml100k.py --out studies/ml100k --workers 2
    clickflax study table studies/ml100k

Over the catalog the last event of each user is asked for; RecBole's `uni50` asks for each event of
the last sixth, among 50 negatives that are drawn uniformly.
"""

import pathlib

from clickflax.protocols import PROTOCOLS
from clickflax.study import Study

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
PATH = "data.path=data/ml-100k"
AT_12 = ("eval.cutoffs=(12,)", "train.monitor=ndcg@12")
UNI50 = tuple(f"{knob}={value}" for knob, value in PROTOCOLS["uni50"].items())


def get_study() -> Study:
    """Three models, two ways to ask."""
    return Study(
        question="Which model is the best on MovieLens-100K?",
        configs={
            "SASRec": (CONFIGS / "sasrec_ml100k.py",),
            "BERT4Rec": (CONFIGS / "bert4rec_ml100k.py",),
            "GRU4Rec": (CONFIGS / "gru4rec_ml100k.py",),
        },
        data={"MovieLens-100K": (PATH, *AT_12), "MovieLens-100K, uni50": (PATH, *UNI50, *AT_12)},
        seeds=(0, 1, 2),
        metrics=("recall@12", "ndcg@12"),
    )
