"""Lookup by name: equal to a scan after any change to store and lookup index, and of constant cost."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import StoreError
from manifests.records import Document, Item, Location, Media, Pack, PackedMedia, Sample, Segment, Text, record_id
from stores import reference
from stores.files.local import LocalFiles
from stores.forget.forget import forget
from stores.lookup.find import encode_name, manifest_path, name_hash
from stores.lookup.run_file import COVER, ENTRY, NewEntries, RunFile, write_run
from stores.store import Receipt, Snapshot, Store
from stores.upkeep import lookup
from stores.upkeep.copy import copy
from stores.upkeep.gc import collect_garbage
from stores.upkeep.repair import repair
from stores.upkeep.verify import verify
from tests.servers.faulty import Faulty

BY = ("id", "url", "digest")
NONE = np.zeros(0, np.uint64)


def picture(number: int) -> Media:
    payload = b"picture %d" % number
    return Media(sha256(payload).hexdigest(), "image", "png", 28, 28, payload=payload)


def document(unit: str, number: int) -> Document:
    """Document that may share its origin or its image with others, or have neither."""
    place = f"{unit}/{number}"
    parts = (Text(f"text {place}"), *([picture(number % 5)] if number % 3 else []))
    origin = f"https://a.example/{number % 7}" if number % 2 else ""
    return Document(record_id("s", place), "s", place, "web", parts, origin=origin)


def sample(unit: str, number: int) -> Sample:
    shown = located(number) if number % 3 else ()
    ids = np.arange(20, dtype=np.uint32)
    return Sample(
        record_id("s", f"{unit}/{number}"), "s", "web", ids, np.zeros((0, 2), np.int64), shown, places=(3,) * len(shown)
    )


def located(number: int) -> tuple[Media, ...]:
    return (replace(picture(number % 5), payload=None, location=Location("0" * 64, 512, 9)),)


def pack(unit: str, number: int) -> Pack:
    shown = (PackedMedia(picture(number % 5), (28, 28), (Item((1, 2, 2), 3),)),) if number % 3 else ()
    ids = np.full(16, number, np.uint32)
    return Pack(ids, np.zeros(16, bool), (Segment(record_id("s", f"{unit}/{number}"), "s", 0, 16),), shown)


MAKERS = {"documents": document, "samples": sample, "packs": pack}


def write_unit(store: Store, unit: str, count: int = 12, shard_bytes: int = 6000) -> Receipt:
    writer = store.writer(unit, shard_bytes)
    for number in range(count):
        writer.add(MAKERS[store.kind](unit, number))
    return writer.finish()


def commit(store: Store, *units: str) -> Snapshot:
    head = store.head()
    have = set(head.units) if head is not None else set()
    return store.commit([write_unit(store, unit) for unit in units if unit not in have], node="node", units=units)


@pytest.fixture
def store(quick_folder: Path) -> Store:
    """Store in a folder of its own: `gc` also reads the stores next to it, and other tests leave damaged ones."""
    return Store.create(str(Path(tempfile.mkdtemp(dir=quick_folder), "docs")), "documents", "docs")


def names(units: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names of records that may exist, and names that no record has."""
    for unit in units:
        for number in (0, 4, 11):
            yield "id", record_id("s", f"{unit}/{number}")
            yield "url", f"{unit}/{number}"
    for number in (1, 3, 7):
        yield "url", f"https://a.example/{number}"
        yield "digest", picture(number).digest
    yield from (("id", "no id"), ("id", "0" * 32), ("digest", "0" * 64), ("url", ""), ("url", "\ud800"))


def check(snapshot: Snapshot, units: Iterable[str]) -> None:
    expected = reference.ordinals_by_name(snapshot)
    for by, name in names(units):
        records = snapshot.find(by, name)  # type: ignore[arg-type]
        assert [record.ordinal for record in records] == expected.get((by, name), []), (by, name)
        for record in records:
            ref = snapshot.shard_of(record.ordinal)
            assert (record.unit, record.shard, record.row) == (ref.unit, ref.shard, record.ordinal - ref.first)


def run_files(store: Store) -> list[Path]:
    return sorted(Path(store.url, "lookup").glob("*.run"))


# ---------------------------------------------------------------- results


