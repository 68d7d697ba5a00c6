"""A store: a folder, or any fsspec URL, whose content is whatever its newest root reaches.

    worker: store.writer(unit) -> add ... -> finish() -> Receipt     (files aside, visible to nobody)
    one committer per node: store.commit(receipts, ...) -> Snapshot  (swaps in the next root)
    anybody: store.head() -> Snapshot

    store.json                kind, schema, name, what commits swap by, and the lock where that is another place
    roots/000007.json         immutable; the highest number is the head
    lists/DIGEST.jsonl        units with their shards, about a thousand shards each; .bin is the directory over all
    shards/DIGEST.tar         ordinary WebDataset tars
    index/DIGEST.core.parquet and .media.parquet per shard; .columns.parquet: what views, or else, say of records
    lookup/                   where records lie by id, URL and digest: derived, may be deleted (`lookup/find.py`)
    quarantine/DIGEST.jsonl   records set aside, per unit
    aside/                    files being written, or left by killed writers
    leases/                   units that are being written; tags/: names of snapshots

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
    def __init__(self, files: Files, meta: Mapping[str, Json]) -> None:
        self.files, self.meta = files, meta
        self._known = 0
        """A root that exists; none did at 0."""

    @classmethod
    def create(cls, url: str, kind: StoreKind, name: str, *, lock: str | None = None) -> Store:
        """
        Args:
            lock: local path or URL of a folder where commits are decided, for a filesystem that can't
            (`files/swap_lock.py`).
        Raises:
            StoreError: there is a store already, or commits would not be safe although they should.
        """
        if kind not in get_args(StoreKind):
            raise ValueError(f"{kind!r} is no kind of store")
        files = open_files(url)
        if files.exists("store.json"):
            raise StoreError("there is a store here already", where=files.url, fix="open it, or choose another place")
        meta = {"kind": kind, "schema": SCHEMA, "name": name, "swap": "lock" if lock else files.swap_by}
        if lock:
            meta["lock"] = lock if "://" in lock else os.path.abspath(lock)
            _decide_there(files, meta)
        files.check_swap()
        publish_bytes(files, canonical_json(meta).encode(), "store.json")
        files.sync()
        return cls.open(url)

    @classmethod
    def open(cls, url: str) -> Store:
        """Raises StoreError where there is none, or one of another schema."""
        files = open_files(url)
        meta = read_meta(files)
        if "lock" in meta:
            _decide_there(files, meta)
        return cls(files, meta)

    @classmethod
    def open_or_create(cls, url: str, kind: StoreKind, name: str) -> Store:
        """Raises StoreError where there is a store of another kind."""
        files = open_files(url)
        store = cls.open(url) if files.exists("store.json") else cls.create(url, kind, name)
        if store.kind != kind:
            raise StoreError(f"this is a store of {store.kind}, expected {kind}", where=files.url)
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
        """The newest snapshot; None before the first commit."""
        self._known = newest_root(self.files, self._known)
        return self.snapshot(self._known) if self._known else None

    def snapshot(self, number: int) -> Snapshot:
        """Raises StoreError where there is none of that number."""
        return snapshot_of(self.files, self.meta, number)

    def writer(self, unit: str, shard_bytes: int = SHARD_BYTES) -> UnitWriter:
        """Use one writer per unit, in any process."""
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
        """Publish the units of `receipts` beside those that are committed already.

        Args:
            node: identity of the node.
            units: names of all units that the store shall have in the end, in store order; others drop out.
            complete: whether this makes it all of them.
            parents: what the store was made from; for a view, first what it looks at.
            meta: whatever else readers should know, JSON.
        Raises:
            StoreError: `complete` is said while units are missing, a view does not fit its base, or this filesystem
                has no compare-and-swap yet.
        """
        if len(set(units)) != len(units):
            raise ValueError("a unit is named twice")
        arrived: dict[str, Receipt] = {}
        for receipt in receipts:
            arrived.setdefault(receipt.unit, receipt)
        lease = leases.unique_lease(self.files, "a commit")
        if not arrived:  # else their leases hold what is published before the swap
            lease.renew()
        while True:
            head = self.head()
            places = head.lists.directory.places if head is not None else {}
            have = {unit: place for unit in units if (place := places.get(key_of(unit), arrived.get(unit))) is not None}
            if complete and len(have) < len(units):
                self._refuse_incomplete([unit for unit in units if unit not in have])
            new = [one for one in have.values() if isinstance(one, Receipt)]
            self._check_there(new)
            root = Root(
                kind=self.kind,
                node=node,
                complete=complete,
                parents=tuple(parents),
                meta=json.loads(canonical_json(dict(meta or {}))),
            )
            if self.kind == "view":
                self._check_view(root, head, list(have.values()))
            root = publish_lists(self.files, root, head, list(have.values()))
            self.files.sync()
            if head is not None and _adds_nothing(root, head.root):
                leases.release_units(self.files, arrived)
                lease.release()
                return head
            number = swap_root(self.files, root, head)
            self._known += 1  # ours or another committer's: there is one
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

    def _check_there(self, receipts: Sequence[Receipt]) -> None:
        """What a receipt names may be gone: its writer was taken for dead, and the garbage collected."""
        units = {path: receipt.unit for receipt in receipts for path in unit_paths(receipt, self.kind)}
        gone = min(self.files.missing(units, must_exist=True), default=None)
        if gone is not None:
            raise StoreError(
                f"unit {units[gone]!r} names a file that is not there",
                where=f"{self.url}/{gone}",
                fix="write the unit again: run the same command once more",
            )

    def _check_view(self, root: Root, head: Snapshot | None, wanted: Sequence[NextUnit]) -> None:
        """A view decides about every record of its base, once it is complete, and about nothing else. Nothing of the
        root is published before that is sure."""
        if not root.parents:
            raise StoreError("a view needs a parent to look at", where=self.url)
        view = ViewSnapshot(self.files, self.name, root)
        new = Directory.of([one for one in wanted if isinstance(one, Receipt)])
        stays = [one for one in wanted if isinstance(one, int)]
        decided = Directory.joined([*([head.lists.directory.chosen(stays)] if head is not None else []), new])
        below = view.viewed.shards
        there = view.base.lists.directory
        sizes = dict(zip(there.prefixes[below.places].tolist(), there.records[below.places].tolist(), strict=True))
        for prefix, records in zip(decided.prefixes.tolist(), decided.records.tolist(), strict=True):
            expected = sizes.get(prefix, "no place there")
            if records != expected:
                raise StoreError(
                    f"columns for {records} records of the base's shard {prefix:016x}, which has {expected}",
                    where=self.url,
                    fix="write the view's columns over the parent that it is committed with",
                )
        if root.complete and len(decided.records) < len(sizes):
            raise StoreError(f"{len(sizes) - len(decided.records)} shards of the base have no columns", where=self.url)


def _adds_nothing(root: Root, head: Root) -> bool:
    """Whether `head` says all that `root` would: equal but for its place, or the finished work of the same node."""
    if head.complete and not root.complete:
        return (root.node, root.lists) == (head.node, head.lists)
    return replace(root, number=head.number, previous=head.previous) == head


def _decide_there(files: Files, meta: Mapping[str, Json]) -> None:
    files.lock = SwapLock(meta["lock"], canonical_json(meta).encode())
