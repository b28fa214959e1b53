"""The simulated shop: exact probabilities, users that follow them, and equal bytes for a seed."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from clickflax.batch import PAD, RESERVED
from clickflax.data.store import open_dataset
from clickflax.simulation.main import main, popularity_ndcg, simulate
from clickflax.simulation.shop import CATEGORY_PRICES, Shop, make_shop, simulate_visits
from clickflax.simulation.truth import Truth, load_truth

SMALL = Shop(sequences=300, items=40, seed=3, mean_length=6, max_length=10, tastes=3)


def tiny(sequences=1):
    """Five items, two tastes, three events a sequence."""
    shop = Shop(
        sequences=sequences,
        items=6,
        seed=1,
        mean_length=3,
        max_length=3,
        tastes=2,
        moves=(0.4, 0.2),
    )
    return shop, make_shop(shop)[1]


def by_enumeration(truth: Truth, path):
    """Probability of a path of items, summed over the tastes, each step written out."""
    total = 0.0
    for c, prior in enumerate(truth.prior):
        chance = prior
        for t, item in enumerate(path):
            wish = truth.taste[c].copy()
            if t > 0:
                wish *= 1 - truth.moves.sum()
                for back, move in enumerate(truth.moves):
                    source = path[max(t - 1 - back, 0)]
                    for k, weight in enumerate(truth.weight):
                        wish[truth.related[source, k]] += move * weight
            wish[list(path[:t])] = 0
            chance *= wish[item] / wish.sum()
        total += chance
    return total


def paths_and_truth():
    _, truth = tiny()
    paths = np.array(list(itertools.permutations(range(6), 3)))
    return truth, paths, np.array([by_enumeration(truth, path) for path in paths])


def test_the_product_of_next_items_equals_the_sum_over_tastes_written_out():
    truth, paths, wanted = paths_and_truth()
    assert wanted.sum() == pytest.approx(1)
    ids = paths + RESERVED
    chain = [
        np.prod([truth.next_item(path[:t])[path[t] - RESERVED] for t in range(3)]) for path in ids
    ]
    np.testing.assert_allclose(chain, wanted)


def test_users_take_every_path_as_often_as_the_truth_says():
    shop, truth = tiny(sequences=100_000)
    _, paths, wanted = paths_and_truth()
    walked = simulate_visits(shop, truth).item.reshape(-1, 3)
    code = np.array([36, 6, 1])
    found = np.bincount(walked @ code, minlength=216)[paths @ code]
    assert found.sum() == shop.sequences
    expected = wanted * shop.sequences
    # Chi-square of 120 paths has mean 119 and deviation sqrt(2 * 119) = 15.4.
    assert np.sum((found - expected) ** 2 / expected) < 119 + 4 * 15.4


def test_next_item_probabilities_add_up_to_one_and_leave_out_the_visited():
    _, truth = make_shop(SMALL)
    histories = np.array([[6, 7, 8, 9], [20, 6, PAD, PAD], [PAD] * 4, [45, 44, 43, PAD]])
    answer = truth.next_items(histories)
    np.testing.assert_allclose(answer.sum(axis=1), 1)
    assert answer.min() >= 0
    assert answer[0, :4].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(answer[2], truth.prior @ truth.taste)


def test_padding_and_neighbours_do_not_change_an_answer():
    _, truth = make_shop(SMALL)
    alone = truth.next_item(np.array([10, 30]))
    beside = truth.next_items(np.array([[6, 7, 8, 9, 11], [10, 30, PAD, PAD, PAD]]))[1]
    np.testing.assert_allclose(alone, beside)


def test_the_stored_probability_of_an_event_is_that_of_next_item(tmp_path):
    simulate(tmp_path / "shop", SMALL)
    data, truth = open_dataset(tmp_path / "shop"), load_truth(tmp_path / "shop")
    stored = np.load(tmp_path / "shop/truth/events/next_item.npy")
    purchase = np.load(tmp_path / "shop/truth/events/purchase.npy")
    items, actions = data.columns["item"], data.columns["action"]
    for start, end in zip(data.offsets[:20], data.offsets[1:21], strict=True):
        for e in range(start, end):
            answer = truth.next_item(items[start:e])
            assert stored[e] == pytest.approx(answer[items[e] - RESERVED])
            before = truth.purchase(items[None, start:e], actions[None, start:e])
            assert purchase[e] == pytest.approx(before[0])


@pytest.fixture(scope="module")
def busy():
    """Many sequences in a small shop, with the probabilities at each event."""
    shop = dataclasses.replace(SMALL, sequences=40_000)
    _, truth = make_shop(shop)
    visits = simulate_visits(shop, truth)
    events = truth.events(visits.offsets, visits.item + RESERVED, visits.action + RESERVED)
    return shop, truth, visits, events


def check_calibrated(stated, happened):
    """In each tenth of the stated probabilities, the share that happened is the mean stated one."""
    order = np.argsort(stated, kind="stable")
    for part in np.array_split(order, 10):
        p, n = stated[part], len(part)
        deviation = np.sqrt(np.sum(p * (1 - p))) / n
        assert abs(p.mean() - happened[part].mean()) < 4.5 * deviation


@pytest.mark.parametrize("position", [0, 1, 3, -1])
def test_a_purchase_happens_as_often_as_stated_after_any_event(busy, position):
    _, truth, visits, events = busy
    lengths = np.diff(visits.offsets)
    long = lengths > max(position, 2)
    e = visits.offsets[:-1][long] + position if position >= 0 else visits.offsets[1:][long] - 1
    last = visits.action[visits.offsets[1:][long] - 1]
    check_calibrated(events["purchase"][e], np.isin(last, [2, 3]))


def test_bought_items_are_returned_as_often_as_stated(busy):
    _, _, visits, events = busy
    last = visits.offsets[1:] - 1
    bought = last[np.isin(visits.action[last], [2, 3])]
    check_calibrated(events["return"][bought], visits.action[bought] == 3)


def test_the_likeliest_item_comes_as_often_as_stated(busy):
    _, truth, visits, _ = busy
    third = visits.offsets[:-1] + 2
    histories = visits.item[np.stack([third - 2, third - 1], axis=1)] + RESERVED
    answer = truth.next_items(histories)
    for rank in (0, 3):
        item = np.argsort(-answer, axis=1, kind="stable")[:, rank]
        stated = np.take_along_axis(answer, item[:, None], axis=1)[:, 0]
        check_calibrated(stated, visits.item[third] == item)


def test_a_cart_makes_a_purchase_likelier_and_items_alone_say_less(busy):
    _, truth, visits, _ = busy
    items = np.array([[10, 20, 30]])
    view, cart = (truth.actions.index(name) + RESERVED for name in ("view", "cart"))
    looked, took = np.full((1, 3), view), np.full((1, 3), cart)
    assert truth.purchase(items, looked) < truth.purchase(items) < truth.purchase(items, took)


def test_the_truth_ranks_far_better_than_popularity():
    shop = Shop(sequences=1500)
    _, truth = make_shop(shop)
    visits = simulate_visits(shop, truth)
    best = truth.ndcg(visits.offsets, visits.item + RESERVED, 10).mean()
    popular = popularity_ndcg(visits.offsets, visits.item, shop.items, 10).mean()
    assert best > 0.35
    assert popular < 0.1


def test_forgetting_all_but_the_last_item_costs_a_fifth_of_the_ndcg():
    shop = Shop(sequences=1500)
    _, truth = make_shop(shop)
    visits = simulate_visits(shop, truth)
    best = truth.ndcg(visits.offsets, visits.item + RESERVED, 10).mean()
    pairs = visits.item[np.stack([visits.offsets[1:] - 2, visits.offsets[1:] - 1], axis=1)]
    short = truth.ndcg(np.arange(0, 2 * len(pairs) + 1, 2), pairs.ravel() + RESERVED, 10).mean()
    assert short < best * 4 / 5


def test_popularity_ranks_the_unseen_by_count_with_ties_at_their_mean():
    # Counts before the last items: a 3, b 2, c 2, d and e 0. The first two have seen a and b.
    a, b, c, d, e = range(5)
    items = np.array([a, b, c, b, a, d, a, c, e, c, b])
    offsets = np.array([0, 3, 6, 9, 11])
    gains = popularity_ndcg(offsets, items, 5, 10)
    # c first; d behind c, tied with e; e behind b, tied with d; b behind a.
    np.testing.assert_allclose(gains, 1 / np.log2([2, 3.5, 3.5, 3]))
    flat = popularity_ndcg(np.array([0, 3]), np.array([a, b, c]), 5, 10)
    np.testing.assert_allclose(flat, 1 / np.log2(3))  # c, d and e share the ranks 0, 1 and 2


def test_a_shop_has_titles_categories_prices_and_vocabularies_by_frequency(tmp_path):
    simulate(tmp_path / "shop", SMALL)
    data = open_dataset(tmp_path / "shop")
    assert (data.sequences, data.size("item")) == (300, 40 + RESERVED)
    assert sorted(data.columns) == ["action", "item", "price", "time"]
    items = data.vocabulary("item")
    titles, count = items.column("title"), items.column("count")
    assert len(set(titles)) == 40
    assert set(items.column("category")) <= set(CATEGORY_PRICES)
    assert titles[0].split()[1] == items.column("category")[0]
    ordered = sorted(zip(count, items.tokens(), strict=True), key=lambda pair: (-pair[0], pair[1]))
    assert items.tokens() == [token for _, token in ordered]
    np.testing.assert_array_equal(count, np.bincount(data.columns["item"] - RESERVED, minlength=40))
    assert tuple(data.vocabulary("action").tokens()) == load_truth(data.path).actions
    price = np.array(items.column("price"), np.float32)
    np.testing.assert_array_equal(price[data.columns["item"] - RESERVED], data.columns["price"])


def test_sequences_visit_no_item_twice_and_buy_only_the_last(tmp_path):
    simulate(tmp_path / "shop", SMALL)
    data = open_dataset(tmp_path / "shop")
    actions = np.array(data.vocabulary("action").tokens())[data.columns["action"] - RESERVED]
    for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True):
        assert 3 <= end - start <= SMALL.max_length
        assert len(set(data.columns["item"][start:end])) == end - start
        assert (np.diff(data.columns["time"][start:end]) > 0).all()
        assert set(actions[start : end - 1]) <= {"view", "cart"}
    assert set(actions[data.offsets[1:] - 1]) == {"view", "cart", "buy", "return"}


def content(path):
    return {f.relative_to(path): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        simulate(tmp_path / name, dataclasses.replace(SMALL, seed=seed))
    same, again, other = (content(tmp_path / name) for name in "abc")
    assert same == again
    assert all(same[name] != other[name] for name in same if name.name in ("item.npy", "taste.npy"))
    fingerprints = {name: open_dataset(tmp_path / name).fingerprint for name in "abc"}
    assert fingerprints["a"] == fingerprints["b"] != fingerprints["c"]


def test_more_sequences_visit_the_same_shop():
    more = dataclasses.replace(SMALL, sequences=7)
    assert make_shop(SMALL)[0].title == make_shop(more)[0].title
    np.testing.assert_array_equal(make_shop(SMALL)[1].related, make_shop(more)[1].related)


def test_in_a_small_catalog_sequences_end_at_half_of_it():
    _, truth = tiny()
    shop = Shop(sequences=500, items=6, seed=1, tastes=2)
    assert np.diff(simulate_visits(shop, truth).offsets).max() == 3


def test_nothing_of_the_truth_is_pickled(tmp_path):
    simulate(tmp_path / "shop", SMALL)
    arrays = list((tmp_path / "shop").rglob("*.npy"))
    assert len(arrays) > 10
    for path in arrays:
        np.load(path, allow_pickle=False)


def test_the_command_reports_the_best_possible_ndcg(tmp_path, capsys):
    out = str(tmp_path / "shop")
    main(["--out", out, "--sequences", "200", "--items", "100", "--seed", "2", "--tastes", "2"])
    text = capsys.readouterr().out
    possible = json.loads((tmp_path / "shop/truth/truth.json").read_text())["ndcg@10"]
    assert f"{out}: 200 sequences, " in text and "100 items" in text
    assert f"best possible  {possible['best_possible']:.4f}" in text
    assert f"popularity     {possible['popularity']:.4f}" in text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sequences": 0}, "sequences=0"),
        ({"items": 5}, "items=5 must be at least 6"),
        ({"mean_length": 2.0}, "mean_length=2.0 must lie between 3 and max_length=50"),
        ({"mean_length": float("nan")}, "mean_length=nan"),
        ({"tastes": 0}, "tastes=0"),
        ({"thrift": 2.5}, "thrift=2.5 must lie between 0 and 2"),
        ({"moves": (0.7, 0.3)}, "moves="),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_impossible_parameters_of_a_shop_are_an_error_with_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        Shop(**options)


def test_an_impossible_history_is_an_error():
    _, truth = make_shop(SMALL)
    with pytest.raises(ValueError, match="46 is not the id of an item"):
        truth.next_item(np.array([6, 46]))
    with pytest.raises(ValueError, match="item 7 appears twice"):
        truth.next_item(np.array([7, 8, 7]))
    with pytest.raises(ValueError, match="pad it at its end"):
        truth.next_item(np.array([PAD, 7]))
    bought = truth.actions.index("buy") + RESERVED
    with pytest.raises(ValueError, match="a purchase ends a sequence"):
        truth.purchase(np.array([[7]]), np.array([[bought]]))


def test_a_data_set_that_was_not_simulated_has_no_truth(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no truth/truth.json"):
        load_truth(tmp_path)


def test_a_data_set_is_replaced_with_overwrite_only(tmp_path):
    simulate(tmp_path / "shop", SMALL)
    with pytest.raises(FileExistsError, match="--overwrite"):
        simulate(tmp_path / "shop", SMALL)
    again = dataclasses.replace(SMALL, seed=9)
    simulate(tmp_path / "shop", again, overwrite=True)
    assert open_dataset(tmp_path / "shop").info["options"]["seed"] == 9
