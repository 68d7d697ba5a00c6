"""The plan is the same in whatever memory it is made, and so however many parts its pieces are sorted in."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError, StoreError
from manifests.schedule import VisionShare
from packing.mixture import Mixture
from packing.plan import epochs
from packing.plan.amend import prefix_at
from packing.plan.epochs import sort_order
from packing.plan.pieces import SourcePieces
from packing.plan.planner import arrange, compile_plan, in_threads
from packing.plan.supply import Supply
from stores.spill import GIB, Partitions, Scratch
from tests.packing.corpus import MIXTURE, Made, tiny
from tests.packing.plan.test_amend import stored
from tests.packing.plan.test_media_caps import limited, showing, shown_in
from tests.packing.plan.test_planner import CAPTIONS, INTERLEAVED, TEXT, book, cases, mixture, pieces, supplies
from tests.packing.plan.test_schedules import SCHEDULES

SMALL = 3_000
"""Bytes: some hundred pieces are in files, in some ten partitions."""


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "LEAST_PARTITION_BYTES", 100)


def digest_of(mixed: Mixture, sources: Sequence[SourcePieces], scratch: Scratch) -> str:
    """Of the plan, or why it is refused."""
    try:
        return arrange(mixed, sources, "v", scratch=scratch).meta["plan"]
    except ManifestError as error:
        return str(error)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=80), st.integers(1, 9), st.integers(0, 500))
def test_partitions_give_back_what_came_in_in_the_order_of_the_hash(
    words: list[int], count: int, memory_bytes: int
) -> None:
    scratch = Scratch(memory_bytes)
    parts = Partitions(scratch, "words", count, np.dtype(np.uint64))
    for first in range(0, len(words), 7):
        some = np.array(words[first : first + 7], np.uint64)
        parts.add(some, parts.of(some))
    found = [parts.read(number) for number in range(count)]
    assert [word for part in found for word in np.sort(part).tolist()] == sorted(words)
    kept = [[word for word in words if word in set(part.tolist())] for part in found]
    assert [part.tolist() for part in found] == kept, "not in the order in which they were added"
    assert (scratch.file_bytes > 0) == (8 * len(words) > memory_bytes)


@given(cases(), st.sampled_from(SCHEDULES), st.sampled_from([200, SMALL]))
@settings(max_examples=60, deadline=None)
def test_a_plan_does_not_depend_on_the_memory(
    case: tuple[Mixture, list[SourcePieces]], schedule: dict[str, object], memory_bytes: int
) -> None:
    one, sources = case
    one = dataclasses.replace(one, horizon_tokens=one.horizon_tokens or 2500, vision_share=VisionShare(**schedule))  # type: ignore[arg-type]
    assert digest_of(one, sources, Scratch(memory_bytes)) == digest_of(one, sources, Scratch(GIB))


def test_files_are_used_and_gone_afterwards(tmp_path: Path) -> None:
    sources = [pieces("scenes", CAPTIONS * 100), pieces("pages", INTERLEAVED * 60), pieces("text", TEXT * 400)]
    one = mixture(sources)
    twice = dataclasses.replace(one, sources=tuple(dataclasses.replace(s, max_epochs=2) for s in one.sources))
    for mixed in (one, twice):
        with Scratch(SMALL, tmp_path) as scratch:
            made = [Supply.from_pieces(mixed, number, some, scratch) for number, some in enumerate(sources)]
            assert min(len(one.epochs) for one in made) > 20 and len(list(tmp_path.rglob("*"))) > 90
        with Scratch(SMALL, tmp_path) as scratch:
            plan = arrange(mixed, sources, "v", in_threads, scratch=scratch)
            left = len(list(tmp_path.rglob("*")))
            assert scratch.file_bytes > SMALL and (left < 90 or mixed is twice), "what was passed is still there"
        assert not list(tmp_path.iterdir())
        assert plan.meta == arrange(mixed, sources, "v").meta


KILLED = """
import sys, time, numpy as np
from stores.spill import Partitions, Scratch
parts = Partitions(Scratch(8, sys.argv[1]), "words", 1, np.dtype(np.uint64))
parts.add(np.arange(9, dtype=np.uint64), np.zeros(9, np.uint16))
print(flush=True)
time.sleep(99)
"""


def test_files_of_a_killed_process_are_removed_by_the_next_one_and_of_a_living_one_are_not(
    tmp_path: Path,
) -> None:
    folders: list[Path] = []
    children = []
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
        children.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        folders += set(tmp_path.iterdir()) - set(folders)
    children[0].kill()
    children[0].wait()
    for folder in folders:
        os.utime(folder, (0, 0))
    with Scratch(8, tmp_path) as scratch:
        Partitions(scratch, "words", 1, np.dtype(np.uint64)).add(np.arange(9, dtype=np.uint64), np.zeros(9, np.uint16))
        assert len(list(tmp_path.iterdir())) == 2 and folders[1].exists()
    assert list(tmp_path.iterdir()) == [folders[1]]
    children[1].kill()
    children[1].wait()


def test_a_scratch_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    sources = [pieces("text", TEXT * 90)]
    with pytest.raises(StoreError, match=r"nowhere.*\n.*as `scratch`"):
        arrange(mixture(sources, 0.0), sources, "v", scratch=Scratch(SMALL, tmp_path / "nowhere"))


@given(st.lists(shown_in, min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_what_is_withheld_does_not_depend_on_the_memory(media: list[list[list[int]]], most: int, epochs: int) -> None:
    sources = [showing(f"s{i}", one) for i, one in enumerate(media)]
    mixed = limited(sources, most, epochs)
    told = []
    for memory_bytes in (100, GIB):
        made = supplies(mixed, sources, memory_bytes=memory_bytes)
        rows = [
            [sorted(row["ordinal"] for rows, _ in one.epochs.parts(epoch) for row in rows) for epoch in range(epochs)]
            for one in made
        ]
        told.append((rows, [one.withheld_tokens for one in made]))
    assert told[0] == told[1]


def test_an_amended_plan_does_not_depend_on_the_memory(tmp_path: Path) -> None:
    sources = [pieces("text", TEXT * 90), pieces("pictures", CAPTIONS * 50), book("book", 50)]
    one = mixture(sources, horizon_tokens=3000)
    twice = tuple(dataclasses.replace(source, max_epochs=2) for source in one.sources)
    one = dataclasses.replace(one, sources=twice)
    chain = [stored(arrange(one, sources, "v"), tmp_path)]
    more = dataclasses.replace(one, seed=3, horizon_tokens=9000)
    digests = set()
    for memory_bytes in (200, GIB):
        scratch = Scratch(memory_bytes)
        prefix = prefix_at(chain, 9, more, "v", scratch)
        digests.add(arrange(more, sources, "v", prefix=prefix, scratch=scratch).meta["plan"])
    assert len(digests) == 1


def test_samples_of_real_stores_give_the_same_plan_in_little_memory(made: Made) -> None:
    scratch = Scratch(SMALL)
    plan = compile_plan(MIXTURE, made.by_source, tiny, in_threads, scratch=scratch)
    assert scratch.file_bytes > SMALL
    assert plan.meta == {name: made.plan.meta[name] for name in plan.meta}


def test_samples_that_are_there_twice_come_in_the_order_of_the_store() -> None:
    text = pieces("text", TEXT * 60)
    twice = dataclasses.replace(text, keys=np.repeat(text.keys[::2], 2))
    hashes = np.repeat(np.array([5, 3], np.uint64), 3)
    rows = np.zeros(6, [("ordinal", np.int64), ("start", np.int64)])
    rows["ordinal"] = [2, 1, 0, 0, 0, 0]
    rows["start"] = [0, 0, 0, 9, 7, 8]
    assert sort_order(hashes, rows).tolist() == [4, 5, 3, 2, 1, 0]
    for schedule in SCHEDULES:
        sources = [twice, pieces("pictures", CAPTIONS * 60)]
        one = dataclasses.replace(mixture(sources, horizon_tokens=3000), vision_share=VisionShare(**schedule))  # type: ignore[arg-type]
        assert digest_of(one, sources, Scratch(SMALL)) == digest_of(one, sources, Scratch(GIB))
