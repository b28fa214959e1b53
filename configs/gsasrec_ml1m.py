"""gSASRec on MovieLens-1M: SASRec with 256 negatives and gBCE (Petrov and Macdonald, 2023).

    clickflax prepare ml-1m --raw RAW --out data/ml-1m
    clickflax train --config=configs/gsasrec_ml1m.py --workdir=runs/gsasrec_ml1m
    clickflax evaluate --run runs/gsasrec_ml1m

It has biases, which the paper's has not: they begin at the odds of a negative (log(beta / 256)).
Without them all items first move away from every answer, and learning begins much later.
"""

from clickflax.config import default
from clickflax.protocols import follow
from clickflax.variants import vary


def get_config():
    c = follow(vary(default(), "sasrec+"), "turning_dross")
    c.data.path = "data/ml-1m"
    c.loss.name = "gbce"
    c.loss.negatives = 256
    c.model.output_bias = True
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 200
    c.train.steps = 3600
    c.train.eval_every = 300
    return c
