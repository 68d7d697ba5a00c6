"""Sequence packing: compared with the slow version and with the best packing, and the fill that it reaches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing import reference
from packing.plan.fill import fewest_packs, fill_limited, fill_packs


@st.composite
def pieces(draw: st.DrawFn, most: int = 80) -> tuple[list[int], int]:
    capacity = draw(st.sampled_from([1, 7, 13, 20, 64, 513, 1024, 5000]))
    sizes = st.integers(1, capacity) | st.integers(1, max(1, capacity // 8)) | st.just(capacity)
    return draw(st.lists(sizes, max_size=most)), capacity


@given(pieces(most=40))
@settings(max_examples=150)
def test_it_packs_like_the_slow_version_that_tries_all_pairs(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    assert fill_packs(lengths, capacity) == reference.fill_limited([(length,) for length in lengths], [capacity])


@st.composite
def limited(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], list[int]]:
    """((tokens, patches, media, attention) of text and of pictures with text, limits that each piece keeps)."""
    capacity = draw(st.sampled_from([13, 64, 513, 2000]))
    text = st.integers(1, capacity).map(lambda tokens: (tokens, 0, 0))
    seen = st.tuples(st.integers(1, capacity), st.integers(1, 4 * capacity), st.integers(1, 5))
    short = st.tuples(st.integers(1, max(1, capacity // 9)), st.integers(0, capacity), st.integers(0, 2))
    rows = draw(st.lists(text | seen | short, min_size=1, max_size=60))
    costs = [(*cost, cost[0] ** 2) for cost in rows]
    loose = draw(st.tuples(*(st.sampled_from([1, 2, 4]) for _ in range(3))))
    needed = [max(1, *column) for column in list(zip(*costs, strict=True))[1:]]
    return costs, [capacity, *(most * times for most, times in zip(needed, loose, strict=True))]


@given(limited())
@settings(max_examples=200)
def test_with_several_limits_it_packs_like_the_slow_version(
    case: tuple[list[tuple[int, ...]], list[int]],
) -> None:
    costs, limits = case
    assert fill_limited(np.array(costs), limits) == reference.fill_limited(costs, limits)


@given(limited())
@settings(max_examples=100)
def test_every_limit_is_kept_and_every_piece_is_packed_once(case: tuple[list[tuple[int, ...]], list[int]]) -> None:
    costs, limits = np.array(case[0]), np.array(case[1])
    packs = fill_limited(costs, case[1])
    assert sorted(piece for pack in packs for piece in pack) == list(range(len(costs)))
    assert all((costs[pack].sum(0) <= limits).all() for pack in packs)
    assert fewest_packs(costs, limits) <= len(packs)


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


def mixed(random: np.random.Generator, packs: int, capacity: int, most_patches: int) -> np.ndarray:
    """(tokens, patches, media, attention): half of the samples show one to twelve pictures, the rest is text."""
    rows: list[tuple[int, int, int]] = []
    left = packs * capacity
    while left > 0:
        count = int(random.choice([0, 0, 0, 1, 1, 3, 12]))
        slots = int(random.lognormal(5.0, 0.9, count).clip(4, 900).sum())
        tokens = int(random.lognormal(4.5 if count else 6.3, 1.2)) + 8 + 5 * count + slots
        if tokens <= capacity and 4 * slots <= most_patches:
            rows.append((tokens, 4 * slots, count))
            left -= tokens
    return np.array([(*row, row[0] ** 2) for row in rows], np.int64)


@pytest.mark.parametrize(
    ("capacity", "patches", "bar"),
    [
        *((capacity, patches, 0.98) for capacity in (4096, 32768, 262144) for patches in (0.5, 0.9)),
        *((capacity, patches, 0.98) for capacity in (32768, 262144) for patches in (1.0, 1.3)),
        (4096, 1.0, 0.95),  # five pieces a pack, and two limits that leave nothing over
        (4096, 1.3, 0.95),
    ],
)
def test_mixed_samples_fill_the_binding_limit(capacity: int, patches: float, bar: float) -> None:
    """`patches`: packs that the patches need over packs that the tokens need."""
    costs = mixed(np.random.default_rng(1), 64 if capacity == 262144 else 128, capacity, capacity // 2)
    per_token = costs.sum(0) / costs[:, 0].sum()
    limits = [
        capacity,
        *np.maximum(per_token * capacity / [1, patches, 0.3, 0.9], costs.max(0)).astype(int).tolist()[1:],
    ]
    packs = fill_limited(costs, limits)
    assert fewest_packs(costs, np.array(limits)) >= bar * len(packs)


@pytest.mark.parametrize("lengths", [[0], [3, 11], [-1]])
def test_a_piece_that_can_not_fit_is_an_error(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"do not fit packs of \[10\]"):
        fill_packs(lengths, 10)
