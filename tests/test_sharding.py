"""How much is done at once, by backend and size."""

import jax
import pytest

from clickflax.runtime import sharding


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_scores_of_sixteen_mebibytes_are_made_whole_and_more_in_chunks_of_one():
    assert sharding.chunk_items(0, 1024, 4096) == 4096
    assert sharding.chunk_items(0, 1024, 4097) == 256  # 256 x 1,024 x 4 bytes
    assert sharding.chunk_items(0, 2**20, 4097) == 1
    assert sharding.chunk_items(100, 1, 4096) == 100
    assert sharding.chunk_items(5000, 1, 4096) == 4096


def test_an_accelerator_holds_more_scores(gpu):
    assert sharding.chunk_items(0, 2**16, 4096) == 4096
    assert sharding.chunk_items(0, 2**16, 4097) == 1024


def test_steps_go_one_by_one_on_cpu_and_where_the_data_do_not_fit():
    assert sharding.steps_at_once(0, 1000) == 1
    assert sharding.steps_at_once(7, 2**40) == 7


def test_steps_go_by_the_fifty_on_an_accelerator_where_the_data_fit(gpu):
    assert sharding.steps_at_once(0, 2**31) == 50
    assert sharding.steps_at_once(0, 2**31 + 1) == 1


def test_a_cpu_takes_rows_of_eight_hundred_tokens_with_few_empty_ones():
    assert sharding.micro_rows(0, 200, 69) == 3  # 23 times 3; four would leave 3 empty
    assert sharding.micro_rows(0, 200, 72) == 4
    assert sharding.micro_rows(0, 50, 11) == 11
    assert sharding.micro_rows(9, 200, 72) == 9
    assert sharding.micro_rows(9, 200, 5) == 5


def test_an_accelerator_takes_all_rows(gpu):
    assert sharding.micro_rows(0, 200, 69) == 69
