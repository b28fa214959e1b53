"""The loss of gSASRec (Petrov and Macdonald, 2023) on MovieLens-1M, leave-one-out: gBCE beside 256
negatives, for the model of sasrec_ml1m.py and with biases.

    clickflax prepare ml-1m --raw RAW --out data/ml-1m
    clickflax train --config=configs/gsasrec_ml1m.py --workdir=runs/gsasrec_ml1m
    clickflax evaluate --run runs/gsasrec_ml1m

Test NDCG@10 0.1831, R@10 0.3174, every item ranked, seen ones filtered (the best of 12 validations,
that of step 3,000; one seed, 2,598 s in all on one core of an Intel Xeon).

The paper has no biases. Here they begin at the log-odds of a yes.
"""

from clickflax.config import default, follow, vary


def get_config():
    c = follow(vary(default(), "sasrec_modern"), "turning_dross")
    c.data.path = "data/ml-1m"
    c.loss.name = "gbce"
    c.loss.negatives = 256
    c.model.output_bias = True
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 200
    c.train.steps = 3600
    c.train.eval_every = 300
    return c
