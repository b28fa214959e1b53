"""Tmall 2014: will this day of a user end in a purchase? Asked at every event before the first.

    clickflax prepare log --raw tmall-2014/events.csv --out data/tmall --time-format %m-%d \\
        --columns sequence=user_id,time=visit_datetime,item=brand_id,action=type
    clickflax train --config=configs/purchase_tmall.py --workdir=runs/purchase_tmall
    clickflax evaluate --run runs/purchase_tmall

The log tells days without a year (1900 stands for it), and the order of events within a day is that
of the file. Actions are 0 click, 1 buy, 2 favourite, 3 cart.

Test AUC 0.612, the mean of three seeds (trees: 0.597), after 114 s of training on one core
(experiments/tasks.md).
"""

from clickflax.config import default


def get_config():
    c = default()
    c.data.path = "data/tmall"
    c.tasks = ("purchase",)
    c.label.buy = "1"
    c.data.variables = ("item", "action", "gap", "session", "weekday")
    c.data.variables += ("count.action=0", "count.action=1", "count.action=2", "count.action=3")
    c.data.variables += ("since.action=1", "since.action=2", "since.action=3")
    c.data.variables += ("count.item", "count.item&action=1", "count.item&action=3", "since.item")
    c.data.variables += ("count.session", "count.session&action=2", "count.session&action=3")
    c.data.chain = "12h"  # a day; the user's earlier ones are read too
    c.data.split = "time"
    c.data.validation_from = "1900-07-20"
    c.data.test_from = "1900-08-01"
    c.data.window = "sliding"
    c.data.stride = 64
    c.data.position_from = "start"
    c.mask.unknown = 0.9  # there are few events of a brand and user: they would be learned by heart
    c.model.max_len = 128
    c.model.norm = "pre"
    c.model.dropout = 0.3
    c.optim.schedule = "cosine"
    c.train.batch_size = 64
    c.train.steps = 400
    c.train.eval_every = 50
    c.train.monitor = "auc"
    return c
