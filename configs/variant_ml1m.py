"""A model by its published name on MovieLens-1M, leave-one-out, seen items filtered.

    clickflax prepare ml-1m --raw RAW --out data/ml-1m
    clickflax train --config=configs/variant_ml1m.py --workdir=runs/bert4rec
    clickflax train --config=configs/variant_ml1m.py:hstu --workdir=runs/hstu
    clickflax evaluate --run runs/hstu

The names are those of clickflax/config/variants.py. What such names leave open, how long is trained
and with how many users a step, is here; experiments/replicability.py trains them all.
"""

from clickflax.config import default, follow, vary


def get_config(variant: str = "bert4rec"):
    c = follow(vary(default(), variant), "turning_dross")
    c.data.path = "data/ml-1m"
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 200
    c.train.batch_size = 64
    c.train.steps = 3000
    c.train.eval_every = 500
    return c
