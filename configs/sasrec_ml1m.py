"""SASRec with the exact softmax on MovieLens-1M, leave-one-out, trained on all but the last two.

    clickflax prepare ml-1m --raw RAW --out data/ml-1m
    clickflax train --config=configs/sasrec_ml1m.py --workdir=runs/sasrec_ml1m
    clickflax evaluate --run runs/sasrec_ml1m

Test NDCG@10 0.1842, R@10 0.3162, every item ranked, seen ones filtered (the best of 16 validations,
that of step 3,150 after 1,298 s; 1,578 s in all, validation included) on two cores of an Intel Xeon
that other work shared.
"""

from clickflax.config import default
from clickflax.protocols import follow
from clickflax.variants import vary


def get_config():
    c = follow(vary(default(), "sasrec_modern"), "turning_dross")
    c.data.path = "data/ml-1m"
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 200
    c.train.steps = 3600
    c.train.eval_every = 225
    return c
