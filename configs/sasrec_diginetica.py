"""SASRec on Diginetica, every prefix of a test session (SR-GNN: Wu et al., 2019).

    clickflax prepare sessions --raw diginetica --out data/diginetica
    clickflax train --config=configs/sasrec_diginetica.py --workdir=runs/sasrec_diginetica
    clickflax evaluate --run runs/sasrec_diginetica

Test P@20 (here recall@20) 54.43 %, MRR@20 19.43 %, every item ranked, seen ones, too (the best of
6 validations, that of step 2,500; one seed, 4,460 s in all on one core of an AMD EPYC that other
work shared).

The sessions are in the order of their days, and the catalog changes with these: a session weighs
half of one that comes 90,000 sessions later, which is about half of the training file. Where all
weigh alike (--config.data.half_life=), 3,000 steps reach 53.94 % and 19.29 %; with a temperature of
0.08 besides, 2,400 steps 53.63 % and 19.26 %, of 0.062, 3,600 steps 53.73 % and 19.09 %; with 0.1,
3,000 steps and, in the place of the softmax over the catalog, 4,096 negatives, 52.41 % and 18.96 %.
"""

from clickflax.config import default, follow, vary


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
