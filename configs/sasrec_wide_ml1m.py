"""SASRec with the exact softmax on MovieLens-1M, twice as wide as in sasrec_ml1m.py.

    clickflax prepare ml-1m --raw RAW --out data/ml-1m
    clickflax train --config=configs/sasrec_wide_ml1m.py --workdir=runs/sasrec_wide_ml1m
    clickflax evaluate --run runs/sasrec_wide_ml1m
"""

from clickflax.config import default
from clickflax.protocols import follow
from clickflax.variants import vary


def get_config():
    c = follow(vary(default(), "sasrec_modern"), "turning_dross")
    c.data.path = "data/ml-1m"
    c.model.width = 128
    c.model.dropout = 0.25
    c.optim.learning_rate = 2e-3
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 200
    c.train.steps = 1800
    c.train.eval_every = 225
    return c
