"""Order of pieces: permutations by key, credits between streams, legs of a schedule."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.schedule import Curve, VisionShare
from packing.plan.legs import NEVER, legs_of
from packing.plan.order import Order, permutation
from tests.packing.plan.test_planner import L, make_mixture, pieces, supplies

keys = st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=60).map(lambda words: np.array(words, np.uint64))


@given(keys, st.integers(0, 5), st.integers(0, 5))
def test_a_permutation_has_every_index_once(words: np.ndarray, seed: int, epoch: int) -> None:
    assert sorted(permutation(seed, epoch, "s", words).tolist()) == list(range(len(words)))


@given(keys, st.randoms(use_true_random=False))
def test_the_order_of_pieces_does_not_depend_on_their_positions_in_the_store(words: np.ndarray, random: object) -> None:
    shuffled = words.tolist()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    moved = np.array(shuffled, np.uint64)
    assert words[permutation(1, 0, "s", words)].tolist() == moved[permutation(1, 0, "s", moved)].tolist()


def test_seed_epoch_and_source_each_change_the_order() -> None:
    many = np.arange(200, dtype=np.uint64)
    orders = [permutation(*key, many).tolist() for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_the_order_is_pinned() -> None:
    assert permutation(17, 2, "books", np.arange(10, dtype=np.uint64)).tolist() == [8, 2, 4, 1, 3, 7, 9, 5, 6, 0]


def test_each_piece_is_first_equally_often() -> None:
    firsts = [permutation(seed, 0, "s", np.arange(4, dtype=np.uint64))[0] for seed in range(2000)]
    assert np.bincount(firsts).min() > 430


lengths = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=40), min_size=1, max_size=5)


@given(lengths, st.data())
@settings(deadline=None)
def test_tokens_follow_the_weights_within_the_stated_bound(sizes: list[list[int]], data: st.DataObject) -> None:
    """Until the first source ends: a source is drawn from only while it has most credit, so none is ahead by more than
    one piece; as all credits sum to 0, none is behind by more than the others are ahead."""
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(sizes), max_size=len(sizes)))
    sources = [pieces(f"s{i}", [(length, 0) for length in lengths]) for i, lengths in enumerate(sizes)]
    plain = make_mixture(sources, 0.0)
    weighed = tuple(dataclasses.replace(s, weight=float(w)) for s, w in zip(plain.sources, weights, strict=True))
    given_tokens, taken = [0] * len(sizes), Counter[int]()
    longest = max(map(max, sizes))
    for chunk in Order(weighted := dataclasses.replace(plain, sources=weighed), supplies(weighted, sources)):
        for source, length in zip(chunk["source"].tolist(), chunk["length"].tolist(), strict=True):
            given_tokens[source] += length
            taken[source] += 1
            if any(taken[i] == len(lengths) for i, lengths in enumerate(sizes)):
                return
            for mine, weight in zip(given_tokens, weights, strict=True):
                behind = weight / sum(weights) * sum(given_tokens) - mine
                assert -longest - 0.01 <= behind <= (len(sizes) - 1) * longest + 0.01


def test_a_group_divides_its_weight_and_takes_the_part_of_a_source_that_is_used_up() -> None:
    sources = [pieces(name, [(10, 0)] * count) for name, count in (("a", 30), ("b", 600), ("c", 600))]
    plain = make_mixture(sources, 0.0)
    named = (
        dataclasses.replace(plain.sources[0], group="g", weight=3.0),
        dataclasses.replace(plain.sources[1], group="g", weight=1.0),
        dataclasses.replace(plain.sources[2], weight=1.0),
    )
    grouped = dataclasses.replace(plain, sources=named, groups={"g": 1.0})
    drawn = np.concatenate([c["source"] for c in Order(grouped, supplies(grouped, sources), goal=8000)])
    early, late = np.bincount(drawn[:80], minlength=3), np.bincount(drawn[400:], minlength=3)
    assert early.tolist() == [30, 10, 40], "3 : 1 within the group, and the group as much as the other source"
    assert late.tolist() == [0, 200, 200]


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=4))
def test_legs_are_consecutive_and_begin_with_the_share_at_their_start(rows: list[tuple[int, int, int]]) -> None:
    starts = np.cumsum([0, *(tokens for tokens, _, _ in rows[:-1])]).tolist()
    curve = Curve.of(
        [(s, a / 100, (b if s < starts[-1] else a) / 100) for s, (_, a, b) in zip(starts, rows, strict=True)]
    )
    legs = legs_of(curve, L)
    assert legs[0].start == 0 and legs[-1].early_from == NEVER
    assert all(a.start < b.start and a.early_from < b.start for a, b in pairwise(legs))
    assert all(leg.threshold == int(curve.at(leg.start) * 10**6) for leg in legs)
    assert set(curve.starts) <= {leg.start for leg in legs}


def test_a_leg_wants_no_vision_only_if_its_share_stays_0() -> None:
    legs = legs_of(VisionShare(piecewise=((0, 0.0), (100, 0.0), (300, 0.2))).over(None), L)
    assert [leg.vision for leg in legs[:2]] == [False, True] and legs[1].threshold == 0
