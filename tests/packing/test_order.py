"""Order: permutations by key, and exact accounts between streams."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from packing.order import interleave, permutation

names = st.lists(st.text("abc0123", min_size=1, max_size=8), unique=True, max_size=60)


@given(names, st.integers(0, 5), st.integers(0, 5))
def test_it_is_a_permutation(names: list[str], seed: int, epoch: int) -> None:
    assert sorted(permutation(seed, epoch, "s", names).tolist()) == list(range(len(names)))


@given(names, st.randoms(use_true_random=False))
def test_the_order_of_names_does_not_depend_on_where_they_lie(names: list[str], random: object) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    in_order = [names[i] for i in permutation(1, 0, "s", names)]
    assert in_order == [shuffled[i] for i in permutation(1, 0, "s", shuffled)]


def test_seed_epoch_and_source_each_change_the_order() -> None:
    many = [str(i) for i in range(200)]
    orders = [permutation(*key, many).tolist() for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_the_order_is_pinned() -> None:
    assert permutation(17, 2, "books", map(str, range(10))).tolist() == [6, 7, 9, 0, 3, 8, 5, 4, 2, 1]


def test_first_places_are_spread_evenly() -> None:
    firsts = [permutation(seed, 0, "s", map(str, range(4)))[0] for seed in range(2000)]
    assert np.bincount(firsts).min() > 430


streams = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=40), min_size=1, max_size=5)


@given(streams, st.data())
def test_interleaving_keeps_each_streams_order_and_loses_nothing(lengths: list[list[int]], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(lengths), max_size=len(lengths)))
    merged = list(interleave([things(i, one) for i, one in enumerate(lengths)], weights))
    for i, one in enumerate(lengths):
        assert [j for stream, j in merged if stream == i] == list(range(len(one)))


@given(streams, st.data())
def test_tokens_follow_the_weights_within_the_stated_bound(lengths: list[list[int]], data: st.DataObject) -> None:
    """Until the first stream ends: nobody is further than (k - 1) * m from its due."""
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(lengths), max_size=len(lengths)))
    longest = max(max(one) for one in lengths)
    given_tokens = [0] * len(lengths)
    taken = [0] * len(lengths)
    for i, j in interleave([things(i, one) for i, one in enumerate(lengths)], weights):
        given_tokens[i] += lengths[i][j]
        taken[i] += 1
        for stream, weight in enumerate(weights):
            behind = weight * sum(given_tokens) - given_tokens[stream] * sum(weights)
            assert abs(behind) <= max(1, len(lengths) - 1) * longest * sum(weights)
            assert behind >= -longest * sum(weights)
        if taken[i] == len(lengths[i]):
            break


def things(stream: int, lengths: list[int]):  # type: ignore[no-untyped-def]
    return ((length, (stream, j)) for j, length in enumerate(lengths))
