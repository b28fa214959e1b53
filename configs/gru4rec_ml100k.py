"""GRU4Rec on MovieLens-100K, leave-one-out: one layer of gated recurrent units, exact softmax.

    clickflax prepare ml-100k --raw RAW --out data/ml-100k
    clickflax train --config=configs/gru4rec_ml100k.py --workdir=runs/gru4rec_ml100k
    clickflax evaluate --run runs/gru4rec_ml100k

Test NDCG@10 0.0792 ± 0.0079, R@10 0.1548 ± 0.0184, every item ranked, seen ones filtered (the best
of 15 validations; the mean of three seeds and its 95 % interval by Student's t; 210 to 225 s for
each on one core of an Intel Xeon or AMD EPYC that other work shared).
"""

from clickflax.config import default, follow, vary


def get_config():
    c = follow(vary(default(), "gru4rec"), "turning_dross")
    c.data.path = "data/ml-100k"
    c.data.window = "random"
    c.model.dropout = 0.5
    c.optim.schedule = "cosine"
    c.train.batch_size = 64
    c.train.steps = 1500
    c.train.eval_every = 100
    return c
