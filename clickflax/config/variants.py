"""Models by their published names: the knobs in which they differ from the default.

c = vary(default(), "gsasrec")

What is done otherwise here stands beside each; so is, in all, how parameters begin where PyTorch's
or Keras' own way is meant. Seen items, splits and candidates are those of protocols.py; the length
of a training is that of a config.
"""

from typing import Any

import ml_collections

from clickflax.config.default import default, knobs

ADAM = {"optim.weight_decay": 0.0, "optim.clip_norm": 0.0}
FIRST_POSITION = {"data.position_from": "start"}

BERT = {
    "tasks": ("masked_item",),
    "model.norm": "post",
    "model.output": "dense",
    "model.output_bias": True,
    "model.embedding_norm": True,
}
CAUSAL = {
    "tasks": ("next_item",),
    "model.output": "none",
    "model.output_bias": False,
    "model.embedding_norm": False,
    "model.dropout": 0.2,
}
# The block that most use today for SASRec: the norm first, GELU, a wide feed-forward layer.
MODERN = {**CAUSAL, "model.norm": "pre", "model.attention_dropout": 0.2}
# Its own: attention asks what is normalised about what is not, and there is ReLU. Here attention
# has a dense layer behind it besides, as in PyTorch, and there is no dropout inside the
# feed-forward layers, as there is nowhere here.
ORIGINAL = {
    **CAUSAL,
    "model.heads": 1,
    "model.norm": "query",
    "model.activation": "relu",
    "model.attention_dropout": 0.2,
}
DROSS = {
    **ORIGINAL,
    **ADAM,
    **FIRST_POSITION,
    "model.dropout": 0.1,
    "model.attention_dropout": 0.1,
    "model.feed_forward": 64,
    "model.scale_embeddings": True,
}
# Zhai et al., HSTU, 2024, as its README has it for MovieLens: here LayerNorms have scales and
# biases, a last one stands before the scores, and each head has its own biases of distances.
HSTU = {
    **CAUSAL,
    **ADAM,
    **FIRST_POSITION,
    "optim.b2": 0.98,
    "loss.negatives": 128,
    "model.block": "hstu",
    "model.width": 50,
    "model.heads": 1,
    "model.scale_embeddings": True,
    "model.cosine": True,
    "model.temperature": 0.05,
}
# Petrov and Macdonald, A Systematic Review and Replicability Study of BERT4Rec, 2022: classes of
# Hugging Face, with 2 blocks. The feed-forward layers are as wide as the library has them: the
# study's code names 128 and 256, and does not pass them on. It pads on the left, so that the last
# event always has the same position, and lets events attend to the padding. It hides 20 events of a
# sequence at most.
STUDY = {
    **BERT,
    **ADAM,
    "model.dropout": 0.2,
    "model.attention_dropout": 0.2,
    "model.initializer": "truncated_normal",
    "model.max_len": 100,
    "model.feed_forward": 3072,
}

