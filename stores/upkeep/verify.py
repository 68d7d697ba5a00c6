"""Is a snapshot still what was committed? Every byte it reaches, read again and compared.

Finding is all this does: nothing is repaired, and nothing is written.
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
    where: str
    """A file of the store, and `[row]` where the damage lies in one record."""
    what: str


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
    """Everything that is wrong with `snapshot`: nothing, one hopes. Its parents are snapshots of their own, of which a
    view needs one to be there."""
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
        yield Damage(snapshot.url, "the shards listed do not give the content root")
    done, total = 0, snapshot.counts["bytes"]
    for receipt in snapshot.receipts:
        outside: dict[str, str | None] = {}
        for entry in receipt.shards:
            yield from _shard_damages(snapshot, entry, outside)
            on_progress(done := done + entry.bytes, total)
    try:
        snapshot.quarantined()
    except StoreError as error:
        yield Damage(error.where, error.message)
    yield from lookup_damages(snapshot)
    if (base_error := snapshot.base_error) is not None:
        yield Damage(base_error.where, f"{base_error.message}, and {snapshot.name} looks at it")


def lookup_damages(snapshot: Snapshot) -> Iterator[Damage]:
    """That there is no look-up is no damage."""
    files, name = snapshot.files, snapshot.name
    try:
        covered = find.read_manifest(files, snapshot.number)
    except StoreError as error:
        yield Damage(f"{name}/{find.manifest_path(snapshot.number)}", error.message)
        return
    for run in covered.runs if covered is not None else ():
        found = hash_file(files, run_path(run.digest))
        if found != run.digest:
            what = "is missing" if found is None else "its bytes are not those that were made"
            yield Damage(f"{name}/{run_path(run.digest)}", what)


def _shard_damages(snapshot: Snapshot, entry: ShardEntry, outside: dict[str, str | None]) -> Iterator[Damage]:
    """Damages of one shard.

    Args:
        outside: digests of adopted tars that were read already, by URL; added to.
    """
    reader = snapshot.reader
    try:
        tables = {name: reader.table(name, digest) for name, digest in entry.files.items()}
    except StoreError as error:
        yield Damage(error.where, error.message)
        return
    if index.logical_digest(tables) != entry.tables:
        yield Damage(f"{snapshot.name}/{entry.shard}", "the index tables do not give the logical digest")
    if snapshot.kind == "view":
        return
    tar = f"shards/{entry.tar}.tar"
    digest = hash_file(snapshot.files, tar)
    url = entry.media_url
    if url is not None and url not in outside:
        outside[url] = _media_tar_digest(snapshot, entry)
    whole, media_whole = digest == entry.tar, url is None or outside[url] == entry.media_tar
    if whole and media_whole:
        return
    known = reader.index(entry)
    named = list(_record_damages(snapshot, known))
    if not whole and digest is not None:
        named += _frame_damages(snapshot, known)
    yield from named
    shown = f"{snapshot.name}/shards/{entry.shard}.tar"
    if not whole and not any(damage.where.startswith(shown) for damage in named):
        yield Damage(shown, "is missing" if digest is None else "a byte between the records changed")
    if url is not None and not media_whole and not any(damage.where.startswith(url) for damage in named):
        yield Damage(url, "is missing" if outside[url] is None else "a byte outside of the adopted media changed")


def media_tar_is_whole(snapshot: Snapshot, entry: ShardEntry) -> bool:
    """Whether the tar that a shard adopted still has the bytes that were adopted."""
    return _media_tar_digest(snapshot, entry) == entry.media_tar


def _media_tar_digest(snapshot: Snapshot, entry: ShardEntry) -> str | None:
    return hash_file(*snapshot.reader.media_tar(entry), naming_hash("shards/"))


def _record_damages(snapshot: Snapshot, known: ShardIndex) -> Iterator[Damage]:
    for row in range(known.core.num_rows):
        try:
            record_media = known.media_of(row)
            snapshot.reader.record(known, row)
            for media in record_media:
                if media.location is not None and media.location.shard == known.digest:
                    snapshot.reader.medium(known, media.location)
        except StoreError as error:
            yield Damage(error.where, error.message)


def _frame_damages(snapshot: Snapshot, known: ShardIndex) -> Iterator[Damage]:
    """What holds the records: tar headers, padding and the end mark, told by the next record that begins after it."""
    path, at = f"shards/{known.entry.tar}.tar", 0
    begins = np.sort(known.ranges["line.at"])
    rows = np.argsort(known.ranges["line.at"], kind="stable")
    lost = False

    def damage(what: str) -> Damage:
        row = rows[min(int(np.searchsorted(begins, at)), len(rows) - 1)] if len(rows) else 0
        return Damage(f"{snapshot.name}/shards/{known.digest}.tar[{row}]", what)

    while head := snapshot.files.read_range(path, at, RECORD):
        size = payload_size(head)
        if size is None:
            if any(head) and not lost:
                yield damage(f"the tar header at byte {at} changed")
            lost = any(head) or lost  # what follows is its payload, up to the next header
            at += RECORD
            continue
        lost = False
        end = at + RECORD + size
        if any(snapshot.files.read_range(path, end, -size % RECORD)):
            yield damage(f"padding at byte {end} changed")
        at = end + -size % RECORD
    if at < known.entry.bytes:
        yield damage(f"the shard ends at byte {at}, it had {known.entry.bytes}")


def hash_file(files: Files, path: str, state: Any = None) -> str | None:
    """What a file of a store ought to be called, None where there is no such file; another one with another hash."""
    state = naming_hash(path) if state is None else state
    at = 0
    try:
        while chunk := files.read_range(path, at, CHUNK_BYTES):
            state.update(chunk)
            at += len(chunk)
    except FileNotFoundError:
        return None
    return state.hexdigest()
