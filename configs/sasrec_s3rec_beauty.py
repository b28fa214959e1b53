"""SASRec with the exact softmax on the Beauty of S3-Rec, with the categories and brands of items.

    clickflax prepare sequences --raw Beauty.txt --attributes Beauty_item2attributes.json \\
        --out data/s3rec-beauty
    clickflax train --config=configs/sasrec_s3rec_beauty.py --workdir=runs/sasrec_s3rec_beauty
    clickflax evaluate --run runs/sasrec_s3rec_beauty

Test NDCG@10 0.0569 ± 0.0010, R@10 0.0974 ± 0.0016, every item ranked, seen ones filtered (the best
of 10 validations; the mean of three seeds and its 95 % interval by Student's t; 664 to 722 s for
each on one core of an Intel Xeon or AMD EPYC that other work shared).
"""

from clickflax.config import default, follow, vary


def get_config():
    c = follow(vary(default(), "sasrec_modern"), "turning_dross")
    c.data.path = "data/s3rec-beauty"
    c.data.variables = ("item", "item.attributes")
    c.model.max_len = 50
    c.model.dropout = 0.5
    c.model.attention_dropout = 0.5
    c.optim.schedule = "cosine"
    c.train.batch_size = 256
    c.train.steps = 3000
    c.train.eval_every = 300
    return c
