"""The published models of clickflax.config.variants on MovieLens-1M, trained for the same steps.

    clickflax prepare ml-1m --raw RAW --out data/ml-1m
    clickflax study run experiments/replicability.py --out studies/replicability --workers 2
    clickflax study table studies/replicability

There are five versions of BERT4Rec: of its authors, BERT4Rec-VAE, RecBole, RecTools and the
replicability study. This study compares all models after a short training; experiments/models.md
has longer ones. HSTU with times is left out, because sequences.txt has no times.
"""

import pathlib

from clickflax.config.variants import VARIANTS
from clickflax.study import Study

CONFIG = pathlib.Path(__file__).resolve().parents[1] / "configs" / "variant_ml1m.py"


def get_study() -> Study:
    """All published models, compared with today's usual SASRec."""
    return Study(
        question="How far do the published models come in the same number of steps?",
        configs={name: (f"{CONFIG}:{name}",) for name in VARIANTS if name != "hstu_time"},
        data={"MovieLens-1M": ("data.path=data/ml-1m",)},
        seeds=(0, 1, 2),
        baseline="sasrec_modern",
    )
