"""The tables of a study: means, paired differences, and their files."""

import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from studies import finished, finished_labels, write_predictions

from clickflax.runtime.files import read_json, write_json
from clickflax.study import paired
from clickflax.study.gather import learning_curve, open_source
from clickflax.study.plan import cell_folder, read_plan
from clickflax.study.results import make_tables
from clickflax.study.table import WRITERS, read_tables

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[1] / "experiments"


def tables_of(out, **changed):
    """The tables of the study in a folder, and the arguments of their writers."""
    study, cells = read_plan(out)
    study = study._replace(**changed)
    tables = make_tables(out, study, cells)
    return tables, (tables, study.metrics, study.baseline)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """The folder of a finished study; copy it to change it."""
    out = tmp_path_factory.mktemp("ranked")
    finished(out, published={"shop": {"wide one": "a paper: .1"}})
    return out


@pytest.fixture
def changeable(ranked, tmp_path):
    """A copy of the folder, and its cells."""
    out = shutil.copytree(ranked, tmp_path / "study")
    return out, read_plan(out)[1]


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """The folder of a finished study of labels; copy it to change it."""
    out = tmp_path_factory.mktemp("predicted")
    finished_labels(out)
    return out


def test_a_row_has_the_mean_of_its_seeds_and_the_knobs_of_its_config(ranked):
    [table], _ = tables_of(ranked)
    narrow, wide = table.rows
    assert [row.config for row in table.rows] == ["narrow", "wide one"]
    assert len(wide.values["ndcg@10"]) == 2
    assert wide.results["ndcg@10"].seeds.mean == pytest.approx(np.mean(wide.values["ndcg@10"]))
    assert wide.knobs["model.width"] == 16 and "seed" not in wide.knobs


def test_the_difference_from_the_baseline_is_that_of_the_means(ranked):
    [table], _ = tables_of(ranked)
    narrow, wide = (row.results["ndcg@10"] for row in table.rows)
    assert wide.difference.mean == pytest.approx(wide.seeds.mean - narrow.seeds.mean)
    assert 0 < wide.difference.low < wide.difference.mean < wide.difference.high
    assert wide.p < 0.01 and narrow.difference is None


def test_a_markdown_table_has_means_differences_and_published_numbers(ranked):
    [table], written = tables_of(ranked)
    result = table.rows[1].results["ndcg@10"]
    mean, deviation, half = result.seeds
    difference = result.difference
    text = WRITERS["md"](*written)
    assert "|  | recall@10 | Δ recall@10 | ndcg@10 | Δ ndcg@10 | seeds | published | tr" in text
    interval = f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    number = f"{mean:.4f} ± {half:.4f} ({deviation:.4f})*"
    assert f"| {number} | {interval} | 2 | a paper: .1 | 10 s |" in text


def test_names_of_a_study_are_text_in_markdown(ranked):
    [table], (_, metrics, baseline) = tables_of(ranked)
    hostile = "a|b*c*`d`[e](f)<script>\nx"
    rows = [table.rows[0]._replace(config=hostile), *table.rows[1:]]
    named = table._replace(rows=rows, data=hostile)
    escaped = r"a\|b\*c\*\`d\`\[e\](f)\<script\> x"
    lines = WRITERS["md"]([named], metrics, baseline).splitlines()
    assert lines[0] == f"### {escaped}"
    assert lines[4].startswith(f"| {escaped} | ") and lines[4].count(" | ") == lines[2].count(" | ")


def test_the_legend_names_the_baseline_and_the_tests(ranked):
    _, written = tables_of(ranked)
    text = WRITERS["md"](*written)
    assert "Δ: difference from narrow for the same users" in text
    assert "better, †: worse than narrow" in text
    assert "Paired t-tests agree." in text


def test_a_latex_table_has_the_same_numbers(ranked):
    [table], written = tables_of(ranked)
    difference = table.rows[1].results["ndcg@10"].difference
    interval = f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    text = WRITERS["latex"](*written)
    assert rf"$^{{*}}$ & {interval} & 2 & a paper: .1 & 10 s \\" in text
    assert r"\begin{tabular}{lrrrrrll}" in text and r"$\Delta$ ndcg@10" in text


