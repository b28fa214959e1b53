"""Times RecTools' BERT4Rec or SASRec: training and recommendation. Prints one JSON line."""

import time
import warnings

import pandas as pd
from pytorch_lightning import Callback, Trainer
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel

from experiments.peers import common


class Clock(Callback):
    """Times at which training steps start, and the end of the last one.

    RecTools copies its trainer with all callbacks, so the times belong to the class.
    """

    times = []

    def on_train_batch_start(self, *_):
        self.times.append(time.perf_counter())

    def on_train_end(self, *_):
        self.times.append(time.perf_counter())


def main():
    warnings.filterwarnings("ignore")
    parser = common.parser_of(__doc__)
    common.add_users(parser)
    common.add_accelerator(parser)
    flags = parser.parse_args()
    users, items = common.read_events(flags.data)
    moment = pd.Timestamp("2020-01-01") + pd.to_timedelta(common.positions(users), unit="s")
    columns = {"user_id": users, "item_id": items, "datetime": moment, "weight": 1}
    dataset = Dataset.construct(pd.DataFrame(columns))
    knobs = {
        "session_max_len": flags.max_len,
        "n_factors": flags.width,
        "n_blocks": flags.layers,
        "n_heads": flags.heads,
        "dropout_rate": common.DROPOUT,
        "batch_size": flags.batch,
        "lr": common.LEARNING_RATE,
        "loss": "softmax",
        "get_trainer_func": lambda: Trainer(
            max_steps=flags.steps,
            accelerator=flags.accelerator,
            callbacks=[Clock()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ),
    }
    if flags.model == "bert4rec":
        model = BERT4RecModel(mask_prob=common.MASKED, **knobs)
    else:
        model = SASRecModel(**knobs)
    start = time.perf_counter()
    model.fit(dataset)
    fit_s = common.seconds_since(start)
    step_s = common.median_step(Clock.times, skip=2)
    chosen = common.in_order(users)[: flags.users]
    start = time.perf_counter()
    lists = model.recommend(users=chosen, dataset=dataset, k=common.TOP_K, filter_viewed=True)
    recommend_s = common.seconds_since(start)
    listed = (lists[name].to_numpy() for name in ("user_id", "item_id"))
    common.check_lists(users, items, *listed, count=len(chosen))
    numbers = {
        "loss": "softmax over the catalog",
        "step_s": step_s,
        "train_sequences_per_s": flags.batch / step_s,
        "fit_s": fit_s,
        "recommend_users_per_s": len(chosen) / recommend_s,
    }
    common.report(flags, "rectools", ("rectools", "torch"), numbers)


if __name__ == "__main__":
    main()
