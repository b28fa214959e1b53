"""What labels are, where they are asked, and that nothing after them is read."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from clickflax.batch import RESERVED
from clickflax.data import store
from clickflax.data.splits.common import SplitOptions
from clickflax.data.splits.labels import LABEL_SOURCES, LabelOptions, split_labels

VIEW, BUY, BACK = (RESERVED + i for i in range(3))
# Three sequences: a purchase after two views, none, and one that begins with what came back.
ACTIONS = [[VIEW, VIEW, BUY, VIEW], [VIEW, VIEW], [BACK, VIEW, BUY]]
DAY = 24 * 3600 * 1_000_000
OPTIONS = LabelOptions("buy", "return", 0, "")


def write(path, source_split=None):
    action = np.concatenate(ACTIONS).astype(np.int32)
    with store.new_dataset_folder(path) as folder:
        if source_split is not None:
            store.write_array(folder / "part.npy", source_split)
        store.write_dataset(
            folder,
            source="toy",
            options={},
            offsets=np.array([0, 4, 6, 9]),
            events={
                "item": np.arange(RESERVED, RESERVED + 9).astype(np.int32),
                "action": action,
                "time": np.arange(9) * DAY,
            },
            vocabularies={
                "item": pa.table({"token": [f"i{i}" for i in range(9)], "count": [1] * 9}),
                "action": pa.table({"token": ["view", "buy", "return"], "count": [6, 2, 1]}),
            },
            sequences=pa.table({"token": ["u", "v", "w"]}),
            counts={},
        )
    return store.open_dataset(path)


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "toy")


def same(found, expected):
    return np.array_equal(found, np.array(expected, float), equal_nan=True)


NONE = np.nan


def test_a_purchase_is_predicted_at_every_event_before_it_and_never_read(data):
    found = LABEL_SOURCES["purchase"](data, OPTIONS)
    assert list(zip(*found.ranges, strict=True)) == [(0, 2), (4, 6)]
    assert same(found.label, [1, 1, NONE, NONE, 0, 0, NONE, NONE, NONE])
    assert found.dropped == {"sequences with fewer than 1 events before a purchase": 1}


@pytest.mark.parametrize("after", [-1, 2])
def test_a_purchase_is_asked_at_the_last_event_before_it_or_after_some(data, after):
    found = LABEL_SOURCES["purchase"](data, OPTIONS._replace(after=after))
    assert same(found.label, [NONE, 1, NONE, NONE, NONE, 0, NONE, NONE, NONE])


def test_a_purchase_that_is_asked_early_is_read_so_far_only(data):
    found = LABEL_SOURCES["purchase"](data, OPTIONS._replace(after=1))
    assert list(zip(*found.ranges, strict=True)) == [(0, 1), (4, 5)]
    assert same(found.label, [1, NONE, NONE, NONE, 0, NONE, NONE, NONE, NONE])


def test_a_return_is_read_as_a_purchase_and_asked_at_it(data):
    found = LABEL_SOURCES["returns"](data, OPTIONS)
    assert same(found.label, [NONE, NONE, 0, NONE, NONE, NONE, 1, NONE, 0])
    assert list(zip(*found.ranges, strict=True)) == [(0, 4), (6, 9)]
    assert BACK not in found.columns["action"]
    assert (found.columns["action"] == BUY).sum() == 3


def test_an_action_that_is_not_there_lists_those_that_are(data):
    with pytest.raises(ValueError, match=r"no action 'bought'.*\['buy', 'return', 'view'\]"):
        LABEL_SOURCES["purchase"](data, OPTIONS._replace(buy="bought"))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_labels_of_a_file_stand_at_the_last_event_or_at_the_one_they_name(data, tmp_path, form):
    path = tmp_path / f"labels.{form}"

    def write_rows(**columns):
        write = pa.csv.write_csv if form == "csv" else pa.parquet.write_table
        write(pa.table(columns), path)
        return LABEL_SOURCES["label"](data, OPTIONS._replace(path=str(path)))

    found = write_rows(sequence=["w", "u"], label=[1, 0])
    assert same(found.label, [NONE, NONE, NONE, 0, NONE, NONE, NONE, NONE, 1])
    assert found.dropped == {"sequences without a label": 1}
    found = write_rows(sequence=["u", "u"], event=[0, 2], label=[2.5, 1.0])
    assert same(found.label, [2.5, NONE, 1, NONE, NONE, NONE, NONE, NONE, NONE])
    with pytest.raises(ValueError, match="labels for 1 sequences .* such as 'x'"):
        write_rows(sequence=["x", "u"], label=[1, 0])
    with pytest.raises(
        ValueError, match="sequence 'v' has 2 events, from 0 to 1, but a label for event 2"
    ):
        write_rows(sequence=["u", "v"], event=[0, 2], label=[1, 0])
    with pytest.raises(ValueError, match="two labels for an event of 'u'"):
        write_rows(sequence=["u", "u"], label=[1, 0])
    found = write_rows(sequence=["u", "v"], label=[None, 1])
    assert same(found.label, [NONE, NONE, NONE, NONE, NONE, 1, NONE, NONE, NONE])
    with pytest.raises(ValueError, match="not sequence and label"):
        write_rows(user=["u"], label=[1])


def test_a_label_is_trained_on_when_it_was_known_before_the_moment(data):
    labelled = LABEL_SOURCES["purchase"](data, OPTIONS)
    # The first sequence ends on day 3, the second is days 4 and 5.
    early = split_labels(data, labelled, "time", SplitOptions(-1, "1970-01-05", "1970-01-06"))
    assert (len(early.train), len(early.validation), len(early.test)) == (2, 0, 1)
    assert early.dropped["labels that were known after the end of their period"] == 1
    late = split_labels(data, labelled, "time", SplitOptions(-1, "1970-01-03", "1970-01-05"))
    assert (len(late.train), len(late.validation), len(late.test)) == (0, 0, 2)
    assert same(late.test.ranges.start, [4])


def test_a_test_file_is_the_test(tmp_path):
    data = write(tmp_path / "parts", np.array([0, 1, 0], np.int8))
    labelled = LABEL_SOURCES["purchase"](data, OPTIONS)
    found = split_labels(data, labelled, "parts", SplitOptions(-1, "", ""))
    assert (len(found.train), len(found.validation), len(found.test)) == (2, 0, 2)
    with pytest.raises(ValueError, match="would train on the test file"):
        split_labels(data, labelled, "time", SplitOptions(-1, "1970-01-03", "1970-01-05"))
    data = write(data.path.parent / "whole")
    with pytest.raises(ValueError, match="holds out items"):
        split_labels(
            data,
            LABEL_SOURCES["purchase"](data, OPTIONS),
            "leave_one_out",
            SplitOptions(-1, "", ""),
        )


def test_labels_of_a_file_may_have_weights(data, tmp_path):
    path = tmp_path / "labels.csv"
    options = OPTIONS._replace(path=str(path))
    path.write_text("sequence,label,weight\nw,1,0.5\nu,0,3\nv,,7\n")
    found = LABEL_SOURCES["label"](data, options)
    assert same(found.weight, [NONE, NONE, NONE, 3, NONE, NONE, NONE, NONE, 0.5])
    path.write_text("sequence,label\nw,1\n")
    assert LABEL_SOURCES["label"](data, options).weight is None