def test_names_in_latex_are_text(ranked):
    [table], (_, metrics, baseline) = tables_of(ranked)
    row = table.rows[0]._replace(config="[1cm] a&b|<c>\n%d")
    named = table._replace(data="shop\n\\input{x}", rows=[row, table.rows[1]])
    lines = WRITERS["latex"]([named], metrics, "a\nb").splitlines()
    assert lines[0] == r"% shop \input{x}"
    assert lines[5].startswith(r"{[}1cm] a\&b\textbar{}\textless{}c\textgreater{} \%d & ")
    assert lines[-1].startswith("% ") and "worse than a b" in lines[-1]


def test_names_in_the_legend_of_markdown_are_text(ranked):
    [table], (_, metrics, _) = tables_of(ranked)
    named = table._replace(not_compared=["<b>*"])
    legend = WRITERS["md"]([named], metrics, "[x](y)\n# z").splitlines()[-1]
    assert r"worse than \[x\](y) # z" in legend and r"Not compared in shop: \<b\>\*." in legend


def test_json_tables_have_all_digits_and_are_read_again(ranked, tmp_path):
    [table], written = tables_of(ranked)
    text = WRITERS["json"](*written)
    difference = json.loads(text)["tables"][0]["rows"][1]["results"]["ndcg@10"]["difference"]
    assert difference["mean"] == table.rows[1].results["ndcg@10"].difference.mean
    (tmp_path / "table.json").write_text(text)
    again = read_tables(tmp_path / "table.json")
    assert WRITERS["json"](*again) == text
    assert WRITERS["md"](*again) == WRITERS["md"](*written)


def test_json_tables_of_earlier_versions_are_read(ranked, tmp_path):
    _, written = tables_of(ranked)
    text = WRITERS["json"](*written)
    names = {"evaluation": "asked", "rows": "lines", "not_compared": "strangers"}
    old = text
    for new, before in {**names, "difference": "apart"}.items():
        old = old.replace(f'"{new}":', f'"{before}":')
    (tmp_path / "old.json").write_text(old)
    assert old != text and WRITERS["json"](*read_tables(tmp_path / "old.json")) == text
    tables, metrics, baseline = read_tables(EXPERIMENTS / "objectives.json")
    assert len(tables) == 4 and metrics == ["recall@10", "ndcg@10"] and baseline == "SASRec"
    assert all(table.rows[1].results["ndcg@10"].difference for table in tables)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not valid JSON"), ("[]", "has no tables"), ("{}", "has no tables")],
)
def test_a_file_without_tables_is_refused(tmp_path, text, message):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=f"other.json {message}"):
        read_tables(tmp_path / "other.json")


def test_a_t_test_that_disagrees_is_named(ranked):
    [table], _ = tables_of(ranked)
    narrow, wide = table.rows
    result = wide.results["ndcg@10"]
    unsure = result._replace(difference=result.difference._replace(p_t=0.03))
    # With Holm's correction for two tests, p = 0.06 is no longer significant.
    rows = [wide._replace(config=name, results={"ndcg@10": unsure}) for name in ("wide", "wider")]
    text = WRITERS["md"]([table._replace(rows=[narrow, *rows])], ["ndcg@10"], "narrow")
    assert "disagree on ndcg@10 of wide (shop, p = 0.06), ndcg@10 of wider" in text


def test_a_t_test_that_agrees_is_not_listed(ranked):
    [table], _ = tables_of(ranked)
    text = WRITERS["md"]([table], ["ndcg@10"], "narrow")
    assert "disagree" not in text


def test_metrics_of_labels_are_compared(predicted):
    [table], _ = tables_of(predicted)
    narrow, wide = table.rows
    for metric in ("auc", "log_loss"):
        result = wide.results[metric]
        away = result.seeds.mean - narrow.results[metric].seeds.mean
        assert result.difference.mean == pytest.approx(away)
        assert result.difference.low < result.difference.mean < result.difference.high
        assert result.p < 0.01
    assert wide.results["f1"].difference is None  # its threshold differs between runs


def test_a_lower_loss_is_better(predicted):
    [table], written = tables_of(predicted)
    wide = table.rows[1].results
    assert wide["log_loss"].difference.mean < 0 < wide["auc"].difference.mean
    text = WRITERS["md"](*written)
    assert text.count(")* |") == 2 and ")† |" not in text


