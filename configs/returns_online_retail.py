"""Online Retail II: which lines of an invoice will be cancelled by the customer later?

    python experiments/online_retail.py RAW/online-retail/lines.parquet data/online-retail.parquet
    clickflax prepare log --raw data/online-retail.parquet --out data/online-retail --columns \\
        sequence=customer,time=time,item=code,action=action,price=price,quantity=quantity,invoice=invoice,country=country
    clickflax train --config=configs/returns_online_retail.py --workdir=runs/returns_online_retail
    clickflax evaluate --run runs/returns_online_retail

Test AUC 0.783, the mean of three seeds (trees: 0.789), after 224 s of training on one core
(experiments/tasks.md).
What was cancelled until the end of the log counts, so that late lines have had less time for it.
"""

from clickflax.config import default


def get_config():
    c = default()
    c.data.path = "data/online-retail"
    c.tasks = ("returns",)
    c.data.variables = ("item", "action", "price", "quantity", "gap", "country", "session", "hour")
    c.data.variables += ("weekday", "count.item", "since.item", "count.session")
    c.data.variables += ("count.action=cancel", "since.action=cancel")
    c.data.variables += ("count.item&action=cancel", "since.item&action=cancel")
    c.data.quantiles = ("price=20", "quantity=20")
    c.data.chain = "invoice"
    c.data.split = "time"
    c.data.validation_from = "2010-09-15"
    c.data.test_from = "2010-10-15"
    c.data.window = "sliding"
    c.data.stride = 100
    c.data.position_from = "start"
    c.mask.unknown = 0.5
    c.model.max_len = 200
    c.model.norm = "pre"
    c.model.dropout = 0.3
    c.optim.schedule = "cosine"
    c.train.batch_size = 64
    c.train.steps = 800
    c.train.eval_every = 100
    c.train.monitor = "auc"
    return c
