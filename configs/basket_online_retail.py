"""Online Retail II: what will be in the next basket of a customer?

    python experiments/online_retail.py RAW/online-retail/lines.parquet data/online-retail.parquet
    clickflax prepare log --raw data/online-retail.parquet --out data/online-retail --columns \\
        sequence=customer,time=time,item=code,action=action,price=price,quantity=quantity,invoice=invoice,country=country
    clickflax train --config=configs/basket_online_retail.py --workdir=runs/basket_online_retail
    clickflax evaluate --run runs/basket_online_retail

The action is not read: that of a purchase tells whether it will come back.

NDCG@10 0.259, the mean of three seeds (own counts: 0.266), after 314 s of training on one core
(experiments/tasks.md).
"""

from clickflax.config import default


def get_config():
    c = default()
    c.data.path = "data/online-retail"
    c.tasks = ("basket",)
    c.task_where = ("action=buy|return",)  # what is bought, not what is cancelled
    c.data.variables = ("item", "price", "quantity", "gap", "country")
    c.data.quantiles = ("price=20", "quantity=20")
    c.data.chain = "invoice"
    c.data.split = "time"
    c.data.validation_from = "2010-09-15"
    c.data.test_from = "2010-10-15"
    c.data.window = "sliding"
    c.data.stride = 100
    c.data.position_from = "start"
    c.model.max_len = 200
    c.model.repeat = True  # customers buy the same things again
    c.model.norm = "pre"
    c.model.dropout = 0.2
    c.optim.schedule = "cosine"
    c.train.batch_size = 64
    c.train.steps = 400
    c.train.eval_every = 50
    c.eval.filter_seen = False
    return c