def test_labels_have_no_t_test(predicted):
    _, written = tables_of(predicted)
    text = WRITERS["md"](*written)
    assert "|  | auc | Δ auc | log_loss | Δ log_loss | f1 | seeds |" in text
    assert "t-test" not in text


def test_json_tables_of_labels_are_read_again(predicted, tmp_path):
    _, written = tables_of(predicted)
    (tmp_path / "table.json").write_text(WRITERS["json"](*written))
    again = read_tables(tmp_path / "table.json")
    assert WRITERS["md"](*again) == WRITERS["md"](*written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop_columns("sequence"), "do not have the sequences of labels"),
        (
            lambda rows: rows.set_column(0, "sequence", pa.array(np.zeros(len(rows), int))),
            "it has labels of one sequence only",
        ),
        (
            lambda rows: rows.set_column(2, "label", pa.array(1 - rows["label"].to_numpy())),
            "its seeds have different labels",
        ),
    ],
)
def test_labels_that_cannot_be_compared_have_a_reason(predicted, tmp_path, change, message):
    out = shutil.copytree(predicted, tmp_path / "study")
    path = cell_folder(out, read_plan(out)[1][0]) / "test.purchase.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    [table], _ = tables_of(out)
    assert message in table.not_compared[0]
    assert len(table.rows[1].values["auc"]) == 2  # it is in the table all the same


def test_classes_without_probabilities_have_an_accuracy_and_no_loss(predicted, tmp_path):
    path = tmp_path / "test.purchase.parquet"
    rows = pq.read_table(cell_folder(predicted, read_plan(predicted)[1][0]) / path.name)
    label = rows["label"].to_numpy()
    pq.write_table(rows.set_column(3, "prediction", pa.array(label.astype(int))), path)
    assert paired.mean_label_metric([path], "log_loss") is None
    assert paired.mean_label_metric([path], "accuracy").value == 1


def test_a_config_without_a_metric_has_no_reason(changeable):
    out, cells = changeable
    label = np.arange(10.0) % 2
    for cell in cells:
        if cell.config == "wide one":
            shutil.rmtree(cell_folder(out, cell))
            write_predictions(out, cell, label * 0.5 + 0.2, label)
    [table], _ = tables_of(out, metrics=("ndcg@10", "auc"))
    assert not table.not_compared
    assert np.isnan(table.rows[1].results["ndcg@10"].seeds.mean)
    assert table.rows[1].results["auc"].seeds.mean == 1


def test_a_metric_that_no_record_has_is_refused(ranked):
    with pytest.raises(ValueError, match="'ndcg@1O' does not exist; did you mean 'ndcg@10'"):
        tables_of(ranked, metrics=("ndcg@1O",))


def test_rows_without_all_seeds_say_how_many_are_done(changeable):
    out, cells = changeable
    for cell in cells[1:]:
        (cell_folder(out, cell) / "test.json").unlink()
    _, written = tables_of(out, published={})
    text = WRITERS["md"](*written)
    assert "| 1 of 2 | 10 s |" in text and "| wide one |  |  | 0 of 2 |  |" in text


