"""Dealing work to ranks."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.balance import deal, encoder_cost, llm_cost

costs = st.lists(st.integers(0, 1000), max_size=40)


@given(costs, st.integers(1, 6))
def test_everything_is_dealt_once(costs: list[int], ranks: int) -> None:
    dealt = deal(costs, ranks)
    assert sorted(work for mine in dealt for work in mine) == list(range(len(costs)))
    assert all(mine == sorted(mine) for mine in dealt)


@given(costs, st.integers(1, 6))
def test_no_rank_has_more_than_a_fair_part_and_one_piece(costs: list[int], ranks: int) -> None:
    loads = [sum(costs[work] for work in mine) for mine in deal(costs, ranks)]
    assert max(loads) <= sum(costs) / ranks + max(costs, default=0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 3))
def test_the_largest_load_is_at_most_a_third_over_the_best_possible(costs: list[int], ranks: int) -> None:
    loads = [sum(costs[work] for work in mine) for mine in deal(costs, ranks)]
    ways = product(range(ranks), repeat=len(costs))
    best = min(
        max(sum(c for c, r in zip(costs, way, strict=True) if r == rank) for rank in range(ranks)) for way in ways
    )
    assert max(loads) <= 4 / 3 * best


@given(st.integers(1, 6), st.integers(0, 5), st.data())
def test_rows_are_dealt_in_equal_numbers(ranks: int, each: int, data: st.DataObject) -> None:
    costs = data.draw(st.lists(st.integers(0, 1000), min_size=ranks * each, max_size=ranks * each))
    assert {len(mine) for mine in deal(costs, ranks, equal_counts=True)} <= {each}


def test_unequal_numbers_of_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="can't be dealt evenly"):
        deal([1, 2, 3], 2, equal_counts=True)


def test_costs_are_what_attention_and_matrices_cost() -> None:
    assert llm_cost([3, 4]) == 25
    assert encoder_cost((1, 8, 8)) == 64 * (2 * 1152 + 4304 + 64)
    assert encoder_cost((4, 8, 8)) > 4 * encoder_cost((1, 8, 8))
