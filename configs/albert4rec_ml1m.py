"""ALBERT4Rec on MovieLens-1M: BERT4Rec whose two layers are one, with a narrower table of items.

    clickflax prepare ml-1m --raw RAW --out data/ml-1m
    clickflax train --config=configs/albert4rec_ml1m.py --workdir=runs/albert4rec_ml1m
    clickflax evaluate --run runs/albert4rec_ml1m

Test NDCG@10 0.1810, R@10 0.3207, every item ranked, seen ones filtered (the best of 18 validations,
that of step 15,000; one seed, 7,211 s in all on one core of an Intel Xeon that other work shared).
"""

from clickflax.config import default, follow


def get_config():
    c = follow(default(), "turning_dross")
    c.data.path = "data/ml-1m"
    c.tasks = ("masked_item",)
    c.mask.ratio = 0.3
    c.model.shared_layers = True
    c.model.width = 128
    c.model.widths = ("item=64",)
    c.model.heads = 4
    c.model.feed_forward = 512
    c.model.norm = "pre"
    c.model.cosine = True
    c.model.temperature = 0.07
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 500
    c.train.batch_size = 64
    c.train.steps = 18_000
    c.train.eval_every = 1000
    return c
