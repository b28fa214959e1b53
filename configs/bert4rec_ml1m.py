"""BERT4Rec on MovieLens-1M, leave-one-out, trained on all but the last two events of a user.

    clickflax prepare ml-1m --raw RAW --out data/ml-1m
    clickflax train --config=configs/bert4rec_ml1m.py --workdir=runs/bert4rec_ml1m
    clickflax evaluate --run runs/bert4rec_ml1m
    clickflax evaluate --run runs/bert4rec_ml1m --negatives 100 --drawn popularity

Test NDCG@10 0.1628, R@10 0.2914, every item ranked, seen ones filtered; 0.4745 and 0.6917 among 100
negatives drawn by popularity (the best of 18 validations, the last; one seed, 2,971 s in all on one
core of an Intel Xeon). With LayerNorm after the sums, as BERT has it, and a fifth hidden: 0.1581.
"""

from clickflax.config import default, follow


def get_config():
    c = follow(default(), "turning_dross")
    c.data.path = "data/ml-1m"
    c.tasks = ("masked_item",)
    c.mask.ratio = 0.3
    c.model.norm = "pre"
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 500
    c.train.batch_size = 64
    c.train.steps = 18_000
    c.train.eval_every = 1000
    return c
