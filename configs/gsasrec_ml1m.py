"""gSASRec on MovieLens-1M: SASRec with 256 negatives and gBCE (Petrov and Macdonald, 2023).

clickflax prepare ml-1m --raw RAW --out data/ml-1m
clickflax train --config=configs/gsasrec_ml1m.py --workdir=runs/gsasrec_ml1m
clickflax evaluate --run runs/gsasrec_ml1m
"""

from clickflax.config import default
from clickflax.protocols import follow


def get_config():
    c = follow(default(), "gsasrec")
    c.data.path = "data/ml-1m"
    c.tasks = ("next_item",)
    c.loss.name = "gbce"
    c.loss.negatives = 256
    c.model.norm = "pre"
    c.model.output = "none"
    c.model.output_bias = False
    c.model.embedding_norm = False
    c.model.dropout = 0.2
    c.model.attention_dropout = 0.2
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 200
    c.train.steps = 3600
    c.train.eval_every = 225
    return c
