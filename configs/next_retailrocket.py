"""RetailRocket: what comes next, and what comes next when it is a purchase, from one model.

    clickflax prepare log --raw retailrocket-behaviours/events.tsv --out data/retailrocket \\
        --columns sequence=user,time=timestamp,item=item,action=action
    clickflax train --config=configs/next_retailrocket.py --workdir=runs/next_retailrocket
    clickflax evaluate --run runs/next_retailrocket
    clickflax evaluate --run runs/next_retailrocket --where action=buy
    clickflax evaluate --run runs/next_retailrocket --where action=buy --given action=buy

NDCG@10 0.113, the mean of three seeds (own counts: 0.051); of purchases 0.560 (0.268), and 0.581
when told that the next event is one. 338 s of training on one core (experiments/tasks.md).
"""

from clickflax.config import default


def get_config():
    c = default()
    c.data.path = "data/retailrocket"
    c.tasks = ("next_item",)
    c.data.variables = ("item", "action", "gap")
    c.data.given = ("action",)
    c.data.split = "time_each"
    c.data.validation_from = "2015-08-16"
    c.data.test_from = "2015-09-01"
    c.data.validation_users = 3000
    c.data.window = "sliding"
    c.model.output = "none"
    c.model.output_bias = True
    c.model.repeat = True  # people buy what they viewed, or had in the cart, before
    c.model.max_len = 64
    c.model.norm = "pre"
    c.model.dropout = 0.3
    c.optim.schedule = "cosine"
    c.train.steps = 200
    c.train.eval_every = 25
    c.eval.filter_seen = False
    return c
