"""What comes next in a simulated shop, and what comes next into the cart, from one model.

    clickflax simulate --out data/thrifty --sequences 100000 --thrift 2
    clickflax train --config=configs/given_simulated.py --workdir=runs/given
    clickflax evaluate --run runs/given --where action=cart
    clickflax evaluate --run runs/given --where action=cart --given action=cart
    python experiments/truth.py runs/given/test.where.action=cart*.json

NDCG@10 of what is put in the cart: 0.416, and 0.441 when that is told, the means of three seeds;
the best possible is 0.447 and 0.478. So the condition is worth 0.026 to the model and 0.030 to the
truth. 228 s of training on one core (experiments/simulated.md).
"""

from clickflax.config import default


def get_config():
    c = default()
    c.data.path = "data/thrifty"
    c.tasks = ("next_item",)
    c.data.variables = ("item", "action")
    c.data.given = ("action",)
    c.data.split = "time_each"
    c.data.validation_from = "2025-03-19"
    c.data.test_from = "2025-03-22"
    c.data.validation_users = 5000
    c.data.position_from = "start"
    c.model.output = "none"
    c.model.max_len = 50
    c.model.norm = "pre"
    c.model.dropout = 0.05
    c.optim.learning_rate = 3e-3
    c.optim.schedule = "cosine"
    c.train.steps = 6000
    c.train.eval_every = 1000
    return c
