"""Will a session in a simulated shop end in a purchase? Asked at every event before it.

    clickflax simulate --out data/shop --sequences 100000
    clickflax train --config=configs/purchase_simulated.py --workdir=runs/purchase_simulated
    clickflax evaluate --run runs/purchase_simulated

Test AUC 0.796 (152,677 labels of sessions from 2025-03-20 on) after 70 s of training on two cores;
the shop's own probabilities have 0.813:

    python experiments/truth.py runs/purchase_simulated/test.json
"""

from clickflax.config import default


def get_config():
    c = default()
    c.data.path = "data/shop"
    c.tasks = ("purchase",)
    c.data.variables = ("item", "action")
    c.data.split = "sequence_time"
    c.data.validation_from = "2025-03-15"
    c.data.test_from = "2025-03-20"
    c.data.position_from = "start"
    c.model.max_len = 50
    c.model.norm = "pre"
    c.model.dropout = 0.2
    c.optim.schedule = "cosine"
    c.train.steps = 2000
    c.train.eval_every = 250
    c.train.monitor = "auc"
    return c
