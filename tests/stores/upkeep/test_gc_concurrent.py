"""Garbage collection before and after every change that other work makes to a store deletes none of its files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manifests.errors import StoreError
from stores import leases
from stores.files import local
from stores.files.local import LocalFiles
from stores.forget import forget
from stores.leases import Lease
from stores.store import Snapshot, Store
from stores.upkeep import lookup
from stores.upkeep.copy import copy
from stores.upkeep.gc import collect_garbage
from stores.upkeep.repair import repair
from stores.upkeep.verify import verify
from tests.stores.upkeep.test_verbs import commit, document, shard_files, write

CHANGES = ("publish", "sync", "swap", "delete", "touch")


@pytest.fixture
def store(quick_folder: Path) -> Iterator[Store]:
    """Store with two units."""
    folder = quick_folder / "collected"
    store = Store.create(str(folder / "docs"), "documents", "docs")
    commit(store, "a", "b")
    yield store
    shutil.rmtree(folder)


@contextmanager
def collecting(url: str) -> Iterator[None]:
    """Collect garbage in the store at `url` around every change that this process makes; leases live a minute."""
    running = False

    def gc() -> None:
        nonlocal running
        if not running and Path(url, "store.json").exists():
            running = True
            collect_garbage(Store.open(url), grace_s=60)
            running = False

    def around(act: Callable[..., Any]) -> Callable[..., Any]:
        def acts(*arguments: Any) -> Any:
            gc()
            result = act(*arguments)
            gc()
            return result

        return acts

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(LocalFiles, name, around(getattr(LocalFiles, name)))
        patch.setattr(local, "_link", around(local._link))
        yield


def head(url: str) -> Snapshot:
    snapshot = Store.open(url).head()
    assert snapshot is not None
    return snapshot


def add_unit(store: Store) -> Snapshot:
    return store.commit([write(store, "c")], node="node", units=["a", "b", "c"])


def drop_units(store: Store) -> Snapshot:
    return store.commit([], node="node", units=["a"])


def build_lookup(store: Store) -> Snapshot:
    snapshot = head(store.url)
    lookup.build(snapshot)
    assert not head(store.url).lookup.scanned
    return snapshot


def copy_store(store: Store) -> Snapshot:
    lookup.build(head(store.url))
    return copy(head(store.url), f"{store.url}-copy")


def salvage(store: Store) -> Snapshot:
    path = shard_files(store)[0]
    os.truncate(path, path.stat().st_size // 2)
    result = repair(store, accept=True)
    assert result.lost and leases.count_living(store.files, 60, leases.now_s(store.files)) == 0
    return result.snapshot


def forget_record(store: Store) -> Snapshot:
    ids = frozenset({document("a", 3).id})
    names: forget.Names = {"ids": ids, "sources": frozenset(), "places": frozenset(), "media": frozenset()}
    forget.forget(str(Path(store.url).parent), names)
    return head(store.url)


@pytest.mark.parametrize("work", [add_unit, drop_units, build_lookup, copy_store, salvage, forget_record])
def test_gc_during_other_work_deletes_nothing_of_it(work: Callable[[Store], Snapshot], store: Store) -> None:
    with collecting(f"{store.url}-copy" if work is copy_store else store.url):
        done = work(store)
    assert verify(done) == [] and done.root == head(done.url).root
    assert leases.count_living(done.files, 60, leases.now_s(done.files)) == 0


@pytest.mark.parametrize("work", [add_unit, drop_units, build_lookup, copy_store, salvage, forget_record])
def test_without_heartbeats_gc_would_delete_files_of_other_work(
    work: Callable[[Store], Snapshot], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "renew", lambda self: None)
    with collecting(f"{store.url}-copy" if work is copy_store else store.url):
        try:
            harmed = verify(work(store)) != []
        except (StoreError, FileNotFoundError):
            harmed = True
    assert harmed


def test_old_temporary_files_of_a_living_writer_are_kept(store: Store) -> None:
    writer = store.writer("c", 4000)
    for number in range(30):
        writer.add(document("c", number))
    temporary = list(Path(store.url, "aside").iterdir())
    assert len(temporary) > 1
    for path in temporary:
        os.utime(path, (time.time() - 7200,) * 2)
    assert collect_garbage(store).files == []
    assert verify(store.commit([writer.finish()], node="node", units=["a", "b", "c"])) == []
    for path in temporary:
        path.write_bytes(b"left by a writer that was killed")
        os.utime(path, (time.time() - 7200,) * 2)
    collect_garbage(store)
    assert not list(Path(store.url, "aside").iterdir())
