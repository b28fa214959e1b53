"""SASRec on Diginetica, every prefix of a test session (SR-GNN: Wu et al., 2019).

    clickflax prepare sessions --raw diginetica --out data/diginetica
    clickflax train --config=configs/sasrec_diginetica.py --workdir=runs/sasrec_diginetica
    clickflax evaluate --run runs/sasrec_diginetica

Test P@20 (here recall@20) 53.63 %, MRR@20 19.26 %, every item ranked, seen ones, too (the best of
6 validations, the last; one seed, 1,710 s in all on one core of an Intel Xeon that other work
shared).

With a temperature of 0.07 and 3,000 steps it is 53.94 % and 19.29 %, with 0.062 and 3,600 steps
53.73 % and 19.09 %; with 0.1, 3,000 steps and, in the place of the softmax over the catalog, 4,096
negatives, 52.41 % and 18.96 %.
"""

from clickflax.config import default
from clickflax.protocols import follow
from clickflax.variants import vary


def get_config():
    c = follow(vary(default(), "sasrec_modern"), "sr_gnn")
    c.data.path = "data/diginetica"
    c.data.half_life = "90000"
    c.model.max_len = 50
    c.model.width = 128
    c.model.feed_forward = 512
    c.model.positions = "relative"
    c.model.cosine = True
    c.model.temperature = 0.07
    c.model.repeat = True
    c.model.dropout = 0.3
    c.model.attention_dropout = 0.1
    c.optim.schedule = "cosine"
    c.train.batch_size = 512
    c.train.steps = 3000
    c.train.eval_every = 500
    c.train.monitor = "mrr@20"
    return c
