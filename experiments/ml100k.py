"""GRU4Rec, BERT4Rec and SASRec on MovieLens-100K with RecBole's `uni50` protocol.

    clickflax prepare ml-100k --raw RAW --out data/ml-100k
    clickflax study run experiments/ml100k.py --out studies/ml100k --workers 2
    clickflax study table studies/ml100k

The first four sixths of all events are for training. The test ranks all items of a user in the last
sixth in one list: with 50 uniform negatives per item, or with the whole catalog.
"""

import pathlib

from clickflax.config.protocols import PROTOCOLS
from clickflax.study import Study

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
KNOBS = tuple(f"{knob}={value}" for knob, value in PROTOCOLS["uni50"].items())
KNOBS += ("data.path=data/ml-100k", "eval.cutoffs=(12,)", "train.monitor=ndcg@12")
DATA = "MovieLens-100K"


def get_study() -> Study:
    """Three models, each evaluated with two sets of candidates."""
    return Study(
        question="Which model is the best on MovieLens-100K?",
        configs={
            "SASRec": (CONFIGS / "sasrec_ml100k.py",),
            "BERT4Rec": (CONFIGS / "bert4rec_ml100k.py",),
            "GRU4Rec": (CONFIGS / "gru4rec_ml100k.py",),
        },
        data={DATA: KNOBS},
        seeds=(0, 1, 2),
        metrics=("recall@12", "ndcg@12", "map@12"),
        evaluations={"over all items": {"negatives": 0, "lists": True}, "among 50": {}},
    )
