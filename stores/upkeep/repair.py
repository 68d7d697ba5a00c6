"""Repair of a damaged store: `millrace store repair`.

First, damaged objects are restored from a copy, if there is one; the snapshot is then whole again. The rest is
salvaged: the good records of a damaged unit become a unit of their own in a new snapshot. That snapshot lists the lost
records and is not complete, so that the next run of its node makes the damaged units again.
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
"""Suffix of the name of a salvaged unit."""


@dataclass
class RepairResult:
    """Result of a repair."""

    snapshot: Snapshot
    """Newest snapshot after the repair."""
    restored: list[str] = field(default_factory=list)
    """Paths of the objects restored from the copy."""
    lost: list[dict[str, Json]] = field(default_factory=list)
    """`unit`, `shard`, `row` and `why` of each record that the new snapshot lacks."""
    changed_tars: list[str] = field(default_factory=list)
    """URLs of adopted tars that changed; a repair can't restore them."""
    lookup_made: bool = False
    """Whether the lookup index was rebuilt, because it was missing, outdated or damaged."""


def repair(store: Store, copy: Files | None = None, *, accept: bool = False) -> RepairResult:
    """Repair the newest snapshot.

    Args:
        copy: files of another store that may have the same objects.
        accept: call the salvaged snapshot complete, so that nodes read it as it is.
    Raises:
        StoreError: roots or lists are damaged and the copy does not have them, or columns of a view are damaged.
    """
    store = Store(store.files.uncached(), store.meta)
    head = store.head()
    if head is None:
        raise StoreError("this store has no commit yet", where=store.url, fix="run the node that fills it")
    result = RepairResult(head)
    for path in sorted(list_paths(head.root)):
        _restore(store, copy, path, result)
    units: list[NextUnit] = []
    for position, receipt in enumerate(head.receipts):
        bad = [path for path in sorted(unit_paths(receipt, head.kind)) if not _whole(store.files, path)]
        left = [path for path in bad if not _restore(store, copy, path, result)]
        units.append(_salvage(store, head, receipt, left, result) if left else position)
        adopting = {str(entry.media_url): entry for entry in receipt.shards if entry.media_url is not None}
        result.changed_tars += [url for url, entry in adopting.items() if not verify.media_tar_is_whole(head, entry)]
    if units != list(range(len(units))):
        meta = {**head.meta, "repaired": {"from": head.number, "lost": result.lost}}
        root = publish_lists(store.files, replace(head.root, complete=accept, meta=meta), head, units)
        result.snapshot = store.snapshot(publish_root(store.files, root, head))
        leases.release_units(store.files, [unit.unit for unit in units if isinstance(unit, Receipt)])
    result.lookup_made = lookup.repair_lookup(result.snapshot)
    return result


def _whole(files: Files, path: str) -> bool:
    """Tell whether an object exists and has the digest in its name."""
    return verify.hash_file(files, path) == path.rpartition("/")[2].split(".")[0]


def _restore(store: Store, copy: Files | None, path: str, result: RepairResult) -> bool:
    """Restore an object from the copy if it is damaged; return whether it is whole now."""
    if _whole(store.files, path):
        return True
    if copy is None or not _whole(copy, path):
        return False
    store.files.delete(path)
    take(copy, store.files, path)
    store.files.sync()
    result.restored.append(path)
    return True


def _salvage(store: Store, head: Snapshot, receipt: Receipt, bad: Sequence[str], result: RepairResult) -> Receipt:
    """Write a unit with the good records of `receipt`; add the lost ones to `result`.

    Args:
        bad: paths of the damaged files of the unit.
    """
    if head.kind == "view":
        raise StoreError(
            f"columns of unit {receipt.unit!r} are damaged",
            where=f"{head.name}/{bad[0]}",
            fix="delete the view's folder and run its node again: a view holds no records",
        )
    writer = store.writer(receipt.unit + SALVAGED)
    shards = {ref.shard for ref in head.shards}
    for entry in receipt.shards:
        shard = next(ref for ref in head.shards if (ref.unit, ref.shard) == (receipt.unit, entry.shard))
        for row in range(entry.records):
            try:
                record = _with_payloads(head, shards, head.record(shard.first + row), entry)
                extra = head.reader.index(entry).extra_columns
                writer.add(record, extra.slice(row, 1) if extra is not None else None)
            except StoreError as error:
                result.lost.append({"unit": receipt.unit, "shard": entry.shard, "row": row, "why": error.message})
        if entry.media_url is not None:
            writer.adopt(entry.media_url, str(entry.media_tar))
    if receipt.quarantine and f"quarantine/{receipt.quarantine}.jsonl" not in bad:
        for line in quarantine_lines(store.files, receipt):
            writer.quarantine(**line)
    return writer.finish()


def _with_payloads(head: Snapshot, shards: Collection[str], record: Any, entry: ShardEntry) -> Any:
    """Return a record of the shard `entry` with the bytes of its media that the store holds.

    Media in an adopted tar stay there.
    """

    def with_payload(media: Media) -> Media:
        if media.location is None or media.location.shard not in shards:
            return media
        if entry.media_url is not None and media.location.shard == entry.shard:
            return replace(media, location=replace(media.location, shard=ADOPTED))
        return replace(media, payload=head.read(media.location))

    match record:
        case Document():
            return replace(record, parts=tuple(with_payload(p) if isinstance(p, Media) else p for p in record.parts))
        case Pack():
            media = (replace(packed, media=with_payload(packed.media)) for packed in record.media)
            return replace(record, media=tuple(media))
        case _:
            return record
