"""RetailRocket, buyers: will this visit end in a purchase? Asked at every event before the first.

    clickflax prepare log --raw retailrocket-behaviours/events.tsv --out data/retailrocket \\
        --columns sequence=user,time=timestamp,item=item,action=action
    clickflax train --config=configs/purchase_retailrocket.py --workdir=runs/purchase_retailrocket
    clickflax evaluate --run runs/purchase_retailrocket

Test AUC 0.799, the mean of three seeds (a linear model: 0.823), after 45 s of training on one core
(experiments/tasks.md).
"""

from clickflax.config import default


def get_config():
    c = default()
    c.data.path = "data/retailrocket"
    c.tasks = ("purchase",)
    c.data.variables = ("item", "action", "gap", "hour", "weekday", "session")
    c.data.variables += ("count.action=view", "count.action=cart", "count.action=buy")
    c.data.variables += ("since.action=cart", "since.action=buy", "since.item", "count.item")
    c.data.variables += ("count.item&action=cart", "count.item&action=buy")
    c.data.variables += ("count.session", "count.session&action=cart")
    c.data.chain = "30m"  # a visit; the user's earlier ones are read too
    c.data.split = "time"
    c.data.validation_from = "2015-08-16"
    c.data.test_from = "2015-09-01"
    c.data.window = "sliding"
    c.data.stride = 64
    c.data.position_from = "start"
    c.mask.unknown = 1.0  # there are few events of an item: it would be learned by heart
    c.model.max_len = 128
    c.model.norm = "pre"
    c.model.dropout = 0.3
    c.optim.learning_rate = 3e-3
    c.optim.schedule = "cosine"
    c.train.batch_size = 64
    c.train.steps = 400
    c.train.eval_every = 50
    c.train.monitor = "auc"
    return c
