"""What is left of a damaged store: `millrace store repair`.

First from a copy, where there is one: objects are put back under their names, and the snapshot is what it was. What no
copy has is salvaged: the good records of a unit that lost some become a unit of their own in a new snapshot, which says
what was lost and is not complete, so that running its node again makes the damaged units anew.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from manifests.errors import StoreError
from manifests.records import Document, Json, Media, Pack
from stores import leases
from stores.commit import NextUnit, publish_lists, publish_root
from stores.commits.lists import list_paths, quarantine_lines
from stores.commits.roots import Receipt, unit_paths
from stores.files.protocol import Files
from stores.shards.entry import ShardEntry
from stores.shards.layout import ADOPTED
from stores.snapshot import Snapshot
from stores.store import Store
from stores.upkeep import lookup, verify
from stores.upkeep.copy import take

SALVAGED = "+salvaged"
"""Ends the name of a unit that holds what is left of another."""


@dataclass
class RepairResult:
    snapshot: Snapshot
    restored: list[str] = field(default_factory=list)
    """Objects taken from the copy."""
    lost: list[dict[str, Json]] = field(default_factory=list)
    """unit, shard, row and why of each record that is in the damaged snapshot and not in this one."""
    outside: list[str] = field(default_factory=list)
    """Adopted tars that are not what was adopted; they are not ours to mend."""
    lookup_made: bool = False
    """It was missing, behind or damaged."""


def repair(store: Store, copy: Files | None = None, *, accept: bool = False) -> RepairResult:
    """Repair the newest snapshot.

    Args:
        copy: another store that may have the same objects.
        accept: call what is left complete, so that nodes read it as it is.
    Raises:
        StoreError: roots or lists are damaged and no copy has them, or a view is damaged, which is made again.
    """
    store = Store(store.files.uncached(), store.meta)
    head = store.head()
    if head is None:
        raise StoreError("nothing was committed here yet", where=store.url, fix="run the node that fills it")
    done = RepairResult(head)
    for path in sorted(list_paths(head.root)):
        _restore(store, copy, path, done)
    units: list[NextUnit] = []
    for place, receipt in enumerate(head.receipts):
        bad = [path for path in sorted(unit_paths(receipt, head.kind)) if not _whole(store.files, path)]
        left = [path for path in bad if not _restore(store, copy, path, done)]
        units.append(_salvage(store, head, receipt, left, done) if left else place)
        adopting = {str(entry.media_url): entry for entry in receipt.shards if entry.media_url is not None}
        done.outside += [url for url, entry in adopting.items() if not verify.media_tar_is_whole(head, entry)]
    if units != list(range(len(units))):
        told = {**head.meta, "repaired": {"from": head.number, "lost": done.lost}}
        root = publish_lists(store.files, replace(head.root, complete=accept, meta=told), head, units)
        done.snapshot = store.snapshot(publish_root(store.files, root, head))
        leases.release_units(store.files, [one.unit for one in units if isinstance(one, Receipt)])
    done.lookup_made = lookup.repair_lookup(done.snapshot)
    return done


def _whole(files: Files, path: str) -> bool:
    return verify.hash_file(files, path) == path.rpartition("/")[2].split(".")[0]


def _restore(store: Store, copy: Files | None, path: str, done: RepairResult) -> bool:
    """Whether the object is whole now."""
    if _whole(store.files, path):
        return True
    if copy is None or not _whole(copy, path):
        return False
    store.files.delete(path)
    take(copy, store.files, path)
    store.files.sync()
    done.restored.append(path)
    return True


def _salvage(store: Store, head: Snapshot, receipt: Receipt, bad: Sequence[str], done: RepairResult) -> Receipt:
    """A unit of the good records of `receipt`."""
    if head.kind == "view":
        raise StoreError(
            f"columns of unit {receipt.unit!r} are damaged",
            where=f"{head.name}/{bad[0]}",
            fix="delete the view's folder and run its node again: it holds no records of its own",
        )
    writer = store.writer(receipt.unit + SALVAGED)
    shards = {ref.shard for ref in head.shards}
    for entry in receipt.shards:
        ref = next(one for one in head.shards if (one.unit, one.shard) == (receipt.unit, entry.shard))
        for row in range(entry.records):
            try:
                whole = _with_payloads(head, shards, head.record(ref.first + row), entry)
                beside = head.reader.index(entry).extra_columns
                writer.add(whole, beside.slice(row, 1) if beside is not None else None)
            except StoreError as error:
                done.lost.append({"unit": receipt.unit, "shard": entry.shard, "row": row, "why": error.message})
        if entry.media_url is not None:
            writer.adopt(entry.media_url, str(entry.media_tar))
    if receipt.quarantine and f"quarantine/{receipt.quarantine}.jsonl" not in bad:
        for line in quarantine_lines(store.files, receipt):
            writer.quarantine(**line)
    return writer.finish()


def _with_payloads(head: Snapshot, shards: Collection[str], record: Any, entry: ShardEntry) -> Any:
    """A record of the shard `entry` with the bytes of those of its media that its store holds; media in an adopted tar
    stay there."""

    def whole(media: Media) -> Media:
        if media.location is None or media.location.shard not in shards:
            return media
        if entry.media_url is not None and media.location.shard == entry.shard:
            return replace(media, location=replace(media.location, shard=ADOPTED))
        return replace(media, payload=head.read(media.location))

    match record:
        case Document():
            return replace(record, parts=tuple(whole(p) if isinstance(p, Media) else p for p in record.parts))
        case Pack():
            return replace(record, media=tuple(replace(one, media=whole(one.media)) for one in record.media))
        case _:
            return record
