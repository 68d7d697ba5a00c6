"""What else holds what is to be forgotten? From names to the ids of all records that must go.

`forget/command.py` asks. Everything here reads, nothing writes. Indexes answer for documents and samples; of packs the
lines are read, because a pack has no id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pyarrow as pa

from manifests.errors import StoreError
from manifests.records import FORGOTTEN, record_id
from stores.commits.lists import list_paths, quarantine_lines
from stores.commits.roots import Parent, Receipt
from stores.files.protocol import Files
from stores.forget import redact_shard
from stores.shards import index
from stores.shards.reader import ShardIndex
from stores.snapshot import Snapshot
from stores.store import Store
from stores.tombstones import LINK, NameKind, NameMatcher
from stores.upkeep.log import commit_times

COLUMNS: dict[NameKind, tuple[str, ...]] = {"ids": ("id",), "sources": ("source",), "places": ("locator", "origin")}
RECORDS = ("documents", "samples")
EXACT = "exact_duplicate"
"""The reason with which a view says of a record that it says and shows the same as `duplicate_of`."""
SEARCHED = (*RECORDS, "packs")


def snapshots(store: Store) -> list[Snapshot]:
    """All that have not expired, the newest last."""
    there = {info.path for info in store.files.listing("lists")}
    some = [store.snapshot(number) for number in commit_times(store.files)]
    return [one for one in some if list_paths(one.root) <= there]


def matches(known: ShardIndex, named: NameMatcher) -> Iterator[tuple[int, NameKind, str]]:
    """(row, what, name) of everything in a shard of documents or samples that is named."""
    for what, columns in COLUMNS.items():
        for column in columns:
            if column in known.core.column_names:
                yield from _found(known.core.select([column]), column, what, named)
    if known.media is not None:
        rows = known.media.column("record").to_pylist()
        for at, what, name in _found(known.media.select(["digest"]), "digest", "media", named):
            yield rows[at], what, name


def _found(table: pa.Table, column: str, what: NameKind, named: NameMatcher) -> Iterator[tuple[int, NameKind, str]]:
    values = index.in_hex(table).column(column).to_pylist()
    wanted = {value for value in set(values) if value and named(what, value)}
    if wanted:
        yield from ((row, what, value) for row, value in enumerate(values) if value in wanted)


def record_ids(known: ShardIndex) -> list[str]:
    return [name.hex() for name in known.core.column("id").to_pylist()]


def closure(stores: Sequence[Store], named: NameMatcher) -> tuple[set[str], set[tuple[NameKind, str]]]:
    """Ids of all records that must go, and the names that were found somewhere.

    Raises StoreError where a newest snapshot is damaged; of older ones what is there is read, `rewrite.expire` deletes
    the rest.
    """
    search = _Search(named)
    for store in stores:
        *older, head = snapshots(store)
        search.look_at(head)
        for snapshot in older:
            with suppress(StoreError):
                search.look_at(snapshot)
    return search.gone(), search.found


def unsearchable(stores: Sequence[Store]) -> dict[str, str]:
    """Those about which nothing can be told, by URL, and why: views of what is gone, plans without their samples."""
    found = {}
    for store in stores:
        head = store.head()
        error = head.base_error if head is not None else None
        if head is not None and head.kind == "plan":
            error = next(filter(None, map(_no_head, head.parents)), None)
        if error is not None:
            found[store.url] = f"{error.where}: {error.message}"
    return found


def _no_head(parent: Parent) -> StoreError | None:
    try:
        Store.open(parent.url)
    except StoreError as error:
        return error
    return None


class _Search:
    def __init__(self, named: NameMatcher) -> None:
        self.named = named
        self.found: set[tuple[NameKind, str]] = set()
        self._hit: set[str] = set()
        self._links: defaultdict[str, set[str]] = defaultdict(set)
        """id -> ids that go with it."""
        self._seen: set[tuple[str, ...]] = set()
        """Shards that are the same in several snapshots, by the digests of their files."""

    def gone(self) -> set[str]:
        gone, waiting = set(self._hit), list(self._hit)
        while waiting:
            more = self._links[waiting.pop()] - gone
            gone |= more
            waiting += more
        return gone

    def look_at(self, snapshot: Snapshot) -> None:
        for receipt in snapshot.receipts:
            self._quarantine(snapshot, receipt)
            for entry in receipt.shards:
                key = (snapshot.url, entry.tar, *entry.files.values())
                if snapshot.kind in SEARCHED and key not in self._seen:
                    self._seen.add(key)
                    self._shard(snapshot, snapshot.reader.index(entry))
        if snapshot.kind == "view":
            self._duplicates(snapshot)

    def _shard(self, snapshot: Snapshot, known: ShardIndex) -> None:
        if snapshot.kind == "packs":
            self._packs(snapshot.files, known)
            return
        names = record_ids(known)
        for row, what, name in matches(known, self.named):
            self._hit.add(names[row])
            self.found.add((what, name))
        if snapshot.kind == "documents":
            self._parents(snapshot.files, known)

    def _parents(self, files: Files, known: ShardIndex) -> None:
        """Either all records of a shard were made from others or none was (`layout.signature`): the first one tells."""
        sources = known.core.column("source").to_pylist()
        rows = [row for row, source in enumerate(sources) if source != FORGOTTEN]
        if not rows or not redact_shard.read_line(files, known, rows[0])["parents"]:
            return
        for line in redact_shard.read_lines(files, known):
            for parent in line["parents"]:
                self._links[parent].add(line["id"])

    def _duplicates(self, view: Snapshot) -> None:
        """What says and shows the same goes together: one copy left would be nothing forgotten."""
        entries = [entry for receipt in view.receipts for entry in receipt.shards]
        if not entries or "duplicate_of" not in view.reader.table("columns", entries[0].files["columns"]).column_names:
            return
        table = view.table(["id", "duplicate_of", "reason"])
        for name, other, reason in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if other is not None and reason == EXACT:
                self._links[name].add(other)
                self._links[other].add(name)

    def _packs(self, files: Files, known: ShardIndex) -> None:
        """Their documents and samples may be elsewhere, or gone."""
        for line in redact_shard.read_lines(files, known):
            for segment, one in zip(redact_shard.media_segments(line), line["media"], strict=True):
                if self.named("media", one["digest"]):
                    self._hit.add(line["segments"][segment][0])
                    self.found.add(("media", one["digest"]))
            names = {name for name, *_ in line["segments"] if self.named("ids", name)}
            self._hit |= names
            self.found |= {("ids", name) for name in names}

    def _quarantine(self, snapshot: Snapshot, receipt: Receipt) -> None:
        """What was set aside has no record, but a name: where it stood, and the id that it would have had."""
        for told in quarantine_lines(snapshot.files, receipt):
            for place in {told["locator"], *told["locator"].split(LINK)} - {""}:
                name = record_id(snapshot.name, place)
                self.found |= {("places", place)} if self.named("places", place) else set()
                self.found |= {("ids", name)} if self.named("ids", name) else set()
