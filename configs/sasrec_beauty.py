"""SASRec with the exact softmax on Amazon Beauty, as BERT4Rec has it.

clickflax prepare pairs --raw sequences.txt --out data/beauty
clickflax train --config=configs/sasrec_beauty.py --workdir=runs/sasrec_beauty
clickflax evaluate --run runs/sasrec_beauty
"""

from clickflax.config import default
from clickflax.protocols import follow
from clickflax.variants import vary


def get_config():
    c = follow(vary(default(), "sasrec+"), "turning_dross")
    c.data.path = "data/beauty"
    c.model.max_len = 50
    c.model.dropout = 0.5
    c.model.attention_dropout = 0.5
    c.optim.schedule = "cosine"
    c.train.batch_size = 256
    c.train.steps = 3000
    c.train.eval_every = 300
    return c
