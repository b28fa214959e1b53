"""SASRec on a simulated shop whose truth is known: the first thing to run.

    clickflax train --config=configs/quickstart.py --workdir=runs/quickstart
    clickflax evaluate --run runs/quickstart
    clickflax recommend --run runs/quickstart --history "item-1|item-2" --k 5

Test NDCG@10 0.3829, where the best possible, knowing the shop's own probabilities, is 0.4512 and
popularity 0.0636; 50 s from the command to the end on two cores of an Intel Xeon.
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
    c.train.steps = 1000
    c.train.eval_every = 200
    return c
