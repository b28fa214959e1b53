"""BERT4Rec on a simulated shop: the first thing to run.

    clickflax train --config=configs/quickstart.py --workdir=runs/quickstart
"""

from clickflax.config import default


def get_config():
    c = default()
    c.model.max_len = 50
    c.train.steps = 600
    c.train.eval_every = 100
    return c
