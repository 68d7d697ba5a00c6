"""Cutting samples into pieces, against the expanded sample written out token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manifests.records import Sample, record_id
from packing.mixture import Mixture, Source
from packing.pieces import WHOLE_TOO_LONG, Group, cut, pieces_of
from tests.packing.corpus import create, write
from tokenization.vocabulary import Vocabulary

TEXT, WRAPPER, SLOT = range(3)


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
            groups.append(Group(at, at + before, at + before + 1 + after, slots + draw(st.integers(0, 3)), slots))
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


@given(samples(), st.integers(1, 40))
def test_pieces_follow_each_other_and_count_their_slots(
    sample: tuple[int, list[Group], list[int]], capacity: int
) -> None:
    tokens, groups, splits = sample
    out, _ = written_out(tokens, groups, splits)
    pieces = cut(tokens, groups, splits, capacity)
    longest = max((len([1 for _, medium in out if medium == i]) for i in range(len(groups))), default=0)
    if longest > capacity:
        assert pieces is None
        return
    assert pieces is not None
    assert [start for start, _, _ in pieces] + [len(out)] == [0] + [start + length for start, length, _ in pieces]
    for start, length, slots in pieces:
        inside = out[start : start + length]
        assert 1 <= length <= capacity
        assert slots == sum(kind == SLOT for kind, _ in inside)
    for start, _, _ in pieces[1:]:
        assert out[start - 1][1] != out[start][1] or out[start][1] == -1, "a medium was cut"


@given(samples(), st.integers(13, 40))
def test_a_cut_is_at_the_last_split_in_reach_if_there_is_one(
    sample: tuple[int, list[Group], list[int]], capacity: int
) -> None:
    tokens, groups, splits = sample
    _, allowed = written_out(tokens, groups, splits)
    pieces = cut(tokens, groups, splits, capacity)
    for start, length, _ in (pieces or [])[:-1]:
        reach = [split for split in allowed if start < split <= start + capacity]
        assert not reach or start + length == reach[-1]


def test_a_long_run_without_splits_is_cut_between_tokens_but_not_in_a_medium() -> None:
    picture = Group(8, 11, 13, tokens=4, slots=4)
    assert cut(30, [picture], [], 10) == [(0, 8, 0), (8, 10, 4), (18, 10, 0), (28, 5, 0)]
    assert cut(30, [picture], [], 7) is None


def test_a_sample_that_is_whole_is_refused_rather_than_cut_and_counted(tmp_path: Path) -> None:
    def sample(name: str, tokens: int, whole: bool) -> Sample:
        runs = np.array([[1, tokens]], np.int64)
        return Sample(record_id("t", name), "t", "agent", np.zeros(tokens, np.uint32), runs, whole=whole)

    tiny = Vocabulary.load("tiny")
    found = [sample("short", 20, True), sample("fits", 64, True), sample("long", 65, True), sample("cut", 65, False)]
    samples = write(create(tmp_path, "samples"), found, vocabulary=tiny.digest)
    source = Source(name="talk", store="samples", weight=1.0)
    pieces = pieces_of(samples, source, Mixture(sources=(source,), max_pack_tokens=64, global_batch_packs=1), tiny)
    assert dict(pieces.refused) == {WHOLE_TOO_LONG: 1}
    assert sorted(zip(pieces.ordinal.tolist(), pieces.length.tolist(), strict=True)) == [
        (0, 20),
        (1, 64),
        (3, 1),
        (3, 64),
    ]
    assert (pieces.samples, pieces.cut_samples) == (3, 1)
