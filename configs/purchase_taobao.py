"""Taobao: will this visit end in a purchase? Asked at each cart and favourite before the first.

    clickflax prepare log --raw taobao/events.tsv --out data/taobao \\
        --columns sequence=user,time=timestamp,item=item,action=action
    clickflax train --config=configs/purchase_taobao.py --workdir=runs/purchase_taobao
    clickflax evaluate --run runs/purchase_taobao

Test AUC 0.664, the mean of three seeds (trees: 0.676), after 166 s of training on one core
(experiments/tasks.md).
"""

from clickflax.config import default


def get_config():
    c = default()
    c.data.path = "data/taobao"
    c.tasks = ("purchase",)
    c.data.variables = ("item", "action", "gap", "hour", "session", "time")
    c.data.variables += ("count.action=buy", "count.action=cart", "count.action=fav")
    c.data.variables += ("since.action=buy", "since.action=cart", "since.action=fav")
    c.data.variables += ("count.item", "count.item&action=cart", "count.item&action=buy")
    c.data.variables += ("since.item", "count.session", "count.session&action=cart")
    c.data.variables += ("count.session&action=fav",)
    c.data.chain = "30m"  # a visit; the user's earlier ones are read too
    c.data.split = "time"
    c.data.validation_from = "2017-12-01"
    c.data.test_from = "2017-12-02"
    c.data.position_from = "start"
    c.mask.unknown = 0.9  # there are few events of an item: it would be learned by heart
    c.model.max_len = 64
    c.model.norm = "pre"
    c.model.dropout = 0.2
    c.optim.schedule = "cosine"
    c.train.steps = 2000
    c.train.eval_every = 200
    c.train.monitor = "auc"
    return c
