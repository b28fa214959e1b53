"""SASRec on YooChoose 1/64, every prefix of a test session (SR-GNN: Wu et al., 2019).

    clickflax prepare sessions --raw yoochoose-1-64 --out data/yoochoose-1-64
    clickflax train --config=configs/sasrec_yoochoose.py --workdir=runs/sasrec_yoochoose
    clickflax evaluate --run runs/sasrec_yoochoose

Test P@20 (here recall@20) 71.41 ± 0.25 %, MRR@20 31.15 ± 0.05 %, every item ranked, seen ones, too
(the best of 4 validations, the last; the mean of three seeds and its 95 % interval by Student's t;
457 to 714 s for each on one core of an Intel Xeon or AMD EPYC that other work shared).

Scores are cosines, as in NISER (Gupta et al., 2019), and items of the session have a score of their
own, as people come back to them.
"""

from clickflax.config import default, follow, vary


def get_config():
    c = follow(vary(default(), "sasrec_modern"), "sr_gnn")
    c.data.path = "data/yoochoose-1-64"
    c.model.max_len = 50
    c.model.cosine = True
    c.model.temperature = 0.07
    c.model.repeat = True
    c.model.dropout = 0.3
    c.model.attention_dropout = 0.1
    c.loss.negatives = 4096
    c.loss.shared = True
    c.optim.schedule = "cosine"
    c.train.batch_size = 512
    c.train.steps = 2000
    c.train.eval_every = 500
    c.train.monitor = "mrr@20"
    return c
