"""How the papers measure, by name: the knobs to set before a number is compared with theirs.

c = follow(default(), "turning_dross")
"""

from typing import Any

import ml_collections

LEAVE_ONE_OUT: dict[str, Any] = {
    "data.split": "leave_one_out",
    "eval.filter_seen": True,
    "eval.negatives": 0,
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    # Klenitskiy and Vasilev, Turning Dross Into Gold Loss, 2023: everyone has a validation item;
    # nobody trains on it.
    "turning_dross": {**LEAVE_ONE_OUT, "data.validation_users": -1},
    # Petrov and Macdonald, A Systematic Review and Replicability Study of BERT4Rec, 2022: 2,048
    # users have a validation item, the others train on it.
    "replicability": {**LEAVE_ONE_OUT, "data.validation_users": 2048},
    # The same study among 100 negatives: drawn by popularity from all items, then left out where
    # the user has had them, which leaves fewer, and higher numbers.
    "replicability_sampled": {
        **LEAVE_ONE_OUT,
        "data.validation_users": 2048,
        "eval.negatives": 100,
        "eval.drawn": "popularity",
        "eval.unseen": False,
    },
    # Petrov and Macdonald, gSASRec, 2023.
    "gsasrec": {**LEAVE_ONE_OUT, "data.validation_users": 512},
    # Sun et al., BERT4Rec, 2019: among 100 negatives that are drawn by popularity. Their code also
    # trains on the validation item (data.validation_users=0), and its popularity counts the test.
    "bert4rec": {
        **LEAVE_ONE_OUT,
        "data.validation_users": -1,
        "eval.negatives": 100,
        "eval.drawn": "popularity",
    },
    # RecBole's `uni50` with `RS: [4, 1, 1]`, `order: TO` and `group_by: None`: all events in the
    # order of their times, four sixths for the training, one for the test, whose items of a user
    # are ranked in one list, with 50 negatives for each. RecBole scores each of them, and its
    # negatives, after all the events before it; here all have the history before the test. As
    # for RecBole's sequential models (`repeatable: True`), negatives may have been seen.
    "uni50": {
        "data.split": "time",
        "data.validation_from": "4/6",
        "data.test_from": "5/6",
        "data.validation_users": -1,
        "eval.filter_seen": False,
        "eval.negatives": 50,
        "eval.drawn": "uniform",
    },
    # Wu et al., SR-GNN, 2019: every prefix of the sessions of the test file; what was seen stays.
    # How many sessions choose the training they leave open.
    "sr_gnn": {
        "data.split": "parts_each",
        "data.validation_users": 4000,
        "eval.filter_seen": False,
        "eval.negatives": 0,
        "eval.cutoffs": (5, 10, 20),
    },
}


def follow(config: ml_collections.ConfigDict, protocol: str) -> ml_collections.ConfigDict:
    """The config, measured as a paper does."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"{protocol!r} is not one of the protocols {sorted(PROTOCOLS)}.")
    config.update_from_flattened_dict(PROTOCOLS[protocol])
    return config
