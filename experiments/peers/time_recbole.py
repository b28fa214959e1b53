"""Times a training step of RecBole's BERT4Rec or SASRec. Prints one JSON line."""

import pathlib
import tempfile
import time

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from experiments.peers import common

MODELS = {"bert4rec": "BERT4Rec", "sasrec": "SASRec"}


def write_atomic_file(source: str, folder: str) -> None:
    """Writes the events as RecBole's atomic file, with positions as times."""
    target = pathlib.Path(folder, "peer", "peer.inter")
    target.parent.mkdir()
    users, items = common.read_events(source)
    rows = np.stack([users, items, common.positions(users) + 1], 1)
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt(target, rows, "%d", "\t", header=header, comments="")


def main():
    parser = common.parser_of(__doc__)
    common.add_accelerator(parser)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_atomic_file(flags.data, folder)
        knobs = {
            "data_path": folder,
            "train_neg_sample_args": None,
            "MAX_ITEM_LIST_LENGTH": flags.max_len,
            "hidden_size": flags.width,
            "inner_size": 4 * flags.width,
            "n_layers": flags.layers,
            "n_heads": flags.heads,
            "hidden_dropout_prob": common.DROPOUT,
            "attn_dropout_prob": common.DROPOUT,
            "mask_ratio": common.MASKED,
            "train_batch_size": flags.batch,
            "use_gpu": flags.accelerator == "gpu",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "show_progress": False,
        }
        config = Config(model=MODELS[flags.model], dataset="peer", config_dict=knobs)
        init_seed(1, True)
        start = time.perf_counter()
        dataset = create_dataset(config)
        train, _, _ = data_preparation(config, dataset)
        prepare_s = common.seconds_since(start)
        model = get_model(MODELS[flags.model])(config, train.dataset).to(config["device"])
        optimizer = torch.optim.Adam(model.parameters(), common.LEARNING_RATE)
        model.train()
        seconds = []
        for _, batch in zip(range(flags.steps), train, strict=False):
            start = time.perf_counter()
            optimizer.zero_grad()
            model.calculate_loss(batch.to(config["device"])).backward()
            optimizer.step()
            if flags.accelerator == "gpu":
                torch.cuda.synchronize()
            seconds.append(common.seconds_since(start))
    step_s = float(np.median(seconds[2:]))
    numbers = {
        "loss": "softmax over the catalog",
        "step_s": step_s,
        "train_rows_per_s": flags.batch / step_s,
        "rows_per_epoch": len(train.dataset),
        "prepare_s": prepare_s,
    }
    common.report(flags, "recbole", ("recbole", "torch"), numbers)


if __name__ == "__main__":
    main()
