"""SASRec on a simulated shop whose truth is known: the first thing to run.

clickflax train --config=configs/quickstart.py --workdir=runs/quickstart
clickflax evaluate --run runs/quickstart
clickflax recommend --run runs/quickstart --history "item-1|item-2" --k 5
"""

from clickflax.config import default


def get_config():
    c = default()
    c.tasks = ("next_item",)
    c.model.max_len = 50
    c.model.norm = "pre"
    c.model.output = "none"
    c.model.output_bias = False
    c.model.embedding_norm = False
    c.optim.learning_rate = 3e-3
    c.optim.schedule = "cosine"
    c.train.steps = 600
    c.train.eval_every = 100
    return c
