"""BERT4Rec on MovieLens-1M as it is best here: scores are cosines, and what was seen is told apart.

    clickflax prepare ml-1m --raw RAW --out data/ml-1m
    clickflax train --config=configs/bert4rec_cosine_ml1m.py --workdir=runs/bert4rec_cosine_ml1m
    clickflax evaluate --run runs/bert4rec_cosine_ml1m
    clickflax evaluate --run runs/bert4rec_cosine_ml1m --negatives 100 --drawn popularity

Test NDCG@10 0.1854, R@10 0.3217, every item ranked, seen ones filtered; 0.4914 and 0.7046 among 100
negatives drawn by popularity, 0.5133 and 0.7310 where those that a user has had are left out of the
100, as in the replicability study (the best of 15 validations, that of step 12,000; one seed,
3,552 s in all on one core of an AMD EPYC that other work shared).
"""

from clickflax.config import default, follow


def get_config():
    c = follow(default(), "turning_dross")
    c.data.path = "data/ml-1m"
    c.tasks = ("masked_item",)
    c.mask.ratio = 0.3
    c.model.width = 128
    c.model.heads = 4
    c.model.feed_forward = 512
    c.model.norm = "pre"
    c.model.cosine = True
    c.model.temperature = 0.07
    c.model.repeat = True
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 500
    c.train.batch_size = 64
    c.train.steps = 15_000
    c.train.eval_every = 1000
    return c
