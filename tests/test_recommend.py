"""Recommendations for histories, of known users and of anybody."""

import json

import jax
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from toy import small_config

from clickflax.config.default import from_dict, to_dict
from clickflax.data.store import open_dataset
from clickflax.inference import recommend
from clickflax.simulation.main import simulate
from clickflax.simulation.shop import Shop
from clickflax.training.loop import train

ITEMS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps on a simulated shop of 30 items."""
    return trained(tmp_path_factory.mktemp("recommend"))


def trained(folder, unknown=0.0):
    simulate(folder / "data", Shop(sequences=20, items=ITEMS, mean_length=5.0, max_length=10))
    c = small_config()
    c.data.path = str(folder / "data")
    c.train.update({"batch_size": 16, "steps": 2, "eval_every": 1, "micro_rows": 1})
    c.optim.warmup_steps = 0
    c.mask.unknown = unknown
    with jax.numpy_dtype_promotion("standard"):  # optax
        train(from_dict(to_dict(c)), folder / "run")
    return recommend.load(folder / "run")


def test_the_best_items_come_first_each_once_and_none_of_the_history(run):
    history = run.items.tokens()[:4]
    (found,) = recommend.top_k(run, [history], k=5)
    assert len({r.item for r in found}) == 5
    assert not {r.item for r in found} & set(history)
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)


def test_what_was_seen_may_come_again_when_asked_for(run):
    history = run.items.tokens()[:4]
    (found,) = recommend.top_k(run, [history], k=ITEMS, filter_seen=False)
    assert {r.item for r in found} == set(run.items.tokens())


def test_a_list_ends_where_the_catalog_does(run):
    (found,) = recommend.top_k(run, [run.items.tokens()[:4]], k=ITEMS)
    assert len(found) == ITEMS - 4


def test_items_that_are_unknown_in_training_are_so_when_it_is_asked(run, tmp_path):
    blind = trained(tmp_path, unknown=1.0)
    assert not np.ptp(scores_of(blind), axis=0).any()
    assert np.ptp(scores_of(run), axis=0).any()


def scores_of(run):
    """The scores of all items after two histories of the same length."""
    tokens = run.items.tokens()
    lists = recommend.top_k(run, [tokens[:4], tokens[6:10]], k=ITEMS, filter_seen=False)
    return [[r.score for r in sorted(found, key=lambda r: r.item)] for found in lists]


def test_a_history_that_is_told_wants_no_data_set(run, capsys):
    with pytest.raises(SystemExit):
        recommend.main([f"--run={run.folder}", "--history=item-1", "--data=elsewhere"])
    assert "--data=elsewhere is for --users" in capsys.readouterr().err


def test_titles_and_tokens_name_the_same_items(run):
    titles, tokens = run.items.column("title"), run.items.tokens()
    by_title = recommend.top_k(run, [titles[:3]], k=3)
    assert by_title == recommend.top_k(run, [tokens[:3]], k=3)
    assert by_title[0][0].title in titles


def test_a_history_has_the_same_list_alone_and_among_others(run):
    tokens = run.items.tokens()
    histories = [tokens[:2], tokens[5:9], tokens[3:4], tokens[:20]]
    together = recommend.top_k(run, histories, k=3)
    for history, found in zip(histories, together, strict=True):
        (alone,) = recommend.top_k(run, [history], k=3)
        assert [r.item for r in alone] == [r.item for r in found]
        np.testing.assert_allclose([r.score for r in alone], [r.score for r in found], atol=1e-5)


def test_unknown_items_are_left_out_and_named(run):
    tokens = run.items.tokens()
    with pytest.warns(UserWarning, match="left out: the moon, cheese"):
        found = recommend.top_k(run, [[tokens[0], "the moon", "cheese"]], k=2)
    assert found == recommend.top_k(run, [tokens[:1]], k=2)


def test_a_history_without_a_known_item_is_an_error(run):
    with pytest.raises(ValueError, match="the moon"):
        recommend.top_k(run, [["the moon"]])


@pytest.mark.parametrize("k", [0, ITEMS + 1])
def test_more_items_than_the_catalog_has_are_an_error(run, k):
    with pytest.raises(ValueError, match=f"k={k} must be from 1 to {ITEMS}"):
        recommend.top_k(run, [run.items.tokens()[:1]], k=k)


def test_no_history_has_no_list(run):
    assert recommend.top_k(run, []) == []


def test_lists_of_all_users_are_those_of_their_histories(run, tmp_path):
    out = tmp_path / "lists.parquet"
    assert recommend.write_recommendations(run, None, None, out, 3, True, ()) == 20
    rows = pq.read_table(out).to_pylist()
    dataset = open_dataset(run.config.data.path)
    users, tokens = dataset.sequence_column("token"), run.items.tokens()
    assert sorted({row["user"] for row in rows}) == sorted(users)
    for i in (0, 7):
        events = dataset.columns["item"][dataset.offsets[i] : dataset.offsets[i + 1]]
        (found,) = recommend.top_k(run, [[tokens[id - 6] for id in events]], k=3)
        mine = sorted((r for r in rows if r["user"] == users[i]), key=lambda r: r["rank"])
        assert [(r["item"], r["title"]) for r in mine] == [(r.item, r.title) for r in found]
        assert [r["rank"] for r in mine] == [1, 2, 3]


def test_users_that_are_not_there_are_counted_and_named(run, tmp_path):
    with pytest.raises(ValueError, match="1 of 2 users are not in .*: nobody"):
        users = [open_dataset(run.config.data.path).sequence_column("token")[0], "nobody"]
        recommend.write_recommendations(run, users, None, tmp_path / "lists.parquet", 3, True, ())


def test_the_command_prints_json_last_and_warns_on_standard_error(run, capsys):
    first = run.items.tokens()[0]
    recommend.main(["--run", str(run.folder), "--history", f"{first}|the moon", "--k", "2"])
    printed = capsys.readouterr()
    assert len(json.loads(printed.out.splitlines()[-1])) == 2
    assert "the moon" in printed.err


def test_a_file_of_users_goes_to_a_file_of_lists(run, tmp_path, capsys):
    users = open_dataset(run.config.data.path).sequence_column("token")[:2]
    (tmp_path / "users.txt").write_text("\n".join(users) + "\n")
    out = tmp_path / "lists.parquet"
    flags = ["--users", str(tmp_path / "users.txt"), "--out", str(out), "--k", "4"]
    recommend.main(["--run", str(run.folder), *flags])
    assert json.loads(capsys.readouterr().out)["users"] == 2
    assert pq.read_table(out).num_rows == 8
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_user_named_twice_has_one_list(run, tmp_path):
    user = open_dataset(run.config.data.path).sequence_column("token")[0]
    assert (
        recommend.write_recommendations(
            run, [user, user], None, tmp_path / "x.parquet", 3, True, ()
        )
        == 1
    )


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, iter, "frame"])
def test_histories_are_whatever_holds_lists(run, kind):
    tokens = run.items.tokens()
    lists = [tokens[:2], tokens[2:4], tokens[4:6]]
    expected = recommend.top_k(run, lists, k=3)
    if kind == "frame":
        log = pd.DataFrame({"user": np.repeat([1, 2, 3], 2), "item": tokens[:6]})
        histories = log.groupby("user").item.agg(list)
    else:
        histories = kind(lists)
    assert recommend.top_k(run, histories, k=3) == expected


def test_a_history_without_known_items_leaves_the_others_their_lists(run):
    tokens = run.items.tokens()
    one, other = recommend.top_k(run, [tokens[:2], tokens[2:4]], k=3)
    with pytest.warns(UserWarning, match="2 of 4 histories have no known item.*at 1, 3"):
        lists = recommend.top_k(run, [tokens[:2], [], tokens[2:4], ["the moon"]], k=3)
    assert lists == [one, [], other, []]


def test_a_dict_of_histories_is_refused(run):
    with pytest.raises(ValueError, match="are a dict: pass list"):
        recommend.top_k(run, {"u1": run.items.tokens()[:2]})


def test_what_is_no_list_is_named_by_its_index(run):
    with pytest.raises(ValueError, match="history 1: A history must be a list of items, not 5"):
        recommend.top_k(run, [run.items.tokens()[:2], 5])


def test_a_text_is_no_history(run):
    with pytest.raises(ValueError, match="list of items"):
        recommend.top_k(run, [run.items.tokens()[0]])
