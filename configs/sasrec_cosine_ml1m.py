"""SASRec on MovieLens-1M as it is best here: scores are cosines, and what was seen is told apart.

    clickflax prepare ml-1m --raw RAW --out data/ml-1m
    clickflax train --config=configs/sasrec_cosine_ml1m.py --workdir=runs/sasrec_cosine_ml1m
    clickflax evaluate --run runs/sasrec_cosine_ml1m

Test NDCG@10 0.1952, R@10 0.3326, every item ranked, seen ones filtered (the best of 9 validations,
that of step 2,400; one seed, 3,503 s in all on one core of an Intel Xeon that other work shared).
"""

from clickflax.config import default, follow, vary


def get_config():
    c = follow(vary(default(), "sasrec_modern"), "turning_dross")
    c.data.path = "data/ml-1m"
    c.model.width = 128
    c.model.feed_forward = 512
    c.model.cosine = True
    c.model.temperature = 0.07
    c.model.repeat = True
    c.model.dropout = 0.3
    c.model.attention_dropout = 0.3
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 200
    c.train.steps = 2700
    c.train.eval_every = 300
    return c
