"""Transitive closure of a deletion: from names to the ids of all records that must go.

Used by `forget.py`; reads stores and writes nothing. Names of documents and samples are found in the indexes of their
shards. Packs have no id, so their lines are read.
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

Match = tuple[int, NameKind, str]
"""(row, kind of name, name) of a record that is named."""

COLUMNS: dict[NameKind, tuple[str, ...]] = {"ids": ("id",), "sources": ("source",), "places": ("locator", "origin")}
"""Columns of the core table that hold names of a kind."""
RECORDS = ("documents", "samples")
"""Kinds of stores whose records have ids."""
SEARCHED = (*RECORDS, "packs")
EXACT = "exact_duplicate"
"""Reason for which a view drops a document with the same text and media as its `duplicate_of`."""


def snapshots(store: Store) -> list[Snapshot]:
    """Return all snapshots that have not expired, the newest last."""
    existing = {info.path for info in store.files.listing("lists")}
    opened = [store.snapshot(number) for number in commit_times(store.files)]
    return [snapshot for snapshot in opened if list_paths(snapshot.root) <= existing]


def matches(shard: ShardIndex, named: NameMatcher) -> Iterator[Match]:
    """Yield every name in a shard of documents or samples that is to be forgotten."""
    for kind, columns in COLUMNS.items():
        for column in columns:
            if column in shard.core.column_names:
                yield from _column_matches(shard.core.select([column]), column, kind, named)
    if shard.media is not None:
        records = shard.media.column("record").to_pylist()
        for medium, kind, name in _column_matches(shard.media.select(["digest"]), "digest", "media", named):
            yield records[medium], kind, name


def _column_matches(table: pa.Table, column: str, kind: NameKind, named: NameMatcher) -> Iterator[Match]:
    values = index.in_hex(table).column(column).to_pylist()
    wanted = {value for value in set(values) if value and named(kind, value)}
    if wanted:
        yield from ((row, kind, value) for row, value in enumerate(values) if value in wanted)


def record_ids(shard: ShardIndex) -> list[str]:
    """Return the ids of all records of a shard."""
    return [record.hex() for record in shard.core.column("id").to_pylist()]


def closure(stores: Sequence[Store], named: NameMatcher) -> tuple[set[str], set[tuple[NameKind, str]]]:
    """Return the ids of all records that must go, and the names that occur in some store.

    These are the named records, everything derived from them, and their exact duplicates, transitively.

    Raises:
        StoreError: a newest snapshot is damaged. Damaged older ones are skipped; `redact_store.expire` deletes them.
    """
    search = _Search(named)
    for store in stores:
        *older, head = snapshots(store)
        search.add_snapshot(head)
        for snapshot in older:
            with suppress(StoreError):
                search.add_snapshot(snapshot)
    return search.linked_ids(), search.names


def unsearchable(stores: Sequence[Store]) -> dict[str, str]:
    """Return the stores that cannot be searched, URL -> reason: views without base, plans without their samples."""
    reasons = {}
    for store in stores:
        head = store.head()
        error = head.base_error if head is not None else None
        if head is not None and head.kind == "plan":
            error = next(filter(None, map(_open_error, head.parents)), None)
        if error is not None:
            reasons[store.url] = f"{error.where}: {error.message}"
    return reasons


def _open_error(parent: Parent) -> StoreError | None:
    try:
        Store.open(parent.url)
    except StoreError as error:
        return error
    return None


class _Search:
    """Names and links that were found in the snapshots added so far."""

    def __init__(self, named: NameMatcher) -> None:
        self.named = named
        self.names: set[tuple[NameKind, str]] = set()
        """Names that occur."""
        self._matched: set[str] = set()
        """Ids of the records with such a name."""
        self._links: defaultdict[str, set[str]] = defaultdict(set)
        """Id -> ids of the records that must go with it."""
        self._searched: set[tuple[str, ...]] = set()
        """Digests of the files of searched shards: several snapshots may have the same shard."""

    def linked_ids(self) -> set[str]:
        """Return the matched ids and all that are linked with them."""
        ids, waiting = set(self._matched), list(self._matched)
        while waiting:
            added = self._links[waiting.pop()] - ids
            ids |= added
            waiting += added
        return ids

    def add_snapshot(self, snapshot: Snapshot) -> None:
        for receipt in snapshot.receipts:
            self._search_quarantine(snapshot, receipt)
            for entry in receipt.shards:
                key = (snapshot.url, entry.tar, *entry.files.values())
                if snapshot.kind in SEARCHED and key not in self._searched:
                    self._searched.add(key)
                    self._search_shard(snapshot, snapshot.reader.index(entry))
        if snapshot.kind == "view":
            self._link_duplicates(snapshot)

    def _search_shard(self, snapshot: Snapshot, shard: ShardIndex) -> None:
        if snapshot.kind == "packs":
            self._search_packs(snapshot.files, shard)
            return
        ids = record_ids(shard)
        for row, kind, name in matches(shard, self.named):
            self._matched.add(ids[row])
            self.names.add((kind, name))
        if snapshot.kind == "documents":
            self._link_parents(snapshot.files, shard)

    def _link_parents(self, files: Files, shard: ShardIndex) -> None:
        """Link the documents of a shard to the documents that they were made from.

        Either all documents of a shard have parents or none has (`layout.signature`), so that one line decides whether
        all are read.
        """
        sources = shard.core.column("source").to_pylist()
        rows = [row for row, source in enumerate(sources) if source != FORGOTTEN]
        if not rows or not redact_shard.read_line(files, shard, rows[0])["parents"]:
            return
        for line in redact_shard.read_lines(files, shard):
            for parent in line["parents"]:
                self._links[parent].add(line["id"])

    def _link_duplicates(self, view: Snapshot) -> None:
        """Link exact duplicates: as long as one copy is left, nothing is forgotten."""
        entries = [entry for receipt in view.receipts for entry in receipt.shards]
        if not entries or "duplicate_of" not in view.reader.table("columns", entries[0].files["columns"]).column_names:
            return
        table = view.table(["id", "duplicate_of", "reason"])
        for record, other, reason in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if other is not None and reason == EXACT:
                self._links[record].add(other)
                self._links[other].add(record)

    def _search_packs(self, files: Files, shard: ShardIndex) -> None:
        """Match samples and media of packs, whose documents and samples may be in no store that is left."""
        for line in redact_shard.read_lines(files, shard):
            for segment, medium in zip(redact_shard.media_segments(line), line["media"], strict=True):
                if self.named("media", medium["digest"]):
                    self._matched.add(line["segments"][segment][0])
                    self.names.add(("media", medium["digest"]))
            ids = {sample for sample, *_ in line["segments"] if self.named("ids", sample)}
            self._matched |= ids
            self.names |= {("ids", sample) for sample in ids}

    def _search_quarantine(self, snapshot: Snapshot, receipt: Receipt) -> None:
        """Match the names of quarantined records: their locator, and the id that they would have had."""
        for line in quarantine_lines(snapshot.files, receipt):
            for place in {line["locator"], *line["locator"].split(LINK)} - {""}:
                record = record_id(snapshot.name, place)
                self.names |= {("places", place)} if self.named("places", place) else set()
                self.names |= {("ids", record)} if self.named("ids", record) else set()
