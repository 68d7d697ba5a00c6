"""One store without what is forgotten: blanked shards under a new root, and the older roots gone that still reach it.

Between `forget/closure.py`, which says what goes, and the receipt of `forget/command.py`. Units, rows, ordinals,
content root and the node's identity are those of before. Everything can be done again: what is blank already is left
alone.
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
"""One at a time does that."""
STAY = ("keep", "reason")
"""What a view still says of a forgotten record: they fix which records come after it, and hold nothing of it."""


def redact(store: Store, stones: Tombstones, sources: Collection[str], heads: Mapping[str, Snapshot]) -> Snapshot:
    """Swap in a root without what is forgotten; the newest snapshot, which is the old one where nothing had to change.

    Args:
        sources: names under which records of this folder were ingested.
        heads: newest snapshots of the other stores by URL; parents of equal content are named by these.
    Raises:
        StoreError: somebody else committed meanwhile, or a shard lies outside the store.
    """
    head = store.head()
    assert head is not None
    lease = Lease(store.files, LEASE)
    units: list[NextUnit] = []
    for place, receipt in enumerate(head.receipts):
        changed = _receipt(head, receipt, stones, sources, lease)
        units.append(place if changed == receipt else changed)
    parents = tuple(_moved(parent, heads) for parent in head.parents)
    if units == list(range(len(units))) and parents == head.parents:
        leases.release_units(store.files, [LEASE])  # of a call that was killed after its root was there
        return head
    lease.renew()
    root = publish_lists(store.files, replace(head.root, parents=parents), head, units)
    number = publish_root(store.files, root, head)
    lease.release()
    return store.snapshot(number)


def expire(store: Store, stones: Tombstones, sources: Collection[str]) -> list[int]:
    """Let all older snapshots expire where one of them still reaches what is forgotten; their numbers.

    What only they reach is deleted, their roots stay (`upkeep/gc.py`). A tag goes over to the newest snapshot where
    that is the same work, else it goes.
    """
    *doomed, head = snapshots(store)
    if not any(_reaches(snapshot, stones, sources) for snapshot in doomed):
        return []
    numbers = [snapshot.number for snapshot in doomed]
    for name, told in tags(store.files).items():
        if told["number"] in numbers and told["content_root"] == head.content_root:
            tag(store, name, head, move=True)
        elif told["number"] in numbers:
            untag(store, name)
    staying = object_paths(head)
    for snapshot in doomed:  # lists last: killed before, this begins again with it
        store.files.touch(expired_path(snapshot.number))
        if (path := certificate_path(snapshot)) != certificate_path(head):
            store.files.delete(path)
        for path in sorted(object_paths(snapshot) - staying, key=lambda path: path.startswith("lists/")):
            store.files.delete(path)
    return numbers


def adopted_tars(head: Snapshot, stones: Tombstones) -> list[str]:
    """URLs of adopted tars that hold what was forgotten: they are not ours to change."""
    entries = (entry for receipt in head.receipts for entry in receipt.shards)
    adopting = (entry for entry in entries if entry.media_url is not None)
    return [str(entry.media_url) for entry in adopting if any(matches(head.reader.index(entry), stones.has_name))]


def _reaches(snapshot: Snapshot, stones: Tombstones, sources: Collection[str]) -> bool:
    """Whether anything of what is forgotten can be read from here; so it is where too little is left to tell."""
    try:
        return any(
            list(_cleaned(snapshot, receipt, stones, sources)) != quarantine_lines(snapshot.files, receipt)
            or any(_edits(snapshot, entry, stones) for entry in receipt.shards)
            for receipt in snapshot.receipts
        )
    except StoreError:
        return True


def _moved(parent: Parent, heads: Mapping[str, Snapshot]) -> Parent:
    head = heads.get(parent.url)
    return parent if head is None or head.content_root != parent.content_root else head.as_parent


def _receipt(
    snapshot: Snapshot, receipt: Receipt, stones: Tombstones, sources: Collection[str], lease: Lease
) -> Receipt:
    shards = []
    for entry in receipt.shards:
        edits = _edits(snapshot, entry, stones)
        if edits:
            lease.renew()
        if not edits:
            shards.append(entry)
        elif snapshot.kind == "view":
            shards.append(_without(snapshot, entry, edits))
        else:
            shards.append(redact_shard.publish_redacted(snapshot.files, snapshot.reader.index(entry), edits))
    lines = list(_cleaned(snapshot, receipt, stones, sources))
    quarantine = receipt.quarantine
    if lines != quarantine_lines(snapshot.files, receipt):
        data = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines).encode()
        quarantine = sha256(data).hexdigest()
        lease.renew()
        publish_bytes(snapshot.files, data, f"quarantine/{quarantine}.jsonl")
    return replace(receipt, shards=tuple(shards), quarantine=quarantine)


def _edits(snapshot: Snapshot, entry: ShardEntry, stones: Tombstones) -> dict[int, Redaction]:
    """What has to change in a shard, by row; in a view, rows with something to say beside `keep` and `reason`."""
    if snapshot.kind == "plan":
        return {}  # ordinals and lengths
    if snapshot.kind == "view":
        return _view_edits(snapshot, entry, stones)
    known = snapshot.reader.index(entry)
    if snapshot.kind == "packs":
        lines = redact_shard.read_lines(snapshot.files, known)
        named = {row: redact_shard.named_segments(line, stones.has_name) for row, line in enumerate(lines)}
        return {
            row: redact_shard.redact_pack(snapshot.files, known, row, segments, snapshot.meta["pad_id"])
            for row, segments in named.items()
            if segments
        }
    sources = known.core.column("source")
    rows = {row for row, _, _ in matches(known, stones.has_name)}
    make, left = redact_shard.REDACT[snapshot.kind], sorted(row for row in rows if sources[row].as_py() != FORGOTTEN)
    return {row: make(snapshot.files, known, row) for row in left}


def _view_edits(view: Snapshot, entry: ShardEntry, stones: Tombstones) -> dict[int, Redaction]:
    own = view.reader.table("columns", entry.files["columns"])
    names = [name for name in own.column_names if name not in STAY]
    saying = {row for name in names for row, value in enumerate(own.column(name).to_pylist()) if value is not None}
    if not saying:
        return {}
    known = view.base.reader.index(view.base.entry(entry.shard))
    rows = {row for row, source in enumerate(known.core.column("source").to_pylist()) if source == FORGOTTEN}
    rows |= {row for row, _, _ in matches(known, stones.has_name)}
    return {row: Redaction({}, dict.fromkeys(names), ()) for row in sorted(saying & rows)}


def _without(view: Snapshot, entry: ShardEntry, edits: Mapping[int, Redaction]) -> ShardEntry:
    """The view's entry with columns in which the edited rows say nothing more."""
    own = view.reader.table("columns", entry.files["columns"])
    table = index.without_values(own, edits, STAY)
    data = index.to_parquet(table)
    digest = sha256(data).hexdigest()
    publish_bytes(view.files, data, index.path("columns", digest))
    return replace(entry, files={"columns": digest}, redacted_index=index.logical_digest({"columns": table}))


def _cleaned(
    snapshot: Snapshot, receipt: Receipt, stones: Tombstones, sources: Collection[str]
) -> Iterator[dict[str, str]]:
    """The lines of a quarantine file; of what is named only that there was something."""
    elsewhere = replace(stones, sources=frozenset())  # of which source a line of another store speaks, it does not say
    for line in quarantine_lines(snapshot.files, receipt):
        named = stones.has_place(snapshot.name, line["locator"])
        named = named or any(elsewhere.has_place(source, line["locator"]) for source in sources)
        yield {"locator": "", "message": "", "reason": "forgotten"} if named else line


def in_dependency_order(stores: Sequence[Store]) -> list[Store]:
    """Every store after those that it was made from."""
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
