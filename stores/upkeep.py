"""Is a snapshot still what was committed? Every byte it reaches, read again and compared.

Finding is all this does: nothing is repaired, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from manifests.errors import StoreError
from stores import index
from stores.filesystem import Files
from stores.reading import ShardIndex
from stores.roots import ShardEntry, content_root
from stores.snapshot import Snapshot

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Damage:
    where: str
    """A file of the store, and `[row]` where the damage lies in one record."""
    what: str


def verify(snapshot: Snapshot) -> list[Damage]:
    """Everything that is wrong with `snapshot`: nothing, one hopes. Its parents are snapshots of their own."""
    return list(_damages(snapshot))


def _damages(snapshot: Snapshot) -> Iterator[Damage]:
    try:
        receipts = snapshot.receipts
    except StoreError as error:
        yield Damage(error.where, error.message)
        return
    if content_root(snapshot.kind, receipts) != snapshot.content_root:
        yield Damage(snapshot.url, "the shards listed do not give the content root")
    for receipt in receipts:
        for entry in receipt.shards:
            yield from _shard_damages(snapshot, entry)
    try:
        snapshot.quarantined()
    except StoreError as error:
        yield Damage(error.where, error.message)


def _shard_damages(snapshot: Snapshot, entry: ShardEntry) -> Iterator[Damage]:
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
    found = _digest(snapshot.files, f"shards/{entry.tar}.tar")
    if found == entry.tar:
        return
    named = list(_record_damages(snapshot, ShardIndex(entry, tables["core"], tables.get("media"))))
    where = f"{snapshot.name}/shards/{entry.shard}.tar"
    yield from named or [Damage(where, "is missing" if found is None else "a byte of a tar header or padding changed")]


def _record_damages(snapshot: Snapshot, known: ShardIndex) -> Iterator[Damage]:
    for row in range(known.core.num_rows):
        try:
            record_media = known.media_of(row)
            snapshot.reader.record(known, row)
            for media in record_media:
                if media.location is not None and media.location.shard == known.shard:
                    snapshot.reader.medium(known, media.location)
        except StoreError as error:
            yield Damage(error.where, error.message)


def _digest(files: Files, path: str) -> str | None:
    """SHA-256 of a file in pieces, None where there is no such file."""
    state = sha256()
    at = 0
    try:
        while chunk := files.read_range(path, at, CHUNK_BYTES):
            state.update(chunk)
            at += len(chunk)
    except FileNotFoundError:
        return None
    return state.hexdigest()
