"""Plans in little memory: the number of partitions and the use of files have no influence on the plan."""

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
from tests.packing.plan.test_planner import CAPTIONS, INTERLEAVED, TEXT, book, cases, make_mixture, pieces, supplies
from tests.packing.plan.test_schedules import SCHEDULES

SMALL = 3_000
"""Bytes of memory that put hundreds of pieces into files, in tens of partitions."""


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "LEAST_PARTITION_BYTES", 100)


def digest_of(mixture: Mixture, sources: Sequence[SourcePieces], scratch: Scratch) -> str:
    """Digest of the plan, or the error for an infeasible one."""
    try:
        return arrange(mixture, sources, "v", scratch=scratch).meta["plan"]
    except ManifestError as error:
        return str(error)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=80), st.integers(1, 9), st.integers(0, 500))
def test_partitions_return_all_rows_in_the_order_of_the_hash(words: list[int], count: int, memory_bytes: int) -> None:
    scratch = Scratch(memory_bytes)
    parts = Partitions(scratch, "words", count, np.dtype(np.uint64))
    for first in range(0, len(words), 7):
        batch = np.array(words[first : first + 7], np.uint64)
        parts.add(batch, parts.of(batch))
    read = [parts.read(number) for number in range(count)]
    assert [word for part in read for word in np.sort(part).tolist()] == sorted(words)
    kept = [[word for word in words if word in set(part.tolist())] for part in read]
    assert [part.tolist() for part in read] == kept, "not in the order in which they were added"
    assert (scratch.file_bytes > 0) == (8 * len(words) > memory_bytes)


@given(cases(), st.sampled_from(SCHEDULES), st.sampled_from([200, SMALL]))
@settings(max_examples=60, deadline=None)
def test_a_plan_does_not_depend_on_the_memory(
    case: tuple[Mixture, list[SourcePieces]], schedule: dict[str, object], memory_bytes: int
) -> None:
    plain, sources = case
    share = VisionShare(**schedule)  # type: ignore[arg-type]
    plain = dataclasses.replace(plain, horizon_tokens=plain.horizon_tokens or 2500, vision_share=share)
    assert digest_of(plain, sources, Scratch(memory_bytes)) == digest_of(plain, sources, Scratch(GIB))


def test_files_are_used_and_deleted_afterwards(tmp_path: Path) -> None:
    sources = [pieces("scenes", CAPTIONS * 100), pieces("pages", INTERLEAVED * 60), pieces("text", TEXT * 400)]
    plain = make_mixture(sources)
    twice = dataclasses.replace(plain, sources=tuple(dataclasses.replace(s, max_epochs=2) for s in plain.sources))
    for mixture in (plain, twice):
        with Scratch(SMALL, tmp_path) as scratch:
            made = [Supply.from_pieces(mixture, number, pieces, scratch) for number, pieces in enumerate(sources)]
            assert min(len(supply.epochs) for supply in made) > 20 and len(list(tmp_path.rglob("*"))) > 90
        with Scratch(SMALL, tmp_path) as scratch:
            plan = arrange(mixture, sources, "v", in_threads, scratch=scratch)
            left = len(list(tmp_path.rglob("*")))
            assert scratch.file_bytes > SMALL and (left < 90 or mixture is twice), (
                "released partitions still have files"
            )
        assert not list(tmp_path.iterdir())
        assert plan.meta == arrange(mixture, sources, "v").meta


KILLED = """
import sys, time, numpy as np
from stores.spill import Partitions, Scratch
parts = Partitions(Scratch(8, sys.argv[1]), "words", 1, np.dtype(np.uint64))
parts.add(np.arange(9, dtype=np.uint64), np.zeros(9, np.uint16))
print(flush=True)
time.sleep(99)
"""


def test_files_of_a_killed_process_are_deleted_by_the_next_one_and_of_a_living_one_kept(
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


def test_a_missing_scratch_folder_is_named(tmp_path: Path) -> None:
    sources = [pieces("text", TEXT * 90)]
    with pytest.raises(StoreError, match=r"nowhere.*\n.*as `scratch`"):
        arrange(make_mixture(sources, 0.0), sources, "v", scratch=Scratch(SMALL, tmp_path / "nowhere"))


@given(st.lists(shown_in, min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_withheld_pieces_do_not_depend_on_the_memory(media: list[list[list[int]]], most: int, epochs: int) -> None:
    sources = [showing(f"s{i}", shown) for i, shown in enumerate(media)]
    mixture = limited(sources, most, epochs)
    results = []
    for memory_bytes in (100, GIB):
        made = supplies(mixture, sources, memory_bytes=memory_bytes)
        rows = [
            [
                sorted(row["ordinal"] for rows, _ in supply.epochs.parts(epoch) for row in rows)
                for epoch in range(epochs)
            ]
            for supply in made
        ]
        results.append((rows, [supply.withheld_tokens for supply in made]))
    assert results[0] == results[1]


def test_an_amended_plan_does_not_depend_on_the_memory(tmp_path: Path) -> None:
    sources = [pieces("text", TEXT * 90), pieces("pictures", CAPTIONS * 50), book("book", 50)]
    plain = make_mixture(sources, horizon_tokens=3000)
    twice = tuple(dataclasses.replace(source, max_epochs=2) for source in plain.sources)
    plain = dataclasses.replace(plain, sources=twice)
    chain = [stored(arrange(plain, sources, "v"), tmp_path)]
    more = dataclasses.replace(plain, seed=3, horizon_tokens=9000)
    digests = set()
    for memory_bytes in (200, GIB):
        scratch = Scratch(memory_bytes)
        prefix = prefix_at(chain, 9, more, "v", scratch)
        digests.add(arrange(more, sources, "v", prefix=prefix, scratch=scratch).meta["plan"])
    assert len(digests) == 1


def test_samples_of_stores_give_the_same_plan_in_little_memory(made: Made) -> None:
    scratch = Scratch(SMALL)
    plan = compile_plan(MIXTURE, made.by_source, tiny, in_threads, scratch=scratch)
    assert scratch.file_bytes > SMALL
    assert plan.meta == {name: made.plan.meta[name] for name in plan.meta}


def test_samples_stored_twice_come_in_the_order_of_the_store() -> None:
    text = pieces("text", TEXT * 60)
    twice = dataclasses.replace(text, keys=np.repeat(text.keys[::2], 2))
    hashes = np.repeat(np.array([5, 3], np.uint64), 3)
    rows = np.zeros(6, [("ordinal", np.int64), ("start", np.int64)])
    rows["ordinal"] = [2, 1, 0, 0, 0, 0]
    rows["start"] = [0, 0, 0, 9, 7, 8]
    assert sort_order(hashes, rows).tolist() == [4, 5, 3, 2, 1, 0]
    for schedule in SCHEDULES:
        sources = [twice, pieces("pictures", CAPTIONS * 60)]
        plain = dataclasses.replace(make_mixture(sources, horizon_tokens=3000), vision_share=VisionShare(**schedule))  # type: ignore[arg-type]
        assert digest_of(plain, sources, Scratch(SMALL)) == digest_of(plain, sources, Scratch(GIB))