VARIANTS: dict[str, dict[str, Any]] = {
    # Sun et al., BERT4Rec, 2019, and FeiSun/BERT4Rec: windows that overlap by a half, of each ten
    # with random masks and one with the last event masked, 400,000 steps of 256. It also has types
    # of segments and a layer for the first state, on which nothing depends.
    "bert4rec": {
        **BERT,
        **FIRST_POSITION,
        "data.window": "sliding",
        "data.stride": 100,
        "mask.last": 1 / 11,
        "model.dropout": 0.2,
        "model.attention_dropout": 0.2,
        "model.initializer": "truncated_normal",
        "optim.learning_rate": 1e-4,
        "optim.schedule": "linear",
        "optim.eps": 1e-6,
        "optim.clip_norm": 5.0,
        "train.batch_size": 256,
    },
    # jaywonchung/BERT4Rec-VAE-Pytorch. It has no norm after the last block.
    "bert4rec_vae": {
        **BERT,
        **ADAM,
        "mask.ratio": 0.15,
        "mask.replace": "80/10/10",
        "model.width": 256,
        "model.heads": 4,
        "model.max_len": 100,
        "model.feed_forward": 1024,
        "model.norm": "pre",
        "model.output": "none",
        "model.tied": False,
        "model.embedding_norm": False,
    },
    # RecBole 1.2: a sequence for every event, which is the last one of it, and in half of them the
    # one that is masked. Here these are windows of 50; RecBole has the shorter prefixes, too.
    "bert4rec_recbole": {
        **BERT,
        **ADAM,
        **FIRST_POSITION,
        "data.window": "sliding",
        "data.stride": 1,
        "mask.last": 0.5,
        "model.max_len": 50,
        "model.dropout": 0.5,
        "model.attention_dropout": 0.5,
    },
    # RecTools 0.19, without its features of items. It has no norm after the last block.
    "bert4rec_rectools": {
        **BERT,
        **ADAM,
        "optim.b2": 0.98,
        "mask.ratio": 0.15,
        "mask.replace": "80/10/10",
        "model.width": 256,
        "model.heads": 4,
        "model.max_len": 100,
        "model.feed_forward": 1024,
        "model.norm": "pre",
        "model.output": "none",
        "model.output_bias": False,
        "model.embedding_norm": False,
        "model.initializer": "xavier",
        "model.dropout": 0.2,
        "model.attention_dropout": 0.2,
    },
    "bert4rec_study": STUDY,
    # Lan et al., ALBERT, 2020, as the study has it.
    "albert4rec": {
        **STUDY,
        "model.shared_layers": True,
        "model.max_len": 200,
        "model.width": 256,
        "model.widths": ("item=128",),
        "model.heads": 16,
        "model.feed_forward": 16384,
    },
    # He et al., DeBERTa, 2021, without absolute positions before the scores. The study leaves the
    # library's disentangled attention turned off.
    "deberta4rec": {
        **STUDY,
        "model.max_len": 200,
        "model.positions": "disentangled",
    },
    # Kang and McAuley, SASRec, 2018.
    "sasrec": {
        **ORIGINAL,
        **ADAM,
        "optim.b2": 0.98,
        "loss.name": "bce",
        "loss.negatives": 1,
        "loss.avoid": "history",
        "model.width": 50,
        "model.feed_forward": 50,
        "model.scale_embeddings": True,
    },
    "sasrec_modern": MODERN,
    # Klenitskiy and Vasilev, Turning Dross Into Gold Loss, 2023: the softmax over the catalog.
    "sasrec+": DROSS,
    # The same paper: 3,000 negatives, which it draws for each user, not for a step.
    "sasrec+_3000": {
        **DROSS,
        "loss.negatives": 3000,
        "loss.shared": True,
        "loss.avoid": "history",
    },
    # Petrov and Macdonald, gSASRec, 2023. Their PyTorch code has another table for the scores.
    "gsasrec": {
        **ORIGINAL,
        **ADAM,
        "loss.name": "gbce",
        "loss.negatives": 256,
        "loss.calibration": 0.75,
        "loss.avoid": "nothing",
        "model.width": 128,
        "model.feed_forward": 128,
        "model.dropout": 0.5,
        "model.attention_dropout": 0.5,
    },
    # The same paper: its loss with the Cloze.
    "gbert4rec": {
        **BERT,
        "loss.name": "gbce",
        "loss.negatives": 256,
        "loss.calibration": 0.75,
        "loss.avoid": "nothing",
    },
    # RecTools' eSASRec: the block of LiGR (Borisyuk et al., 2025) and sampled softmax. Theirs has
    # no biases in the feed-forward layers.
    "esasrec": {
        **MODERN,
        "loss.negatives": 256,
        "model.activation": "silu",
        "model.glu": True,
        "model.gate": True,
    },
    "hstu": HSTU,
    # With the times between events, which theirs takes up to the event that is asked for, not to
    # the last one that is known.
    "hstu_time": {
        **HSTU,
        "data.variables": ("item", "time"),
        "model.relative_time": True,
    },
    "hstu_large": {**HSTU, "model.layers": 8, "model.heads": 2},
    # Hidasi et al., GRU4Rec, 2016, with one table of items, and with the softmax over the catalog
    # in the place of its losses.
    "gru4rec": {
        **CAUSAL,
        "model.block": "gru",
        "model.layers": 1,
        "model.positions": "none",
    },
}


def vary(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """The config, of a published model.

    Raises ValueError for a name that is not known, and where a knob that variants set is not at its
    default: of two variants, or of what was changed before, something would be left.
    """
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is not one of the variants {sorted(VARIANTS)}.")
    here, plain = knobs(config), knobs(default())
    ours = {f"config.{knob}" for values in VARIANTS.values() for knob in values}
    changed = sorted(knob for knob in ours if here[knob] != plain[knob])
    if changed:
        raise ValueError(
            f"{changed[0]}={here[changed[0]]!r} is not its default: take the variant {variant!r} "
            "first, and then change knobs."
        )
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