@given(data=st.data(), kind=st.sampled_from(sorted(MAKERS)))
@settings(max_examples=8, deadline=None)
def test_a_lookup_equals_a_scan_after_any_change_to_the_store(
    quick_folder: Path, data: st.DataObject, kind: Any
) -> None:
    store = Store.create(tempfile.mkdtemp(dir=quick_folder), kind, kind)
    units = ["a", "b", "c"]
    steps = st.lists(st.sets(st.sampled_from(units), min_size=1), min_size=1, max_size=4)
    for wanted in data.draw(steps):
        snapshot = commit(store, *sorted(wanted))
        match data.draw(st.sampled_from(["build", "leave", "delete", "damage"])):
            case "build":
                lookup.build(snapshot)
                assert not store.snapshot(snapshot.number).lookup.scanned
            case "delete":
                for path in Path(store.url, "lookup").glob("*"):
                    path.unlink()
            case "damage" if run_files(store):
                flip(run_files(store)[-1], data.draw(st.integers(0, 10**6)))
    check(store.snapshot(snapshot.number), units)


def flip(path: Path, place: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[place % len(damaged)] ^= 1 << place % 8
    path.unlink()
    path.write_bytes(damaged)


def test_a_view_finds_its_records_through_its_base(store: Store, tmp_path: Path) -> None:
    base = commit(store, "a", "b")
    lookup.build(base)
    for complete in (False, True):
        view = Store.create(str(tmp_path / f"view-{complete}"), "view", "view")
        writer = view.writer("all")
        for ref in base.shards if complete else base.shards[1::2]:
            writer.columns(ref.shard, {"keep": [row > 0 for row in range(ref.records)]})
        made = view.commit([writer.finish()], node="n", units=["all"], parents=[base.as_parent], complete=complete)
        check(made, ["a", "b"])


@pytest.mark.parametrize("few", [0, 16])
def test_the_index_distinguishes_names_of_equal_hash(few: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stores.lookup.find.FEW", few)
    monkeypatch.setattr("stores.lookup.find.name_hash", lambda by: len)
    snapshot = commit(store, "a", "b")
    lookup.build(snapshot)
    assert not snapshot.lookup.scanned
    check(snapshot, ["a", "b"])


# ---------------------------------------------------------------- runs


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=4),
    spread=st.sampled_from([2, 60, 2**64 - 1]),
    pieces=st.sampled_from([50, 1 << 20]),
)
@settings(max_examples=40, deadline=None)
def test_a_merged_run_has_the_entries_of_its_sources(
    quick_folder: Path, seed: int, sizes: list[int], spread: int, pieces: int
) -> None:
    files = LocalFiles(Path(tempfile.mkdtemp(dir=quick_folder)))
    random_ = np.random.default_rng(seed)
    parts, sources = [], []
    for number, size in enumerate(sizes):
        part = np.zeros(size, ENTRY)
        part["hash"] = random_.integers(0, spread, size, np.uint64, endpoint=True)
        part["shard"] = random_.integers(0, 4, size, np.uint64) + np.uint64(10 * number)
        part["row"] = random_.integers(0, 100, size)
        covers = np.array([(10 * number + shard, 7) for shard in range(4)], COVER)
        entry = write_run(files, [(NewEntries(part, covers), NONE)])
        files.sync()
        dropped = np.array([10 * number + 1], np.uint64) if number % 2 else NONE
        sources.append((RunFile(files, entry), dropped))
        parts.append(part[~np.isin(part["shard"], dropped)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stores.lookup.run_file.PIECE", pieces)
        entry = write_run(files, sources)
    files.sync()
    merged, entries = RunFile(files, entry), np.concatenate(parts)
    assert entry.entries == len(entries) and len(merged.covers) == entry.shards
    hashes = [*np.unique(entries["hash"]).tolist()[::7], 0, 2**64 - 1, spread // 2]
    for value in hashes:
        expected = entries[entries["hash"] == value]
        assert sorted(merged.find(value).tolist()) == sorted(expected.tolist())


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_changed_byte_of_a_run_is_an_error_or_changes_no_result(quick_folder: Path, seed: int) -> None:
    files = LocalFiles(Path(tempfile.mkdtemp(dir=quick_folder)))
    random_ = np.random.default_rng(seed)
    entries = np.zeros(700, ENTRY)
    entries["hash"] = random_.integers(0, 2**64, len(entries), np.uint64)
    entries["row"] = np.arange(len(entries))
    entry = write_run(files, [(NewEntries(entries, np.zeros(0, COVER)), NONE)])
    files.sync()
    flip(next(Path(files.url, "lookup").glob("*.run")), int(random_.integers(0, 10**6)))
    damaged, refused = RunFile(LocalFiles(Path(files.url)), entry), 0
    for value, _, row in entries.tolist():
        try:
            assert damaged.find(value)["row"].tolist() == [row]
        except StoreError:
            refused += 1
    assert refused


@contextmanager
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Record the length of every range that is read."""
    lengths: list[int] = []
    read_range = LocalFiles.read_range

    def counted(self: LocalFiles, path: str, offset: int, length: int) -> bytes:
        lengths.append(length)
        return read_range(self, path, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "read_range", counted)
        yield lengths


def test_a_lookup_takes_two_small_reads_in_a_run_of_any_length(
    quick_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = LocalFiles(Path(tempfile.mkdtemp(dir=quick_folder)))
    longest = []
    for size in (600_000, 1_200_000):
        entries = np.zeros(size, ENTRY)
        entries["hash"] = np.random.default_rng(size).integers(0, 2**64, size, np.uint64)
        entry = write_run(files, [(NewEntries(entries, np.zeros(0, COVER)), NONE)])
        files.sync()
        with reads(monkeypatch) as lengths:
            for value in entries["hash"][:200].tolist():
                assert len(RunFile(files, entry).find(value)) == 1
        assert len(lengths) == 400
        longest.append(max(lengths))
    assert max(longest) < 6000


# ---------------------------------------------------------------- upkeep


def test_a_new_unit_adds_a_run_and_four_runs_are_merged(store: Store) -> None:
    units: list[str] = []
    counts = []
    for number in range(9):
        units.append(f"u{number}")
        snapshot = commit(store, *units)
        before = set(run_files(store))
        lookup.build(snapshot)
        assert len(set(run_files(store)) - before) == 1 and not snapshot.lookup.scanned
        counts.append(len(snapshot.lookup._manifest.runs))
    assert counts == [1, 2, 3, 1, 2, 3, 1, 2, 3]
    check(snapshot, units)
    before = set(run_files(store))
    again = commit(store, *units[1:8])  # one run has lost all its shards, another some: nothing is written
    lookup.build(again)
    assert again.lookup._manifest.runs == snapshot.lookup._manifest.runs[:2] and set(run_files(store)) == before
    check(again, units)


def test_a_lookup_index_built_in_many_parts_is_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = commit(store, "a", "b", "c")
    monkeypatch.setattr(lookup, "AT_ONCE", 10)
    lookup.build(snapshot)
    assert len(run_files(store)) == 1 and not list(Path(store.url, "aside").glob("*"))
    check(snapshot, ["a", "b", "c"])


def test_a_damaged_run_under_a_damaged_manifest_is_built_again(store: Store) -> None:
    snapshot = commit(store, "a", "b")
    lookup.build(snapshot)
    for path in (*run_files(store), Path(store.url, manifest_path(snapshot.number))):
        flip(path, 7)
    assert repair(store).lookup_made
    assert verify(snapshot) == [] and not store.snapshot(snapshot.number).lookup.scanned


@pytest.mark.parametrize("where", ["run", "manifest"])
def test_damage_is_reported_worked_around_and_repaired(store: Store, where: str) -> None:
    snapshot = commit(store, "a", "b")
    assert verify(snapshot) == []
    lookup.build(snapshot)
    assert verify(snapshot) == []
    path = run_files(store)[0] if where == "run" else Path(store.url, manifest_path(snapshot.number))
    rows = random.Random(1)
    for _ in range(6):
        whole = path.read_bytes()
        flip(path, rows.randrange(10**6))
        assert [damage.where for damage in verify(snapshot)] == [f"docs/lookup/{path.name}"]
        check(store.snapshot(snapshot.number), [])
        path.write_bytes(whole)
    path.unlink()
    check(store.snapshot(snapshot.number), ["a"])
    done = repair(store)
    assert done.lookup_made and done.snapshot.number == snapshot.number
    assert verify(snapshot) == [] and not store.snapshot(snapshot.number).lookup.scanned
    assert not repair(store).lookup_made


def test_a_damaged_index_is_an_error_and_no_wrong_result(store: Store) -> None:
    snapshot = commit(store, "a")
    lookup.build(snapshot)
    for path in Path(store.url, "index").glob("*.core.parquet"):
        flip(path, 1000)
    with pytest.raises(StoreError, match="not those that were committed"):
        store.snapshot(snapshot.number).find("id", record_id("s", "a/1"))


def test_gc_keeps_the_lookup_index_of_live_snapshots(store: Store) -> None:
    for units in (["a"], ["a", "b"], ["b", "c"]):
        lookup.build(commit(store, *units))
    collect_garbage(store, grace_s=0)
    for number in (1, 2, 3):
        assert not store.snapshot(number).lookup.scanned
    collect_garbage(store, keep_last=1, grace_s=0)
    left = {path.name for path in Path(store.url, "lookup").iterdir()}
    manifest = store.snapshot(3).lookup._manifest
    assert left == {"000003.json", *(f"{run.digest}.run" for run in manifest.runs)}
    check(store.snapshot(3), ["a", "b", "c"])


def test_a_copy_includes_the_lookup_index_unless_it_is_damaged(store: Store, tmp_path: Path) -> None:
    snapshot = commit(store, "a", "b")
    lookup.build(snapshot)
    first = copy(snapshot, str(tmp_path / "first"))
    assert not first.lookup.scanned
    check(first, ["a", "b"])
    flip(run_files(store)[0], 3)
    second = copy(Store.open(store.url).snapshot(1), str(tmp_path / "second"))
    assert len(second.lookup.scanned) == len(second.shards)
    check(second, ["a"])


def test_forgotten_names_are_in_no_run(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "run" / "docs"), "documents", "docs")
    lookup.build(commit(store, "a", "b", "old"))
    lookup.build(commit(store, "a", "b", "c"))
    deleted, old = document("a", 1), document("old", 2)
    shared = picture(4).digest  # shown by documents of every unit

    def in_runs(names: set[tuple[str, str]]) -> set[tuple[str, str]]:
        content = b"".join(path.read_bytes() for path in run_files(store))
        hashes = {(by, name): name_hash(by)(encode_name(by, name)) for by, name in names}  # type: ignore[arg-type]
        return {pair for pair, value in hashes.items() if value.to_bytes(8, "little") in content}

    def forget_and_check(**names: set[str]) -> None:
        kinds = ("ids", "sources", "places", "media")
        forget(str(tmp_path / "run"), {kind: frozenset(names.get(kind, ())) for kind in kinds})  # type: ignore[misc]
        head = store.head()
        assert head is not None and not head.lookup.scanned
        check(head, ["a", "b", "c"])

    stale = {("id", old.id), ("url", old.locator)}  # only in older snapshots, but in a run that is still needed
    named = {("id", deleted.id), ("url", deleted.locator), ("digest", shared), ("id", document("c", 4).id)}
    assert in_runs(stale | named) == stale | named
    forget_and_check(ids={old.id})
    assert in_runs(stale | named) == named
    forget_and_check(ids={deleted.id}, media={shared})
    assert in_runs(stale | named) == set()


def test_a_lookup_on_s3_takes_few_requests(s3: Faulty) -> None:
    store = Store.create("s3://mill/lookup-store", "documents", "docs")
    snapshot = commit(store, "a", "b", "c")
    lookup.build(snapshot)
    opened = Store.open(store.url).snapshot(snapshot.number)
    (ordinal, *_) = reference.ordinals_by_name(snapshot)["url", "b/4"]
    assert [record.ordinal for record in opened.find("url", "b/4")] == [ordinal]
    s3.seen.clear()
    records = opened.find("id", document("c", 5).id)
    assert len(records) == 1 and len(s3.seen) <= 2  # a bucket and an index; fences and lists are cached


class Killed(BaseException):
    """Simulated end of the process."""


@contextmanager
def killed_before(change: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raise Killed before change number `change` of the filesystem, counted from 0."""
    done = [0]

    def counting(name: str) -> Any:
        act = getattr(LocalFiles, name)

        def acts(*arguments: Any) -> Any:
            if done[0] == change:
                raise Killed
            done[0] += 1
            return act(*arguments)

        return acts

    with monkeypatch.context() as patch:
        for name in ("publish", "sync", "swap", "delete", "touch"):
            patch.setattr(LocalFiles, name, counting(name))
        yield


@pytest.mark.parametrize("verb", ["build", "rebuild_purged"])
def test_a_build_killed_before_any_change_can_be_repeated(
    verb: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = commit(store, "a", "b")
    for change in range(100):
        if change == 0 or verb == "rebuild_purged":
            lookup.build(first)
        second = commit(store, "a", *(["c"] if change % 2 else ["d"]))
        try:
            with killed_before(change, monkeypatch):
                getattr(lookup, verb)(second)
        except Killed:
            check(store.snapshot(second.number), ["c"])
            getattr(lookup, verb)(second)
            ended = False
        else:
            ended = True
        opened = store.snapshot(second.number)
        assert not opened.lookup.scanned and opened.lookup.error is None
        check(opened, ["a", "b", "c"])
        if ended:
            break
    assert change >= 4
