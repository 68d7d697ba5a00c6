"""Store: a folder, or any fsspec URL, whose content is everything that its newest root reaches.

    worker: store.writer(unit) -> add ... -> finish() -> Receipt     (new files, invisible to readers)
    one committer per node: store.commit(receipts, ...) -> Snapshot  (swaps in the next root)
    reader: store.head() -> Snapshot

    store.json                kind, schema, name, primitive of the swap, and the lock if commits need one
    roots/000007.json         immutable; the highest number is the head
    lists/DIGEST.jsonl        units and their shards, about a thousand per list; DIGEST.bin is the directory over all
    shards/DIGEST.tar         ordinary WebDataset tars
    index/DIGEST.core.parquet and .media.parquet per shard; .columns.parquet: columns of views, or brought along
    lookup/                   index from id, URL and digest to record: derived, may be deleted (`lookup/find.py`)
    quarantine/DIGEST.jsonl   quarantined records of a unit
    aside/                    files being written, or left by killed writers
    leases/                   units being written; tags/: names of snapshots

The first commit of a unit wins, so retries, duplicates and late receipts change nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

from manifests.errors import StoreError
from manifests.records import Json, canonical_json
from stores import leases
from stores.commit import NextUnit, publish_lists, swap_root
from stores.commits.directory import Directory, key_of
from stores.commits.head import newest_root, read_meta
from stores.commits.lists import RecordRef, ShardRef
from stores.commits.roots import SCHEMA, Parent, Receipt, Root, unit_paths
from stores.files.open import open_files
from stores.files.protocol import Files, publish_bytes
from stores.files.swap_lock import SwapLock
from stores.snapshot import Snapshot, ViewSnapshot, snapshot_of
from stores.writer import SHARD_BYTES, UnitWriter

__all__ = ["Parent", "Receipt", "RecordRef", "ShardRef", "Snapshot", "Store", "StoreKind", "UnitWriter"]

StoreKind = Literal["documents", "view", "samples", "plan", "packs"]


class Store:
    """Store at a URL: writers for its units, commits, and its snapshots."""

    def __init__(self, files: Files, meta: Mapping[str, Json]) -> None:
        """Use `create`, `open` or `open_or_create` instead.

        Args:
            meta: content of `store.json`.
        """
        self.files, self.meta = files, meta
        self._existing_root = 0
        """Number of a root that exists; 0 if none is known to."""

    @classmethod
    def create(cls, url: str, kind: StoreKind, name: str, *, lock: str | None = None) -> Store:
        """Create an empty store.

        Args:
            lock: local path or URL of a folder where commits are decided, for a filesystem without a swap
                (`files/swap_lock.py`).
        Raises:
            StoreError: there is a store already, or the swap of the filesystem overwrites.
        """
        if kind not in get_args(StoreKind):
            raise ValueError(f"{kind!r} is no kind of store")
        files = open_files(url)
        if files.exists("store.json"):
            raise StoreError("there is a store here already", where=files.url, fix="open it, or choose another place")
        meta = {"kind": kind, "schema": SCHEMA, "name": name, "swap": "lock" if lock else files.swap_by}
        if lock:
            meta["lock"] = lock if "://" in lock else os.path.abspath(lock)
            _use_lock(files, meta)
        files.check_swap()
        publish_bytes(files, canonical_json(meta).encode(), "store.json")
        files.sync()
        return cls.open(url)

    @classmethod
    def open(cls, url: str) -> Store:
        """Open a store. Raises StoreError if there is none, or one of another schema."""
        files = open_files(url)
        meta = read_meta(files)
        if "lock" in meta:
            _use_lock(files, meta)
        return cls(files, meta)

    @classmethod
    def open_or_create(cls, url: str, kind: StoreKind, name: str) -> Store:
        """Open a store, or create it. Raises StoreError if there is a store of another kind."""
        files = open_files(url)
        store = cls.open(url) if files.exists("store.json") else cls.create(url, kind, name)
        if store.kind != kind:
            message = f"this is a store of {store.kind}, expected {kind}"
            raise StoreError(message, where=files.url, fix="choose another place")
        return store

    @property
    def url(self) -> str:
        return self.files.url

    @property
    def kind(self) -> StoreKind:
        return self.meta["kind"]

    @property
    def name(self) -> str:
        return self.meta["name"]

    def head(self) -> Snapshot | None:
        """Return the newest snapshot; None before the first commit."""
        self._existing_root = newest_root(self.files, self._existing_root)
        return self.snapshot(self._existing_root) if self._existing_root else None

    def snapshot(self, number: int) -> Snapshot:
        """Return a snapshot by number. Raises StoreError if there is none."""
        return snapshot_of(self.files, self.meta, number)

    def writer(self, unit: str, shard_bytes: int = SHARD_BYTES) -> UnitWriter:
        """Return a writer for one unit; use one per unit, in any process."""
        return UnitWriter(self.files, self.kind, unit, shard_bytes)

    def commit(
        self,
        receipts: Iterable[Receipt],
        *,
        node: str,
        units: Sequence[str],
        complete: bool = True,
        parents: Sequence[Parent] = (),
        meta: Mapping[str, Json] | None = None,
    ) -> Snapshot:
        """Publish the units of `receipts` together with the committed ones.

        Args:
            node: identity of the node.
            units: names of all units that the finished store shall have, in store order; other units are dropped.
            complete: whether all of them are in with this commit.
            parents: snapshots that the store was made from; for a view, the viewed one first.
            meta: JSON values for readers.
        Raises:
            StoreError: units are missing although `complete`, a view does not fit its base, or the filesystem has no
                compare-and-swap.
        """
        if len(set(units)) != len(units):
            raise ValueError("a unit is named twice")
        arrived: dict[str, Receipt] = {}
        for receipt in receipts:
            arrived.setdefault(receipt.unit, receipt)
        lease = leases.unique_lease(self.files, "a commit")
        if not arrived:  # else the leases of the units protect the files published before the swap
            lease.renew()
        while True:
            head = self.head()
            committed = head.lists.directory.positions if head is not None else {}
            next_units: dict[str, NextUnit] = {}
            for unit in units:
                choice = committed.get(key_of(unit), arrived.get(unit))
                if choice is not None:
                    next_units[unit] = choice
            if complete and len(next_units) < len(units):
                self._refuse_incomplete([unit for unit in units if unit not in next_units])
            self._check_files([unit for unit in next_units.values() if isinstance(unit, Receipt)])
            root = Root(
                kind=self.kind,
                node=node,
                complete=complete,
                parents=tuple(parents),
                meta=json.loads(canonical_json(dict(meta or {}))),
            )
            if self.kind == "view":
                self._check_view(root, head, list(next_units.values()))
            root = publish_lists(self.files, root, head, list(next_units.values()))
            self.files.sync()
            if head is not None and _adds_nothing(root, head.root):
                leases.release_units(self.files, arrived)
                lease.release()
                return head
            number = swap_root(self.files, root, head)
            self._existing_root += 1  # ours or another committer's
            if number is not None:
                leases.release_units(self.files, arrived)
                lease.release()
                return self.snapshot(number)

    def _refuse_incomplete(self, missing: Sequence[str]) -> None:
        raise StoreError(
            f"{len(missing)} units are missing, the first is {missing[0]!r}",
            where=self.url,
            fix="commit their receipts first, or with complete=False",
        )

    def _check_files(self, receipts: Sequence[Receipt]) -> None:
        """Check that all files of the receipts exist: a writer taken for dead may have lost them to `gc`."""
        units = {path: receipt.unit for receipt in receipts for path in unit_paths(receipt, self.kind)}
        missing = min(self.files.missing(units, must_exist=True), default=None)
        if missing is not None:
            raise StoreError(
                f"unit {units[missing]!r} names a file that does not exist",
                where=f"{self.url}/{missing}",
                fix="write the unit again: run the same command once more",
            )

    def _check_view(self, root: Root, head: Snapshot | None, units: Sequence[NextUnit]) -> None:
        """Check that a view's units have columns for shards of its base only, and a complete view for all of them.

        Runs before anything of the root is published.
        """
        if not root.parents:
            fix = "give the snapshot that it is over as the first parent"
            raise StoreError("a view without a parent", where=self.url, fix=fix)
        view = ViewSnapshot(self.files, self.name, root)
        new = Directory.from_receipts([unit for unit in units if isinstance(unit, Receipt)])
        unchanged = [unit for unit in units if isinstance(unit, int)]
        old = [head.lists.directory.select(unchanged)] if head is not None else []
        decided = Directory.concatenate([*old, new])
        positions = view.viewed.shards.positions
        base = view.base.lists.directory
        sizes = dict(zip(base.prefixes[positions].tolist(), base.records[positions].tolist(), strict=True))
        for prefix, records in zip(decided.prefixes.tolist(), decided.records.tolist(), strict=True):
            expected = sizes.get(prefix)
            if records != expected:
                has = "is not in the base" if expected is None else f"has {expected} records"
                raise StoreError(
                    f"columns for {records} records of shard {prefix:016x}, which {has}",
                    where=self.url,
                    fix="write the view's columns over the parent that it is committed with",
                )
        if root.complete and len(decided.records) < len(sizes):
            message = f"{len(sizes) - len(decided.records)} shards of the base have no columns"
            raise StoreError(message, where=self.url, fix="write columns for all shards, or commit with complete=False")


def _adds_nothing(root: Root, head: Root) -> bool:
    """Tell whether `head` already holds `root`: equal but for the number, or the finished work of the same node."""
    if head.complete and not root.complete:
        return (root.node, root.lists) == (head.node, head.lists)
    return replace(root, number=head.number, previous=head.previous) == head


def _use_lock(files: Files, meta: Mapping[str, Json]) -> None:
    files.lock = SwapLock(meta["lock"], canonical_json(meta).encode())