def test_the_examples_of_a_user_are_one_sample(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = {"example": [0, 1, 1, 2], "sequence": [4, 4, 4, 7], "rank": [0.0, 1.0, 20.0, 3.0]}
    pq.write_table(pa.table({**rows, "target": [9, 8, 7, 9]}), path)
    users = paired.read_user_metric(path, paired.parse_ranking_metric("recall@2"))
    # Recall of the examples is 1, 1/2 and 0; the first two are of one user, with 2/3 of the weight.
    assert users.value.tolist() == [1.5 * 2 / 3, 0.0]
    assert users.value.mean() == pytest.approx(0.5)


def test_rows_of_0_1_0_are_read(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = {"question": [0, 1], "sequence": [4, 7], "place": [0.0, 3.0], "target": [9, 9]}
    pq.write_table(pa.table(rows), path)
    users = paired.read_user_metric(path, paired.parse_ranking_metric("recall@2"))
    assert users.value.tolist() == [1.0, 0.0]


def test_a_ranking_metric_is_recognised_by_its_name():
    assert paired.parse_ranking_metric("ndcg@10") == (None, "ndcg@10", 10)
    assert paired.parse_ranking_metric("next_item/ndcg@10") == ("next_item", "ndcg@10", 10)


@pytest.mark.parametrize(
    "name", ["auc", "precision@recall=0.5", "coverage@10", "cold/ndcg@10", "a/cold/map@5"]
)
def test_other_metrics_are_no_ranking_metrics(name):
    assert paired.parse_ranking_metric(name) is None


def test_configs_with_different_targets_are_not_compared(changeable):
    out, cells = changeable
    for cell in cells:
        if cell.config == "wide one":
            path = cell_folder(out, cell) / "test.next_item.parquet"
            rows = pq.read_table(path).to_pydict()
            pq.write_table(pa.table({**rows, "target": rows["target"][::-1]}), path)
    [table], written = tables_of(out)
    assert table.not_compared == ["wide one (its targets differ from those of narrow)"]
    assert table.rows[1].results["ndcg@10"].difference is None
    text = WRITERS["md"](*written)
    assert "Not compared in shop: wide one (its targets differ from those of narrow)." in text


def test_configs_without_rows_are_not_compared(changeable):
    out, cells = changeable
    (cell_folder(out, cells[1]) / "test.next_item.parquet").unlink()
    [table], _ = tables_of(out)
    reason = f"cells/{cells[1].name} has no test.next_item.parquet"
    assert table.not_compared == [f"wide one ({reason})"]


def test_configs_with_different_protocols_are_not_compared(changeable):
    out, cells = changeable
    for cell in cells:
        path = cell_folder(out, cell) / "test.json"
        few = "100 of all" if cell.config == "wide one" else "all"
        protocol = {"history": cell.config, "candidates": few, "filter_seen": True}
        write_json(path, {**read_json(path), "protocol": protocol})
    [table], _ = tables_of(out)
    reason = "its protocol differs from that of narrow: candidates '100 of all', not 'all'"
    assert table.not_compared == [f"wide one ({reason})"]
    assert table.rows[1].results["ndcg@10"].difference is None
    source = open_source([out])
    assert {cell.config for cell in source.comparable_cells("shop")} == {"narrow"}


def test_a_metric_of_one_evaluation_is_blank_in_the_others(tmp_path):
    evaluations = {"test": {}, "lists": {"lists": True, "negatives": 0}}
    cells = finished(tmp_path, evaluations=evaluations, metrics=("ndcg@10", "coverage@10"))
    for cell in cells:
        folder = cell_folder(tmp_path, cell)
        record = read_json(folder / "test.json") | {"coverage@10": 0.25}
        write_json(folder / "test.negatives.0.json", record)
    [plain, listed], _ = tables_of(tmp_path)
    assert np.isnan(plain.rows[0].values["coverage@10"]).all()
    assert listed.rows[0].values["coverage@10"] == [0.25, 0.25]


def test_damaged_rows_of_a_run_are_named(changeable):
    out, cells = changeable
    path = cell_folder(out, cells[0]) / "test.next_item.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"test\.next_item\.parquet cannot be read"):
        tables_of(out)


def test_a_damaged_record_is_named(changeable):
    out, cells = changeable
    path = cell_folder(out, cells[0]) / "test.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"test\.json is not valid JSON"):
        tables_of(out)


def test_a_learning_curve_leaves_out_a_line_that_is_being_written(tmp_path):
    text = '{"step": 1, "a": 2}\n{"step": 2, "a": 3}\n{"step": 3, "a'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert learning_curve(tmp_path, "a")["step"] == [1, 2]


def test_a_damaged_line_of_metrics_is_named(tmp_path):
    text = '{"step": 1, "a": 2}\n{"step": 2, \n{"step": 3, "a": 4}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2, is not valid JSON"):
        learning_curve(tmp_path, "a")


def test_an_undefined_metric_is_blank(changeable):
    out, cells = changeable
    path = cell_folder(out, cells[0]) / "test.json"
    write_json(path, read_json(path) | {"auc": None})
    _, written = tables_of(out, metrics=("auc",), published={})
    assert "| narrow |  | 2 |" in WRITERS["md"](*written)
    rows = json.loads(WRITERS["json"](*written))["tables"][0]["rows"]
    assert rows[0]["values"]["auc"] == [None, None]
