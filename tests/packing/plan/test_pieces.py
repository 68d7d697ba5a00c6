"""Cutting of samples into pieces, compared with expanded samples that are written out token by token."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manifests.records import Sample, record_id
from packing.mixture import Mixture, PackLimits, Source
from packing.plan import pieces_loops
from packing.plan.pieces import UNLIMITED, WHOLE_OVER_LIMITS, WHOLE_TOO_LONG
from tests.packing.corpus import create, pieces_of, write
from tokenization.vocabulary import Vocabulary

TEXT, WRAPPER, SLOT = range(3)


class Group(NamedTuple):
    """Tokens of one medium in the unexpanded ids, and its expanded tokens, slots and patches."""

    start: int
    place: int
    stop: int
    tokens: int
    slots: int
    patches: int


def cut(
    tokens: int,
    groups: list[Group],
    splits: Sequence[int],
    capacity: int,
    most_patches: int | None = None,
    most_media: int | None = None,
    even: bool = False,
) -> list[tuple[int, ...]] | None:
    """Pieces of one sample between two others; None if it is refused."""
    around = [np.array([3, tokens, 3], np.int64), np.array(groups, np.int64).reshape(-1, 6).T.copy()]
    around += [np.array(ends, np.int64) for ends in ([0, 0, len(groups), len(groups)], splits)]
    outcome = np.zeros(3, np.int64)
    limits = (capacity, most_patches or UNLIMITED, most_media or UNLIMITED)
    offsets = np.array([0, 0, len(splits), len(splits)], np.int64)
    rows = pieces_loops.cut_samples(*around, offsets, *limits, even, outcome).tolist()
    assert outcome[[0, 2]].tolist() == [pieces_loops.CUT] * 2
    if outcome[1]:
        return None
    return [tuple(row[1:]) for row in rows if row[0] == 1]


@st.composite
def samples(draw: st.DrawFn) -> tuple[int, list[Group], list[int]]:
    """(unexpanded tokens, media groups, splits)."""
    at = 0
    groups: list[Group] = []
    allowed: list[int] = []
    for _ in range(draw(st.integers(0, 6))):
        text = draw(st.integers(0, 30))
        allowed += range(at, at + text + 1)
        at += text
        if draw(st.booleans()):
            before, after = draw(st.sampled_from([(3, 1), (0, 0)]))
            slots = draw(st.integers(1, 12))
            tokens = slots + draw(st.integers(0, 3))
            groups.append(Group(at, at + before, at + before + 1 + after, tokens, slots, 4 * slots))
            at += before + 1 + after
    tokens = at + 1
    splits = sorted({s for s in allowed if 0 < s < tokens and draw(st.integers(0, 3)) == 0})
    return tokens, groups, splits


def written_out(tokens: int, groups: list[Group], splits: list[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """Every expanded token as (kind, medium or -1), and the splits in expanded offsets."""
    out: list[tuple[int, int]] = []
    where = []
    for at in range(tokens):
        if at in splits:
            where.append(len(out))
        mine = next((i for i, group in enumerate(groups) if group.start <= at < group.stop), -1)
        if mine >= 0 and at == groups[mine].place:
            out += [(WRAPPER, mine)] * (groups[mine].tokens - groups[mine].slots) + [(SLOT, mine)] * groups[mine].slots
        else:
            out.append((TEXT if mine < 0 else WRAPPER, mine))
    return out, where


@given(samples(), st.integers(1, 40), st.none() | st.integers(4, 60), st.none() | st.integers(1, 4), st.booleans())
def test_pieces_are_consecutive_count_their_content_and_keep_the_limits(
    sample: tuple[int, list[Group], list[int]],
    capacity: int,
    most_patches: int | None,
    most_media: int | None,
    even: bool,
) -> None:
    tokens, groups, splits = sample
    out, _ = written_out(tokens, groups, splits)
    pieces = cut(tokens, groups, splits, capacity, most_patches, most_media, even)
    longest = max((len([1 for _, medium in out if medium == i]) for i in range(len(groups))), default=0)
    if longest > capacity or max((group.patches for group in groups), default=0) > (most_patches or 10**9):
        assert pieces is None
        return
    assert pieces is not None
    assert [start for start, *_ in pieces] + [len(out)] == [0] + [start + length for start, length, *_ in pieces]
    for start, length, slots, patches, media in pieces:
        inside = out[start : start + length]
        seen = {medium for _, medium in inside if medium >= 0}
        assert 1 <= length <= capacity
        assert slots == sum(kind == SLOT for kind, _ in inside)
        assert media == len(seen) <= (most_media or 10**9)
        assert patches == sum(groups[medium].patches for medium in seen) <= (most_patches or 10**9)
    for start, *_ in pieces[1:]:
        assert out[start - 1][1] != out[start][1] or out[start][1] == -1, "a medium was cut"


@given(samples(), st.integers(13, 40), st.none() | st.integers(48, 60), st.none() | st.integers(1, 4))
def test_a_cut_is_at_the_last_split_in_reach_if_there_is_one(
    sample: tuple[int, list[Group], list[int]], capacity: int, most_patches: int | None, most_media: int | None
) -> None:
    tokens, groups, splits = sample
    out, allowed = written_out(tokens, groups, splits)
    pieces = cut(tokens, groups, splits, capacity, most_patches, most_media)
    for start, length, *_ in (pieces or [])[:-1]:
        reach = []
        for split in allowed:
            seen = {medium for _, medium in out[start:split] if medium >= 0}
            patches = sum(groups[medium].patches for medium in seen)
            few = len(seen) <= (most_media or 10**9) and patches <= (most_patches or 10**9)
            reach += [split] if start < split <= start + capacity and few else []
        assert not reach or start + length == reach[-1]


@given(samples(), st.integers(13, 40))
def test_even_pieces_end_where_a_fair_share_is_full_if_there_is_a_split(
    sample: tuple[int, list[Group], list[int]], capacity: int
) -> None:
    tokens, groups, splits = sample
    out, allowed = written_out(tokens, groups, splits)
    for start, length, *_ in (cut(tokens, groups, splits, capacity, even=True) or [])[:-1]:
        left = -(-(len(out) - start) // capacity)
        fair = start + -(-(len(out) - start) // left)
        reach = [split for split in allowed if start < split <= start + capacity]
        assert not reach or start + length == next((split for split in reach if split >= fair), reach[-1])


def test_even_pieces_are_as_many_and_cost_less_attention() -> None:
    splits = list(range(5, 1000, 5))
    for tokens in range(101, 1000, 13):
        greedy, even = cut(tokens, [], splits, 100) or [], cut(tokens, [], splits, 100, even=True) or []
        assert len(even) == len(greedy)
        assert sum(length**2 for _, length, *_ in even) <= sum(length**2 for _, length, *_ in greedy)
    assert [length for _, length, *_ in cut(210, [], splits, 100, even=True) or []] == [70, 70, 70]


def test_a_long_run_without_splits_is_cut_between_tokens_but_not_in_a_medium() -> None:
    picture = Group(8, 11, 13, tokens=4, slots=4, patches=16)
    assert [piece[:3] for piece in cut(30, [picture], [], 10) or []] == [(0, 8, 0), (8, 10, 4), (18, 10, 0), (28, 5, 0)]
    assert cut(30, [picture], [], 7) is None


def test_a_sample_that_must_stay_whole_is_refused_and_counted(tmp_path: Path) -> None:
    def sample(name: str, tokens: int, whole: bool) -> Sample:
        runs = np.array([[1, tokens]], np.int64)
        return Sample(record_id("t", name), "t", "agent", np.zeros(tokens, np.uint32), runs, whole=whole)

    tiny = Vocabulary.load("tiny")
    records = [sample("short", 20, True), sample("fits", 64, True), sample("long", 65, True), sample("cut", 65, False)]
    samples = write(create(tmp_path, "samples"), records, vocabulary=tiny.digest)
    source = Source(name="conversations", input="samples", weight=1.0)
    pieces = pieces_of(samples, source, Mixture(sources=(source,), max_pack_tokens=64, global_batch_packs=1))
    assert dict(pieces.refused) == {WHOLE_TOO_LONG: 1}
    assert sorted(zip(pieces.ordinal.tolist(), pieces.length.tolist(), strict=True)) == [
        (0, 20),
        (1, 64),
        (3, 1),
        (3, 64),
    ]
    assert (pieces.samples, pieces.cut_samples) == (3, 1)

    tight = PackLimits(attention=50**2)
    limited = Mixture(sources=(source,), max_pack_tokens=64, global_batch_packs=1, pack_limits=tight)
    pieces = pieces_of(samples, source, limited)
    assert dict(pieces.refused) == {WHOLE_TOO_LONG: 1, WHOLE_OVER_LIMITS: 1}
    assert sorted(pieces.length.tolist()) == [15, 20, 50]


def test_consecutive_pictures_are_cut_where_a_pack_is_full_of_them() -> None:
    pictures = [Group(5 * i, 5 * i + 3, 5 * i + 5, tokens=4, slots=4, patches=16) for i in range(7)]
    assert cut(35, pictures, [], 100, most_media=3) == [(0, 24, 12, 48, 3), (24, 24, 12, 48, 3), (48, 8, 4, 16, 1)]
    assert cut(35, pictures, [], 100, most_patches=33) == [
        *((start, 16, 8, 32, 2) for start in (0, 16, 32)),
        (48, 8, 4, 16, 1),
    ]
    assert cut(35, pictures, [], 100, most_patches=15) is None


def test_a_book_is_cut_in_time_that_grows_with_its_length() -> None:
    """A paragraph every 60 tokens, about, and a picture every 500."""

    def seconds(tokens: int) -> float:
        random = np.random.default_rng(0)
        splits = np.unique(random.integers(1, tokens, tokens // 60))
        splits = splits[splits % 500 > 8].tolist()
        groups = [Group(at, at + 3, at + 5, 100, 100, 400) for at in range(0, tokens - 10, 500)]
        start = time.process_time()
        pieces = cut(tokens, groups, splits, 4096, 16384, 64)
        took = time.process_time() - start
        assert pieces is not None and sum(length for _, length, *_ in pieces) == tokens + 99 * len(groups)
        assert len(pieces) < 1.05 * (tokens + 99 * len(groups)) / 4096 + 1
        return took

    short = min(seconds(300_000) for _ in range(3))
    assert min(seconds(3_000_000) for _ in range(3)) < 25 * max(short, 0.002)
