"""Times RePlay's BERT4Rec or SASRec: training and recommendation. Prints one JSON line."""

import logging
import pathlib
import tempfile
import time
import warnings

import lightning
import pandas as pd
import torch
from replay.data import (
    Dataset,
    FeatureHint,
    FeatureInfo,
    FeatureSchema,
    FeatureSource,
    FeatureType,
)
from replay.data.nn import (
    ParquetModule,
    SequenceTokenizer,
    TensorFeatureInfo,
    TensorFeatureSource,
    TensorSchema,
)
from replay.data.nn.utils import groupby_sequences
from replay.models.nn.sequential import Bert4Rec
from replay.models.nn.sequential.bert4rec import (
    Bert4RecPredictionDataset,
    Bert4RecTrainingDataset,
)
from replay.models.nn.sequential.callbacks import PandasPredictionCallback
from replay.models.nn.sequential.postprocessors import RemoveSeenItems
from replay.nn.agg import SumAggregator
from replay.nn.embedding import SequenceEmbedding
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import PandasTopItemsCallback
from replay.nn.lightning.postprocessor import SeenItemsFilter
from replay.nn.loss import CE
from replay.nn.mask import DefaultAttentionMask
from replay.nn.sequential import (
    LengthBucketedQueryEncoder,
    PositionAwareAggregator,
    SasRec,
    SasRecBody,
    SasRecTransformerLayer,
)
from replay.nn.transform.template import make_default_sasrec_transforms
from replay.preprocessing import LabelEncoder, LabelEncodingRule
from torch.utils.data import DataLoader

from experiments.peers import common

USERS_AT_ONCE = 256  # in a batch of recommendation, as RecTools' default
COLUMNS = {"query_column": "user_id", "item_column": "item_id", "rating_column": "score"}


class Clock(lightning.Callback):
    """Times at which training steps start, and the end of the last one."""

    def __init__(self):
        self.times = []

    def on_train_batch_start(self, *_):
        self.times.append(time.perf_counter())

    def on_train_end(self, *_):
        self.times.append(time.perf_counter())


def trainer(flags, **more):
    """A Lightning trainer without logs and checkpoints."""
    return lightning.Trainer(
        accelerator=flags.accelerator,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **more,
    )


class MaskedModel:
    """RePlay's only BERT4Rec, that of `replay.models.nn.sequential`; its embeddings are tied."""

    def __init__(self, flags, frame, folder):
        self.flags = flags
        features = FeatureSchema(
            [
                FeatureInfo("user_id", FeatureType.CATEGORICAL, FeatureHint.QUERY_ID),
                FeatureInfo("item_id", FeatureType.CATEGORICAL, FeatureHint.ITEM_ID),
                FeatureInfo("timestamp", FeatureType.NUMERICAL, FeatureHint.TIMESTAMP),
            ]
        )
        schema = TensorSchema(
            TensorFeatureInfo(
                "item_id_seq",  # not "items", which is a method of torch's ModuleDict
                FeatureType.CATEGORICAL,
                is_seq=True,
                feature_hint=FeatureHint.ITEM_ID,
                embedding_dim=flags.width,
                feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
            )
        )
        self.tokenizer = SequenceTokenizer(schema, allow_collect_to_master=True)
        dataset = Dataset(feature_schema=features, interactions=frame)
        self.sequences = self.tokenizer.fit_transform(dataset)
        users = self.sequences.get_all_query_ids()[: flags.users]
        self.chosen = self.sequences.filter_by_query_id(users)
        self.model = Bert4Rec(
            schema,
            block_count=flags.layers,
            head_count=flags.heads,
            hidden_size=flags.width,
            max_seq_len=flags.max_len,
            dropout_rate=common.DROPOUT,
            enable_embedding_tying=True,
            loss_type="CE",
        )

    def fit(self, fitter):
        rows = Bert4RecTrainingDataset(self.sequences, self.flags.max_len, mask_prob=common.MASKED)
        fitter.fit(self.model, DataLoader(rows, self.flags.batch, shuffle=True))

    def recommend(self):
        filters = [RemoveSeenItems(self.chosen)]
        top = PandasPredictionCallback(common.TOP_K, **COLUMNS, postprocessors=filters)
        dataset = Bert4RecPredictionDataset(self.chosen, self.flags.max_len)
        rows = DataLoader(dataset, USERS_AT_ONCE)
        predictor = trainer(self.flags, callbacks=[top])
        predictor.predict(self.model, rows, return_predictions=False)
        return self.tokenizer.query_and_item_id_encoder.inverse_transform(top.get_result())


