"""Dealing of rows and media items to ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing import reference
from packing.loader.balance import deal, encoder_cost, llm_cost, lower_bound
from tests.packing.corpus import Made

costs = st.lists(st.integers(0, 1000), max_size=40)


@given(costs, st.integers(1, 6))
def test_every_piece_is_dealt_once(costs: list[int], ranks: int) -> None:
    dealt = deal(costs, ranks)
    assert sorted(index for indexes in dealt for index in indexes) == list(range(len(costs)))
    assert all(indexes == sorted(indexes) for indexes in dealt)


@given(costs, st.integers(1, 6))
def test_no_rank_has_more_than_the_mean_load_and_one_piece(costs: list[int], ranks: int) -> None:
    loads = [sum(costs[i] for i in indexes) for indexes in deal(costs, ranks)]
    assert max(loads) <= sum(costs) / ranks + max(costs, default=0)


@given(st.integers(1, 6), st.integers(0, 5), st.data())
def test_rows_are_dealt_in_equal_numbers(ranks: int, each: int, data: st.DataObject) -> None:
    costs = data.draw(st.lists(st.integers(0, 1000), min_size=ranks * each, max_size=ranks * each))
    assert {len(indexes) for indexes in deal(costs, ranks, equal_counts=True)} <= {each}


def test_a_number_of_rows_that_ranks_do_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="can't be dealt evenly"):
        deal([1, 2, 3], 2, equal_counts=True)


def test_costs_count_attention_and_matrix_operations() -> None:
    assert llm_cost([3, 4]) == 25
    assert encoder_cost((1, 8, 8)) == 64 * (2 * 1152 + 4304 + 64)
    assert encoder_cost((4, 8, 8)) > 4 * encoder_cost((1, 8, 8))


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.data(),
)
@settings(max_examples=150)
def test_small_deals_are_near_the_optimum(ranks: int, each: int, equal_counts: bool, data: st.DataObject) -> None:
    costs = data.draw(st.lists(st.integers(0, 60), min_size=ranks * each, max_size=ranks * each))
    dealt = deal(costs, ranks, equal_counts=equal_counts)
    best = reference.best_busiest_load(costs, ranks, each if equal_counts else len(costs))
    busiest = max(sum(costs[i] for i in indexes) for indexes in dealt)
    assert lower_bound(costs, ranks, equal_counts=equal_counts) <= best <= busiest <= best * 1.2


@given(st.sampled_from([2, 3, 8, 16, 64]), st.integers(8, 24), st.booleans(), st.integers(0, 10**6))
@settings(max_examples=60)
def test_with_several_pieces_per_rank_the_busiest_is_within_five_percent_of_the_lower_bound(
    ranks: int, each: int, equal_counts: bool, seed: int
) -> None:
    """Costs as in training: squares of lengths up to a row, a few of them very large."""
    random = np.random.default_rng(seed)
    costs = (random.lognormal(7, 1, ranks * each).clip(1, 32768) ** 2).astype(np.int64).tolist()
    dealt = deal(costs, ranks, equal_counts=equal_counts)
    busiest = max(sum(costs[i] for i in indexes) for indexes in dealt)
    assert busiest <= 1.05 * lower_bound(costs, ranks, equal_counts=equal_counts)


def test_real_batches_are_balanced_over_two_ranks(made: Made) -> None:
    """Over two ranks: twelve ranks would get one row each."""
    size = made.packs.meta["global_batch_packs"]
    for first in range(0, made.packs.counts["records"], size):
        packs = list(made.packs.records(first, first + size))
        rows = [llm_cost(segment.length for segment in pack.segments) for pack in packs]
        items = [encoder_cost(item.grid) for pack in packs for packed in pack.media for item in packed.items]
        for costs, equal_counts in ((rows, True), (items, False)):
            dealt = deal(costs, 2, equal_counts=equal_counts)
            busiest = max(sum(costs[i] for i in indexes) for indexes in dealt)
            assert busiest <= 1.05 * lower_bound(costs, 2, equal_counts=equal_counts)
