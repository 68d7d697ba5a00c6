"""Sequence packing: against looking at every pack, against all packings, and how full packs get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing import reference
from packing.sequence import best_fit_decreasing


@st.composite
def pieces(draw: st.DrawFn, most: int = 80) -> tuple[list[int], int]:
    capacity = draw(st.sampled_from([1, 7, 64, 511, 512, 513, 1024, 5000]))
    sizes = st.integers(1, capacity) | st.integers(1, max(1, capacity // 8)) | st.just(capacity)
    return draw(st.lists(sizes, max_size=most)), capacity


@given(pieces())
def test_it_packs_as_looking_at_every_open_pack_does(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    assert best_fit_decreasing(lengths, capacity) == reference.best_fit_decreasing(lengths, capacity)


@given(pieces())
def test_every_piece_is_packed_once_and_no_pack_is_over_full(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    packs = best_fit_decreasing(lengths, capacity)
    assert sorted(piece for pack in packs for piece in pack) == list(range(len(lengths)))
    assert all(sum(lengths[piece] for piece in pack) <= capacity for pack in packs)


@given(pieces(most=9))
def test_it_needs_at_most_what_the_theorem_allows_over_the_best_packing(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    best = reference.smallest_number_of_packs(lengths, capacity)
    assert len(best_fit_decreasing(lengths, capacity)) <= 11 / 9 * best + 6 / 9


@pytest.mark.parametrize("capacity", [1024, 4096])
def test_a_block_of_ordinary_documents_fills_its_packs(capacity: int) -> None:
    lengths = np.random.default_rng(0).lognormal(5.5, 1.0, 100_000).astype(int).clip(8, capacity)
    block = lengths[: np.searchsorted(np.cumsum(lengths), 256 * capacity)]
    packs = best_fit_decreasing(block, capacity)
    assert block.sum() / (len(packs) * capacity) > 0.995


@pytest.mark.parametrize("lengths", [[0], [3, 11], [-1]])
def test_a_piece_that_can_not_fit_is_an_error(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit packs of 10"):
        best_fit_decreasing(lengths, 10)
