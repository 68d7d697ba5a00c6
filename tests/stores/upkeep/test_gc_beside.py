"""Garbage is collected before and after every change that others make to a store, and takes nothing of theirs."""

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
    """Two units."""
    folder = quick_folder / "beside"
    store = Store.create(str(folder / "docs"), "documents", "docs")
    commit(store, "a", "b")
    yield store
    shutil.rmtree(folder)


@contextmanager
def collecting(url: str) -> Iterator[None]:
    """In the store at `url`, around every change that this process makes to a filesystem; leases live a minute."""
    at_work = False

    def gc() -> None:
        nonlocal at_work
        if not at_work and Path(url, "store.json").exists():
            at_work = True
            collect_garbage(Store.open(url), grace_s=60)
            at_work = False

    def around(act: Callable[..., Any]) -> Callable[..., Any]:
        def acts(*given: Any) -> Any:
            gc()
            done = act(*given)
            gc()
            return done

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


def comes(store: Store) -> Snapshot:
    return store.commit([write(store, "c")], node="node", units=["a", "b", "c"])


def goes(store: Store) -> Snapshot:
    return store.commit([], node="node", units=["a"])


def looked_up(store: Store) -> Snapshot:
    snapshot = head(store.url)
    lookup.build(snapshot)
    assert not head(store.url).lookup.scanned
    return snapshot


def copied(store: Store) -> Snapshot:
    lookup.build(head(store.url))
    return copy(head(store.url), f"{store.url}-copy")


def salvaged(store: Store) -> Snapshot:
    path = shard_files(store)[0]
    os.truncate(path, path.stat().st_size // 2)
    done = repair(store, accept=True)
    assert done.lost and leases.count_living(store.files, 60, leases.now_s(store.files)) == 0
    return done.snapshot


def forgotten(store: Store) -> Snapshot:
    gone = frozenset({document("a", 3).id})
    names: forget.Names = {"ids": gone, "sources": frozenset(), "places": frozenset(), "media": frozenset()}
    forget.forget(str(Path(store.url).parent), names)
    return head(store.url)


@pytest.mark.parametrize("work", [comes, goes, looked_up, copied, salvaged, forgotten])
def test_whatever_is_done_to_a_store_nothing_of_it_is_collected(
    work: Callable[[Store], Snapshot], store: Store
) -> None:
    with collecting(f"{store.url}-copy" if work is copied else store.url):
        done = work(store)
    assert verify(done) == [] and done.root == head(done.url).root
    assert leases.count_living(done.files, 60, leases.now_s(done.files)) == 0


@pytest.mark.parametrize("work", [comes, goes, looked_up, copied, salvaged, forgotten])
def test_without_a_sign_of_life_it_would_be(
    work: Callable[[Store], Snapshot], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "renew", lambda self: None)
    with collecting(f"{store.url}-copy" if work is copied else store.url):
        try:
            harmed = verify(work(store)) != []
        except (StoreError, FileNotFoundError):
            harmed = True
    assert harmed


def test_what_a_living_writer_put_aside_long_ago_stays(store: Store) -> None:
    writer = store.writer("c", 4000)
    for number in range(30):
        writer.add(document("c", number))
    aside = list(Path(store.url, "aside").iterdir())
    assert len(aside) > 1
    for path in aside:
        os.utime(path, (time.time() - 7200,) * 2)
    assert collect_garbage(store).files == []
    assert verify(store.commit([writer.finish()], node="node", units=["a", "b", "c"])) == []
    for path in aside:
        path.write_bytes(b"left by a writer that was killed")
        os.utime(path, (time.time() - 7200,) * 2)
    collect_garbage(store)
    assert not list(Path(store.url, "aside").iterdir())
