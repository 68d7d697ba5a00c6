"""Sequence packing: against looking at every pack, against all packings, and how full packs get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing import reference
from packing.sequence import fill_packs


@st.composite
def pieces(draw: st.DrawFn, most: int = 80) -> tuple[list[int], int]:
    capacity = draw(st.sampled_from([1, 7, 13, 20, 64, 513, 1024, 5000]))
    sizes = st.integers(1, capacity) | st.integers(1, max(1, capacity // 8)) | st.just(capacity)
    return draw(st.lists(sizes, max_size=most)), capacity


@given(pieces())
@settings(max_examples=200)
def test_it_packs_as_looking_at_all_pairs_does(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    assert fill_packs(lengths, capacity) == reference.fill_packs(lengths, capacity)


@given(pieces())
def test_every_piece_is_packed_once_and_no_pack_is_over_full(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    packs = fill_packs(lengths, capacity)
    assert sorted(piece for pack in packs for piece in pack) == list(range(len(lengths)))
    assert all(sum(lengths[piece] for piece in pack) <= capacity for pack in packs)


@given(pieces(most=9))
def test_few_pieces_need_at_most_one_pack_more_than_the_best_packing(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    best = reference.smallest_number_of_packs(lengths, capacity)
    assert len(fill_packs(lengths, capacity)) <= best + 1


def blocks(kind: str) -> np.ndarray:
    """Lengths of one block of 256 packs of 1,024 tokens."""
    random = np.random.default_rng(0)
    lengths = {
        "spread widely": random.lognormal(5.5, 1.0, 5000),
        "all alike": random.normal(265, 60, 5000),
        "short beside full": np.concatenate([random.integers(31, 81, 2500), np.full(300, 980)]),
    }[kind]
    lengths = random.permutation(lengths).astype(int).clip(8, 1024)
    return lengths[: np.searchsorted(np.cumsum(lengths), 256 * 1024)]


@pytest.mark.parametrize("kind", ["spread widely", "all alike", "short beside full"])
def test_ordinary_documents_fill_their_packs(kind: str) -> None:
    lengths = blocks(kind)
    packs = fill_packs(lengths, 1024)
    assert lengths.sum() / (len(packs) * 1024) > 0.995
    assert len(packs) <= len(reference.best_fit_decreasing(lengths.tolist(), 1024))


@pytest.mark.parametrize("lengths", [[0], [3, 11], [-1]])
def test_a_piece_that_can_not_fit_is_an_error(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit packs of 10"):
        fill_packs(lengths, 10)
