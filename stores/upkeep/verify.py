"""Verification of a snapshot: read every byte that it reaches again, and compare with the committed digests.

`millrace store verify` and `repair` use it. It writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.errors import StoreError
from stores.commits.head import read_meta
from stores.commits.roots import ContentHash, content_root
from stores.files.protocol import Files
from stores.lookup import find
from stores.lookup.run_file import run_path
from stores.shards import index
from stores.shards.entry import ShardEntry
from stores.shards.reader import ShardIndex
from stores.shards.tar import RECORD, naming_hash, payload_size
from stores.snapshot import Snapshot, snapshot_of

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Damage:
    """Damage of a snapshot."""

    where: str
    """File of the store, with `[row]` if one record is damaged."""
    what: str
    """Description."""


@dataclass(frozen=True, slots=True)
class ContentCheck:
    """Result of a check of a store's records against their promises, e.g. of packs against their plan."""

    proved: tuple[str, ...] = ()
    """One sentence for each promise that was recounted and holds."""
    failed: str = ""
    """The first promise that does not hold, with both numbers; empty if all hold."""
    skipped: str = ""
    """Reason why nothing could be recounted, e.g. that the plan is not at its URL; empty if it could."""


OnProgress = Callable[[int, int], None]
"""Callback (done, total): bytes for `verify`, objects for `copy`."""


def verify(snapshot: Snapshot, on_progress: OnProgress = lambda done, total: None) -> list[Damage]:
    """Return all damages of a snapshot. Its parents are not verified; that of a view must exist."""
    files = snapshot.files.uncached()
    return list(_damages(snapshot_of(files, read_meta(files), snapshot.number), on_progress))


def _damages(snapshot: Snapshot, on_progress: OnProgress) -> Iterator[Damage]:
    content = ContentHash()
    try:
        for receipt in snapshot.receipts:
            content.add(receipt)
    except StoreError as error:
        yield Damage(error.where, error.message)
        return
    if content_root(snapshot.kind, str(content)) != snapshot.content_root:
        yield Damage(snapshot.url, "the listed shards do not have the content root of the snapshot")
    done, total = 0, snapshot.counts["bytes"]
    for receipt in snapshot.receipts:
        tar_digests: dict[str, str | None] = {}
        for entry in receipt.shards:
            yield from _shard_damages(snapshot, entry, tar_digests)
            on_progress(done := done + entry.bytes, total)
    try:
        snapshot.quarantined()
    except StoreError as error:
        yield Damage(error.where, error.message)
    yield from lookup_damages(snapshot)
    if (base_error := snapshot.base_error) is not None:
        yield Damage(base_error.where, f"{base_error.message}, and {snapshot.name} is a view over it")


def lookup_damages(snapshot: Snapshot) -> Iterator[Damage]:
    """Yield the damages of the lookup index. A missing index is not a damage."""
    files, name = snapshot.files, snapshot.name
    try:
        covered = find.read_manifest(files, snapshot.number)
    except StoreError as error:
        yield Damage(f"{name}/{find.manifest_path(snapshot.number)}", error.message)
        return
    for run in covered.runs if covered is not None else ():
        digest = hash_file(files, run_path(run.digest))
        if digest != run.digest:
            message = "is missing" if digest is None else "its bytes changed"
            yield Damage(f"{name}/{run_path(run.digest)}", message)


def _shard_damages(snapshot: Snapshot, entry: ShardEntry, tar_digests: dict[str, str | None]) -> Iterator[Damage]:
    """Yield the damages of one shard.

    Args:
        tar_digests: digests of the adopted tars that were read before, by URL; this call adds to them.
    """
    reader = snapshot.reader
    try:
        tables = {name: reader.table(name, digest) for name, digest in entry.files.items()}
    except StoreError as error:
        yield Damage(error.where, error.message)
        return
    if index.logical_digest(tables) != entry.tables:
        yield Damage(f"{snapshot.name}/{entry.shard}", "the index tables do not have the logical digest of the shard")
    if snapshot.kind == "view":
        return
    tar = f"shards/{entry.tar}.tar"
    digest = hash_file(snapshot.files, tar)
    url = entry.media_url
    if url is not None and url not in tar_digests:
        tar_digests[url] = _media_tar_digest(snapshot, entry)
    whole, media_whole = digest == entry.tar, url is None or tar_digests[url] == entry.media_tar
    if whole and media_whole:
        return
    shard_index = reader.index(entry)
    named = list(_record_damages(snapshot, shard_index))
    if not whole and digest is not None:
        named += _frame_damages(snapshot, shard_index)
    yield from named
    shown = f"{snapshot.name}/shards/{entry.shard}.tar"
    if not whole and not any(damage.where.startswith(shown) for damage in named):
        yield Damage(shown, "is missing" if digest is None else "a byte between the records changed")
    if url is not None and not media_whole and not any(damage.where.startswith(url) for damage in named):
        yield Damage(url, "is missing" if tar_digests[url] is None else "a byte outside of the adopted media changed")


def media_tar_is_whole(snapshot: Snapshot, entry: ShardEntry) -> bool:
    """Tell whether the adopted tar of a shard still has its bytes."""
    return _media_tar_digest(snapshot, entry) == entry.media_tar


def _media_tar_digest(snapshot: Snapshot, entry: ShardEntry) -> str | None:
    return hash_file(*snapshot.reader.media_tar(entry), naming_hash("shards/"))


def _record_damages(snapshot: Snapshot, shard: ShardIndex) -> Iterator[Damage]:
    """Yield the damaged records of a shard and their media."""
    for row in range(shard.core.num_rows):
        try:
            record_media = shard.media_of(row)
            snapshot.reader.record(shard, row)
            for media in record_media:
                if media.location is not None and media.location.shard == shard.digest:
                    snapshot.reader.medium(shard, media.location)
        except StoreError as error:
            yield Damage(error.where, error.message)


def _frame_damages(snapshot: Snapshot, shard: ShardIndex) -> Iterator[Damage]:
    """Yield damages between the records: tar headers, padding, end mark; located by the next record after them."""
    path, at = shard.path, 0
    begins = np.sort(shard.ranges["line.at"])
    rows = np.argsort(shard.ranges["line.at"], kind="stable")
    lost = False

    def damage(message: str) -> Damage:
        row = rows[min(int(np.searchsorted(begins, at)), len(rows) - 1)] if len(rows) else 0
        return Damage(f"{snapshot.name}/shards/{shard.digest}.tar[{row}]", message)

    while head := snapshot.files.read_range(path, at, RECORD):
        size = payload_size(head)
        if size is None:
            if any(head) and not lost:
                yield damage(f"the tar header at byte {at} changed")
            lost = any(head) or lost  # the payload of the lost header follows, up to the next header
            at += RECORD
            continue
        lost = False
        end = at + RECORD + size
        if any(snapshot.files.read_range(path, end, -size % RECORD)):
            yield damage(f"padding at byte {end} changed")
        at = end + -size % RECORD
    if at < shard.entry.bytes:
        yield damage(f"the shard ends at byte {at}, it had {shard.entry.bytes}")


def hash_file(files: Files, path: str, state: Any = None) -> str | None:
    """Return the digest of a file, None if it is missing.

    Args:
        state: hash object; by default the hash that names files of its folder.
    """
    state = naming_hash(path) if state is None else state
    at = 0
    try:
        while chunk := files.read_range(path, at, CHUNK_BYTES):
            state.update(chunk)
            at += len(chunk)
    except FileNotFoundError:
        return None
    return state.hexdigest()
