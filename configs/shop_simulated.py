"""Three questions on a simulated shop, to one model: what comes next, will it end in a purchase,
will what is bought come back?

    clickflax simulate --out data/large_shop --sequences 1000000
    clickflax train --config=configs/shop_simulated.py --workdir=runs/shop_simulated
    clickflax evaluate --run runs/shop_simulated
    python experiments/truth.py runs/shop_simulated/test.json    # and what is possible

Test AUC of purchases 0.812 (possible: 0.817), of returns 0.733 (0.742), NDCG@10 of the next item
0.423 (0.440), after 1,895 s of training on one core (experiments/simulated.md).
"""

from clickflax.config import default


def get_config():
    c = default()
    c.data.path = "data/large_shop"
    c.tasks = ("purchase", "returns", "next_item")
    c.task_weights = (1.0, 1.0, 3.0)  # with 0.3 the next item learns late
    c.data.variables = ("item", "action", "price", "item.category")
    c.data.variables += ("count.action=cart", "count.action=view")
    c.data.quantiles = ("price=20",)
    c.data.split = "sequence_time"
    c.data.validation_from = "2025-03-15"
    c.data.test_from = "2025-03-20"
    c.data.validation_users = 5000
    c.data.position_from = "start"
    c.model.output = "none"
    c.model.repeat = True  # nobody views an item twice
    c.model.max_len = 50
    c.model.width = 128  # with 64 the next item is better alone
    c.model.norm = "pre"
    c.model.dropout = 0.05
    c.optim.learning_rate = 3e-3
    c.optim.schedule = "cosine"
    c.train.steps = 8000
    c.train.eval_every = 1000
    c.train.monitor = "returns/auc"
    return c
