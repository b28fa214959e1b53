"""Times SASRec or BERT4Rec of KerasRS and KerasHub layers on JAX. Prints one JSON line."""

import os
import time

os.environ["KERAS_BACKEND"] = "jax"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import keras_hub
import keras_rs
import numpy as np
from keras import layers, ops

from experiments.peers import common

USERS_AT_ONCE = 256  # in a batch of recommendation, as RecTools' default
IMPORTS_RSS_MB = common.peak_mb()  # KerasHub imports TensorFlow, too
PADDING = 0


class Clock(keras.callbacks.Callback):
    """Ends of the training steps; with this hook, Keras waits for each step."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())


class UnseenRetrieval(keras_rs.layers.BruteForceRetrieval):
    """Retrieval without the items that are marked as seen, which the layer has no option for."""

    def compute_score(self, query_embedding, candidate_embedding):
        query, seen = query_embedding
        scores = super().compute_score(query, candidate_embedding)
        return ops.where(seen, float("-inf"), scores)


def read_sequences(path):
    """Item ids, and the items of each user, in the order of the file, as indices from 1."""
    users, items = common.read_events(path)
    ids, items = np.unique(items, return_inverse=True)
    _, first, users = np.unique(users, return_index=True, return_inverse=True)
    users = np.argsort(np.argsort(first))[users]
    order = np.argsort(users, kind="stable")
    bounds = np.cumsum(np.bincount(users))[:-1]
    return ids, np.split(items[order].astype(np.int32) + 1, bounds)


def padded(sequences, length):
    """Rows of the last `length` items, padded at the end."""
    rows = np.full((len(sequences), length), PADDING, np.int32)
    for row, items in zip(rows, sequences, strict=True):
        latest = items[-length:]
        row[: len(latest)] = latest
    return rows


class TrainingBatches(keras.utils.PyDataset):
    """Batches of shuffled sequences: one that compiles, and `steps` more."""

    def __init__(self, sequences, flags, mask):
        super().__init__()
        self.flags = flags
        self.mask = mask
        self.rng = np.random.default_rng(0)
        self.rows = padded(sequences, flags.max_len + (flags.model == "sasrec"))
        epochs = -(-(flags.steps + 1) * flags.batch // len(self.rows))
        orders = [self.rng.permutation(len(self.rows)) for _ in range(epochs)]
        self.order = np.concatenate(orders)

    def __len__(self):
        return self.flags.steps + 1

    def __getitem__(self, step):
        size = self.flags.batch
        rows = self.rows[self.order[step * size : (step + 1) * size]]
        if self.flags.model == "sasrec":
            return rows[:, :-1], rows[:, 1:], (rows[:, 1:] != PADDING).astype(np.float32)
        noise = np.where(rows == PADDING, 2, self.rng.random(rows.shape))
        positions = np.argsort(noise, 1)[:, : masked_positions(self.flags)].astype(np.int32)
        count = np.maximum(1, np.rint(common.MASKED * (rows != PADDING).sum(1, keepdims=True)))
        counted = np.arange(positions.shape[1]) < count
        masked = np.zeros(rows.shape, bool)
        np.put_along_axis(masked, positions, counted, 1)
        inputs = {"items": np.where(masked, self.mask, rows), "positions": positions}
        return inputs, np.take_along_axis(rows, positions, 1), counted.astype(np.float32)


class UserBatches(keras.utils.PyDataset):
    """Full batches of users; the last is filled with the first users, not compiled anew."""

    def __init__(self, sequences, flags, mask, vocabulary):
        super().__init__()
        self.sequences = sequences
        self.flags = flags
        self.mask = mask
        self.vocabulary = vocabulary

    def __len__(self):
        return -(-len(self.sequences) // USERS_AT_ONCE)

    def __getitem__(self, batch):
        first = batch * USERS_AT_ONCE
        users = np.arange(first, first + USERS_AT_ONCE) % len(self.sequences)
        sequences = [self.sequences[user] for user in users]
        seen = np.zeros((len(sequences), self.vocabulary), bool)
        seen[:, [PADDING, self.mask]] = True
        for row, items in zip(seen, sequences, strict=True):
            row[items] = True
        if self.flags.model == "bert4rec":
            sequences = [np.append(items, np.int32(self.mask)) for items in sequences]
        rows = padded(sequences, self.flags.max_len)
        last = (rows != PADDING).sum(1, keepdims=True, dtype=np.int32) - 1
        return {"items": rows, "positions": last, "seen": seen}


def masked_positions(flags):
    """Masked positions of a row, at most."""
    return max(1, round(common.MASKED * flags.max_len))


def build(flags, vocabulary):
    """The model to train, and a function that makes of it the model that recommends."""
    embedding = layers.ReversibleEmbedding(vocabulary, flags.width)
    position = keras_hub.layers.PositionEmbedding(flags.max_len)
    items = keras.Input((flags.max_len,), dtype="int32", name="items")
    positions = keras.Input((None,), dtype="int32", name="positions")
    seen = keras.Input((vocabulary,), dtype="bool", name="seen")
    real = ops.not_equal(items, PADDING)
    size = {
        "intermediate_dim": 4 * flags.width,
        "num_heads": flags.heads,
        "dropout": common.DROPOUT,
    }
    x = embedding(items)
    x = x + position(x)
    if flags.model == "bert4rec":
        x = layers.LayerNormalization()(x)
    x = layers.Dropout(common.DROPOUT)(x)
    if flags.model == "sasrec":
        for _ in range(flags.layers):
            block = keras_hub.layers.TransformerDecoder(
                **size, activation="relu", normalize_first=True
            )
            x = block(x, decoder_padding_mask=real)
        x = layers.LayerNormalization()(x)
        trained = keras.Model(items, embedding(x, reverse=True))
        query = ops.take_along_axis(x, ops.expand_dims(positions, -1), axis=1)[:, 0]

        def recommender():
            # A copy, because `predict` donates the buffers of both.
            candidates = ops.convert_to_numpy(embedding.embeddings).copy()
            retrieval = UnseenRetrieval(candidates, k=common.TOP_K, return_scores=False)
            return keras.Model([items, positions, seen], retrieval((query, seen)))

        return trained, recommender
    for _ in range(flags.layers):
        block = keras_hub.layers.TransformerEncoder(**size, activation="gelu")
        x = block(x, padding_mask=real)
    head = keras_hub.layers.MaskedLMHead(token_embedding=embedding, intermediate_activation="gelu")
    logits = head(x, positions)
    trained = keras.Model([items, positions], logits)

    def recommender():
        scores = ops.where(seen, float("-inf"), logits[:, 0])
        return keras.Model([items, positions, seen], ops.top_k(scores, common.TOP_K)[1])

    return trained, recommender


def main():
    parser = common.parser_of(__doc__)
    common.add_users(parser)
    flags = parser.parse_args()
    start = time.perf_counter()
    ids, sequences = read_sequences(flags.data)
    vocabulary = len(ids) + 2  # with padding and mask
    mask = vocabulary - 1
    training = TrainingBatches(sequences, flags, mask)
    prepare_s = common.seconds_since(start)
    model, recommender = build(flags, vocabulary)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(common.LEARNING_RATE), loss)
    clock = Clock()
    start = time.perf_counter()
    model.fit(training, verbose=0, callbacks=[clock])
    fit_s = common.seconds_since(start)
    chosen = sequences[: flags.users]
    predictor = recommender()
    recommend_s = []
    for _ in range(2):  # the first compiles
        begin = time.perf_counter()
        batches = UserBatches(chosen, flags, mask, vocabulary)
        top = predictor.predict(batches, verbose=0)[: len(chosen)]
        lists = ids[top - 1]
        recommend_s.append(common.seconds_since(begin))
    if top.min() <= PADDING or top.max() >= mask:
        raise ValueError("Padding or the mask is among the recommended items.")
    count = len(chosen)
    lengths = [len(items) for items in chosen]
    had = np.repeat(np.arange(count), lengths), ids[np.concatenate(chosen) - 1]
    listed = np.repeat(np.arange(count), common.TOP_K), lists.ravel()
    common.check_lists(*had, *listed, count=count)
    step_s = common.median_step(clock.times, skip=0)
    numbers = {
        "loss": "softmax over the catalog",
        "step_s": step_s,
        "train_sequences_per_s": flags.batch / step_s,
        "first_step_s": clock.times[0] - start,
        "prepare_s": prepare_s,
        "fit_s": fit_s,
        "recommend_users_per_s": count / recommend_s[0],
        "recommend_users_per_s_then": count / recommend_s[1],
        "imports_rss_mb": IMPORTS_RSS_MB,
    }
    common.report(flags, "keras_rs", ("keras-rs", "keras", "keras-hub", "jax"), numbers)


if __name__ == "__main__":
    main()