class CausalModel:
    """RePlay's newer SASRec, that of `replay.nn.sequential`."""

    def __init__(self, flags, frame, folder):
        self.flags = flags
        self.folder = folder
        self.encoder = LabelEncoder([LabelEncodingRule("user_id"), LabelEncodingRule("item_id")])
        rows = groupby_sequences(self.encoder.fit_transform(frame), "user_id", "timestamp")
        chosen = rows.head(flags.users)
        rows.to_parquet(folder / "train.parquet")
        chosen.assign(seen_ids=chosen.item_id).to_parquet(folder / "predict.parquet")
        self.items = frame.item_id.nunique()
        self.schema = TensorSchema(
            TensorFeatureInfo(
                "item_id",
                FeatureType.CATEGORICAL,
                is_seq=True,
                feature_hint=FeatureHint.ITEM_ID,
                embedding_dim=flags.width,
                cardinality=self.items,
                padding_value=self.items,
            )
        )
        longest = int(chosen.item_id.map(len).max())
        self.shapes = {
            "train": {"item_id": {"shape": flags.max_len + 1, "padding": self.items}},
            "predict": {
                "user_id": {},
                "item_id": {"shape": flags.max_len, "padding": self.items},
                "seen_ids": {"shape": longest, "padding": -1},
            },
        }
        encoder = SasRecTransformerLayer(
            flags.width,
            flags.heads,
            flags.layers,
            common.DROPOUT,
            "relu",
            hidden_dim=4 * flags.width,
        )
        if flags.bucket:
            encoder = LengthBucketedQueryEncoder(encoder, flags.bucket)
        aggregator = SumAggregator(flags.width)
        body = SasRecBody(
            embedder=SequenceEmbedding(schema=self.schema),
            embedding_aggregator=PositionAwareAggregator(aggregator, flags.max_len, common.DROPOUT),
            attn_mask_builder=DefaultAttentionMask("item_id", flags.heads),
            encoder=encoder,
            output_normalization=torch.nn.LayerNorm(flags.width),
        )
        self.model = LightningModule(SasRec(body, CE(ignore_index=self.items)))

    def data(self, split, batch):
        """The data module of a split, which reads its Parquet file."""
        path = {f"{split}_path": str(self.folder / f"{split}.parquet")}
        transforms = make_default_sasrec_transforms(self.schema)
        return ParquetModule(batch, self.shapes, transforms, **path)

    def fit(self, fitter):
        fitter.fit(self.model, datamodule=self.data("train", self.flags.batch))

    def recommend(self):
        filters = [SeenItemsFilter(self.items, "seen_ids")]
        top = PandasTopItemsCallback(common.TOP_K, **COLUMNS, postprocessors=filters)
        rows = self.data("predict", USERS_AT_ONCE)
        predictor = trainer(self.flags, callbacks=[top])
        predictor.predict(self.model, datamodule=rows, return_predictions=False)
        return self.encoder.inverse_transform(top.get_result())


MODELS = {"bert4rec": MaskedModel, "sasrec": CausalModel}


def main():
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    parser = common.parser_of(__doc__)
    common.add_users(parser)
    common.add_accelerator(parser)
    parser.add_argument(
        "--bucket", type=int, default=0, help="SASRec: groups rows by length; 0: off, the default"
    )
    flags = parser.parse_args()
    users, items = common.read_events(flags.data)
    columns = {"user_id": users, "item_id": items, "timestamp": common.positions(users)}
    frame = pd.DataFrame(columns)
    flags.users = min(flags.users, frame.user_id.nunique())
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        peer = MODELS[flags.model](flags, frame, pathlib.Path(folder))
        prepare_s = common.seconds_since(start)
        start = time.perf_counter()
        steps = {"max_steps": flags.steps + 1, "limit_val_batches": 0}
        peer.fit(trainer(flags, callbacks=[clock], **steps))
        fit_s = common.seconds_since(start)
        start = time.perf_counter()
        lists = peer.recommend()
        recommend_s = common.seconds_since(start)
    listed = (lists[name].to_numpy().astype("int64") for name in ("user_id", "item_id"))
    common.check_lists(users, items, *listed, count=flags.users)
    step_s = common.median_step(clock.times, skip=1)
    numbers = {
        "loss": "softmax over the catalog",
        "threads": torch.get_num_threads(),
        "step_s": step_s,
        "train_sequences_per_s": flags.batch / step_s,
        "prepare_s": prepare_s,
        "fit_s": fit_s,
        "recommend_users_per_s": flags.users / recommend_s,
    }
    common.report(flags, "replay", ("replay-rec", "torch", "lightning"), numbers)


if __name__ == "__main__":
    main()
