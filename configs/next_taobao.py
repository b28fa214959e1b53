"""Taobao: what comes next, and what comes next when it is a purchase, from one model.

    clickflax prepare log --raw taobao/events.tsv --out data/taobao \\
        --columns sequence=user,time=timestamp,item=item,action=action
    clickflax train --config=configs/next_taobao.py --workdir=runs/next_taobao
    clickflax evaluate --run runs/next_taobao
    clickflax evaluate --run runs/next_taobao --where action=buy
    clickflax evaluate --run runs/next_taobao --where action=buy --given action=buy

NDCG@10 0.075, the mean of three seeds (own counts: 0.051); of purchases 0.139 (0.092), and 0.140
when told that the next event is one. 323 s of training on one core (experiments/tasks.md).
"""

from clickflax.config import default


def get_config():
    c = default()
    c.data.path = "data/taobao"
    c.tasks = ("next_item",)
    c.data.variables = ("item", "action", "gap")
    c.data.given = ("action",)
    c.data.split = "time_each"
    c.data.validation_from = "2017-12-01"
    c.data.test_from = "2017-12-02"
    c.data.validation_users = 3000
    c.data.window = "sliding"
    c.model.output = "none"
    c.model.output_bias = True
    c.model.repeat = True  # people buy what they viewed, or had in the cart, before
    c.model.max_len = 64
    c.model.norm = "pre"
    c.model.dropout = 0.3
    c.optim.schedule = "cosine"
    c.train.steps = 1000
    c.train.eval_every = 250
    c.eval.filter_seen = False
    return c
