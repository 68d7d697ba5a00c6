"""Redaction of one store: a new root over redacted shards, and expiry of the older snapshots with forgotten records.

`closure.py` finds the records, `redact_shard.py` redacts a shard, `forget.py` calls this for every store and writes the
receipt. Units, rows, ordinals, content root and the identity of the node stay as they are. Every step may be repeated:
a redacted record is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

from manifests.errors import StoreError
from manifests.records import FORGOTTEN
from stores import leases
from stores.commit import NextUnit, publish_lists, publish_root
from stores.commits.lists import quarantine_lines
from stores.commits.roots import Parent, Receipt
from stores.files.protocol import publish_bytes
from stores.forget import redact_shard
from stores.forget.closure import matches, snapshots
from stores.forget.redact_shard import Redaction
from stores.leases import Lease
from stores.shards import index
from stores.shards.entry import ShardEntry
from stores.snapshot import Snapshot
from stores.store import Store
from stores.tombstones import Tombstones
from stores.upkeep.certificates import certificate_path
from stores.upkeep.log import expired_path, object_paths, tag, tags, untag

LEASE = "forgetting"
"""Name of the lease that garbage collection respects while a store is redacted."""
KEPT_COLUMNS = ("keep", "reason")
"""Columns of a view that keep their values for a forgotten record. They decide which records are read, and contain
nothing of its content."""


def redact(store: Store, deny_list: Tombstones, sources: Collection[str], heads: Mapping[str, Snapshot]) -> Snapshot:
    """Publish a root in which all records on the deny list are redacted.

    Args:
        sources: names of all ingest nodes of the run.
        heads: newest snapshots of the stores redacted before, by URL. The new root names them as parents.
    Returns:
        The newest snapshot: the old one if nothing had to change.
    Raises:
        StoreError: another process committed meanwhile, or a byte of the store is damaged.
    """
    head = store.head()
    assert head is not None
    lease = Lease(store.files, LEASE)
    units: list[NextUnit] = []
    for number, receipt in enumerate(head.receipts):
        redacted = _redact_unit(head, receipt, deny_list, sources, lease)
        units.append(number if redacted == receipt else redacted)
    parents = tuple(_newest_parent(parent, heads) for parent in head.parents)
    if units == list(range(len(units))) and parents == head.parents:
        leases.release_units(store.files, [LEASE])  # left by a call that was killed after it published
        return head
    lease.renew()
    root = publish_lists(store.files, replace(head.root, parents=parents), head, units)
    number = publish_root(store.files, root, head)
    lease.release()
    return store.snapshot(number)


def expire(store: Store, deny_list: Tombstones, sources: Collection[str]) -> list[int]:
    """Expire all older snapshots if one of them still holds a forgotten record. Returns their numbers.

    Objects that only they reach are deleted; their roots stay (`upkeep/gc.py`). A tag moves to the newest snapshot if
    that has the same content root, otherwise it is deleted.
    """
    *older, head = snapshots(store)
    if not any(_holds_forgotten(snapshot, deny_list, sources) for snapshot in older):
        return []
    numbers = [snapshot.number for snapshot in older]
    for name, target in tags(store.files).items():
        if target["number"] in numbers and target["content_root"] == head.content_root:
            tag(store, name, head, move=True)
        elif target["number"] in numbers:
            untag(store, name)
    needed = object_paths(head)
    for snapshot in older:  # lists last: a call that is killed before finds the snapshot again
        store.files.touch(expired_path(snapshot.number))
        if (path := certificate_path(snapshot)) != certificate_path(head):
            store.files.delete(path)
        for path in sorted(object_paths(snapshot) - needed, key=lambda path: path.startswith("lists/")):
            store.files.delete(path)
    return numbers


def adopted_tars(head: Snapshot, deny_list: Tombstones) -> list[str]:
    """Return the URLs of adopted tars that hold media of forgotten records. They are not ours to change."""
    entries = (entry for receipt in head.receipts for entry in receipt.shards)
    adopting = (entry for entry in entries if entry.media_url is not None)
    return [str(entry.media_url) for entry in adopting if any(matches(head.reader.index(entry), deny_list.has_name))]


def _holds_forgotten(snapshot: Snapshot, deny_list: Tombstones, sources: Collection[str]) -> bool:
    """Whether anything of a forgotten record can be read from a snapshot; True if it is too damaged to decide."""
    try:
        return any(
            list(_redact_quarantine(snapshot, receipt, deny_list, sources)) != quarantine_lines(snapshot.files, receipt)
            or any(_redactions(snapshot, entry, deny_list) for entry in receipt.shards)
            for receipt in snapshot.receipts
        )
    except StoreError:
        return True


def _newest_parent(parent: Parent, heads: Mapping[str, Snapshot]) -> Parent:
    """Return the newest snapshot of a parent store instead of an older one of equal content."""
    head = heads.get(parent.url)
    return parent if head is None or head.content_root != parent.content_root else head.as_parent


def _redact_unit(
    snapshot: Snapshot, receipt: Receipt, deny_list: Tombstones, sources: Collection[str], lease: Lease
) -> Receipt:
    """Publish redacted shards and quarantine of a unit. Returns its new receipt, equal to the old one if nothing
    changed."""
    shards = []
    for entry in receipt.shards:
        redactions = _redactions(snapshot, entry, deny_list)
        if redactions:
            lease.renew()
        if not redactions:
            shards.append(entry)
        elif snapshot.kind == "view":
            shards.append(_redact_columns(snapshot, entry, redactions))
        else:
            shards.append(redact_shard.publish_redacted(snapshot.files, snapshot.reader.index(entry), redactions))
    lines = list(_redact_quarantine(snapshot, receipt, deny_list, sources))
    quarantine = receipt.quarantine
    if lines != quarantine_lines(snapshot.files, receipt):
        data = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines).encode()
        quarantine = sha256(data).hexdigest()
        lease.renew()
        publish_bytes(snapshot.files, data, f"quarantine/{quarantine}.jsonl")
    return replace(receipt, shards=tuple(shards), quarantine=quarantine)


def _redactions(snapshot: Snapshot, entry: ShardEntry, deny_list: Tombstones) -> dict[int, Redaction]:
    """Return the redactions that a shard needs, by row; of a view, those of rows with values in other columns than
    KEPT_COLUMNS."""
    if snapshot.kind == "plan":
        return {}  # a plan holds ordinals and lengths only
    if snapshot.kind == "view":
        return _view_redactions(snapshot, entry, deny_list)
    shard = snapshot.reader.index(entry)
    if snapshot.kind == "packs":
        lines = redact_shard.read_lines(snapshot.files, shard)
        named = {row: redact_shard.named_segments(line, deny_list.has_name) for row, line in enumerate(lines)}
        return {
            row: redact_shard.redact_pack(snapshot.files, shard, row, segments, snapshot.meta["pad_id"])
            for row, segments in named.items()
            if segments
        }
    sources = shard.core.column("source")
    rows = {row for row, _, _ in matches(shard, deny_list.has_name)}
    redact_record = redact_shard.REDACT[snapshot.kind]
    remaining = sorted(row for row in rows if sources[row].as_py() != FORGOTTEN)
    return {row: redact_record(snapshot.files, shard, row) for row in remaining}


def _view_redactions(view: Snapshot, entry: ShardEntry, deny_list: Tombstones) -> dict[int, Redaction]:
    own = view.reader.table("columns", entry.files["columns"])
    names = [name for name in own.column_names if name not in KEPT_COLUMNS]
    filled = {row for name in names for row, value in enumerate(own.column(name).to_pylist()) if value is not None}
    if not filled:
        return {}
    shard = view.base.reader.index(view.base.entry(entry.shard))
    rows = {row for row, source in enumerate(shard.core.column("source").to_pylist()) if source == FORGOTTEN}
    rows |= {row for row, _, _ in matches(shard, deny_list.has_name)}
    return {row: Redaction({}, dict.fromkeys(names), ()) for row in sorted(filled & rows)}


def _redact_columns(view: Snapshot, entry: ShardEntry, redactions: Mapping[int, Redaction]) -> ShardEntry:
    """Publish the columns of a view without the values of these rows. Returns the new entry."""
    own = view.reader.table("columns", entry.files["columns"])
    table = index.without_values(own, redactions, KEPT_COLUMNS)
    data = index.to_parquet(table)
    digest = sha256(data).hexdigest()
    publish_bytes(view.files, data, index.path("columns", digest))
    return replace(entry, files={"columns": digest}, redacted_index=index.logical_digest({"columns": table}))


def _redact_quarantine(
    snapshot: Snapshot, receipt: Receipt, deny_list: Tombstones, sources: Collection[str]
) -> Iterator[dict[str, str]]:
    """Yield the quarantine lines of a unit; a line about a forgotten record keeps only the reason `forgotten`."""
    any_source = replace(deny_list, sources=frozenset())  # a line does not name the source of its record
    for line in quarantine_lines(snapshot.files, receipt):
        named = deny_list.has_place(snapshot.name, line["locator"])
        named = named or any(any_source.has_place(source, line["locator"]) for source in sources)
        yield {"locator": "", "message": "", "reason": "forgotten"} if named else line


def in_dependency_order(stores: Sequence[Store]) -> list[Store]:
    """Return the stores with commits, each after the stores that it was made from."""
    waiting = {store.url: store for store in stores}
    placed: list[Store] = []

    def place(url: str) -> None:
        store = waiting.pop(url, None)
        if store is None:
            return
        head = store.head()
        for parent in head.parents if head is not None else ():
            place(parent.url)
        if head is not None:
            placed.append(store)

    for url in list(waiting):
        place(url)
    return placed
