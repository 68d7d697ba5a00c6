"""Snapshot: an immutable state of a store, read as tables by planners, as records by workers, as bytes by loaders.

`Store.head()` and `Store.snapshot(n)` return one. It pickles as (URL, number), and opens itself again in another
process. The snapshot of a view reads through its base: the same records with more columns; `keep` is the AND of all
views in between. Everything read is compared with a digest or a checksum; a difference raises StoreError with
shard[record].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.errors import StoreError
from manifests.records import Document, Json, Location, Media
from stores.commits.head import newest_root, read_meta, root_path
from stores.commits.lists import Lists, Receipts, RecordRef, ShardRef, Shards, quarantine_lines
from stores.commits.roots import Parent, Root, read_root
from stores.files.open import open_files
from stores.files.protocol import Files
from stores.lookup.find import By, Lookup
from stores.prefetch import prefetch
from stores.shards import index
from stores.shards.entry import ShardEntry
from stores.shards.kinds import KINDS
from stores.shards.reader import ShardIndex, ShardReader

DECIDED = ("keep", "reason", "score")
"""Columns that a chain of views combines: the first view that drops a record gives its reason and score."""

GROUP_BYTES = 4 << 20
"""Documents read together, with their media."""


def open_snapshot(url: str, number: int) -> Snapshot:
    """Open a snapshot by store URL and number. Raises StoreError if store or root is missing or damaged."""
    files = open_files(url)
    meta = read_meta(files)
    return snapshot_of(files, meta, number)


def snapshot_of(files: Files, meta: Mapping[str, Json], number: int) -> Snapshot:
    """Open a snapshot of a store whose `store.json` is `meta`. Raises StoreError if the root is missing or damaged."""
    where = f"{files.url}/{root_path(number)}"
    try:
        data = files.read(root_path(number))
    except FileNotFoundError:
        raise StoreError(f"snapshot {number} does not exist", where=files.url, fix="choose another number") from None
    root = read_root(data, files.url, where)
    if root.number != number or root.kind != meta["kind"]:
        fix = "restore the file from a copy of the store"
        raise StoreError("this root belongs to another store or number", where=where, fix=fix)
    kind = ViewSnapshot if root.kind == "view" else Snapshot
    return kind(files, meta["name"], root)


class Snapshot:
    """Snapshot of a store that holds its records itself; base class of `ViewSnapshot`."""

    def __init__(self, files: Files, name: str, root: Root) -> None:
        self.files, self.name, self.root = files, name, root
        self.lists = Lists(files, root)
        self.reader = ShardReader(files, root.kind, name)
        self._homes: dict[str, Snapshot] = {}
        """Snapshot that holds a shard, by the shard's digest."""
        self._last_index: ShardIndex | None = None
        self._last_ref: ShardRef | None = None
        """Index and place of the shard read last: neighboring records are read one after the other. Each is read once
        per call, because another thread may replace it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_snapshot, (self.url, self.number))

    def __repr__(self) -> str:
        return f"<snapshot {self.number} of {self.kind} {self.name}: {self.counts.get('records', 0)} records>"

    # ------------------------------------------------------------------ description

    @property
    def url(self) -> str:
        return self.files.url

    @property
    def kind(self) -> str:
        return self.root.kind

    @property
    def number(self) -> int:
        return self.root.number

    @property
    def node(self) -> str:
        """Identity of the node that made it."""
        return self.root.node

    @property
    def complete(self) -> bool:
        """Whether all units of the finished store are in."""
        return self.root.complete

    @property
    def parents(self) -> tuple[Parent, ...]:
        return self.root.parents

    @property
    def meta(self) -> Mapping[str, Json]:
        return self.root.meta

    @property
    def content_root(self) -> str:
        return self.root.content_root

    @property
    def counts(self) -> Mapping[str, int]:
        """Sums over all shards: `records`, `quarantined`, `shards`, `bytes`, and the facts of the kind that count."""
        return self.root.counts

    @property
    def as_parent(self) -> Parent:
        """Reference to this snapshot, for a snapshot made from it."""
        return Parent(self.url, self.number, self.content_root)

    @cached_property
    def receipts(self) -> Receipts:
        """Receipts of all committed units, in store order."""
        return Receipts(self.lists)

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the committed units, in store order."""
        return tuple(self.lists.unit_name(unit) for unit in range(len(self.receipts)))

    @cached_property
    def shards(self) -> Shards:
        """Shards in store order, which the ordinals of records follow."""
        return Shards(self.lists, np.arange(len(self.lists.directory.records)))

    @cached_property
    def ranges(self) -> Mapping[str, range]:
        """Ordinals of each unit's records (in a view, of the base's units), for nodes that work unit by unit."""
        ranges = {unit: range(0) for unit in self.base.units}
        for ref in self.shards:
            start = ranges[ref.unit].start if ranges[ref.unit] else ref.first
            ranges[ref.unit] = range(start, ref.first + ref.records)
        return ranges

    @property
    def base(self) -> Snapshot:
        """Snapshot that holds the records: this one, or the one at the end of a chain of views."""
        return self

    @property
    def base_error(self) -> StoreError | None:
        """Error of a view whose base can't be opened, so that no record can be read; None otherwise."""
        return None

    # ------------------------------------------------------------------ tables

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a table with one row per record, in store order.

        Args:
            columns: names to read, by default all: facts of the kind (`stores/shards/kinds.py`), `keep` and the columns
                of views, `unit` and `shard`. Ids are hex digits, as in records.
        Raises:
            StoreError: a column does not exist, or an index file is damaged.
        """
        parts = []
        for ref, part in self.tables(columns):
            constants = {"unit": ref.unit, "shard": ref.shard}
            for name in constants if columns is None else [name for name in constants if name in columns]:
                part = part.append_column(name, index.constant(constants[name], ref.records))
            parts.append(part)
        table = pa.concat_tables(parts, promote_options="default") if parts else self._empty()
        if columns is not None:
            self._check_names(columns, table)
            table = table.select(list(columns))
        return table.unify_dictionaries()

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[tuple[ShardRef, pa.Table]]:
        """Yield `table` shard by shard, for stores that do not fit memory.

        The tables have at least the given columns, and neither `unit` nor `shard`.
        """
        tables = prefetch(lambda ref: self._shard_table(ref.shard, columns), self.shards, self.at_once)
        return zip(self.shards, tables, strict=True)

    def media_table(self, columns: Sequence[str] = tuple(index.MEDIA.names)) -> pa.Table:
        """Return a table with one row per medium of every record, in store order.

        Args:
            columns: names of columns of `stores.shards.index.MEDIA`. `record` is the ordinal of the record, `shard` is
                never null, digests are hex digits.
        """
        import pyarrow.compute as pc

        parts = [index.in_hex(index.MEDIA.empty_table().select(list(columns)))]
        tables = prefetch(lambda ref: self.base._index(ref.shard).media, self.shards, self.at_once)
        for ref, media in zip(self.shards, tables, strict=True):
            if media is None:
                continue
            part = media.select(list(columns))
            for number, name in enumerate(columns):
                if name == "record":
                    part = part.set_column(number, name, pc.add(part.column(name), ref.first))
                elif name == "shard":
                    own_shard = pa.scalar(bytes.fromhex(ref.shard), pa.binary(32))
                    part = part.set_column(number, name, pc.fill_null(part.column(name), own_shard))
            parts.append(index.in_hex(part))
        return pa.concat_tables(parts).unify_dictionaries()

    def facts(
        self, columns: Sequence[str], media: Sequence[str]
    ) -> Iterator[tuple[ShardRef, pa.Table, pa.Table | None]]:
        """Yield the index tables shard by shard, as stored and without caching them.

        Args:
            columns: names of facts of the kind; ids and digests are bytes.
            media: names of columns of `stores.shards.index.MEDIA`; `record` is the row in the shard.
        Returns:
            (shard, table of facts, table of media or None where the shard has none).
        """

        def read(ref: ShardRef) -> tuple[pa.Table, pa.Table | None]:
            files, table = self.base.entry(ref.shard).files, self.base.reader.table
            core = table("core", files["core"], columns).select(list(columns)) if columns else pa.table({})
            if not media or "media" not in files:
                return core, None
            return core, table("media", files["media"], media).select(list(media))

        for ref, tables in zip(self.shards, prefetch(read, self.shards, self.at_once), strict=True):
            yield ref, *tables

    def quarantined(self) -> pa.Table:
        """Return the quarantined records: columns unit, locator, reason, message."""
        rows = []
        for receipt in self.receipts:
            rows += [{"unit": receipt.unit} | line for line in quarantine_lines(self.files, receipt)]
        return pa.Table.from_pylist(
            rows, pa.schema([(n, pa.string()) for n in ("unit", "locator", "reason", "message")])
        )

    # ------------------------------------------------------------------ records

    def record(self, ordinal: int) -> Any:
        """Return a record; its media have a location and no payload."""
        ref = self.shard_of(ordinal)
        base = self.base
        return base.reader.record(base._index(ref.shard), ordinal - ref.first)

    def records(self, start: int = 0, stop: int | None = None, keep_only: bool = True) -> Iterator[Any]:
        """Yield the records from ordinal `start` up to `stop`; `keep_only` leaves out records that a view dropped."""
        stop = self._stop(stop)
        ordinals = self.kept(start, stop).tolist() if keep_only else range(start, stop)
        return (self.record(ordinal) for ordinal in ordinals)

    def documents(self, ordinals: Iterable[int]) -> Iterator[Document]:
        """Yield documents with the bytes of their media. Neighbors are read together, with prefetch.

        Raises:
            StoreError: a byte changed, or a medium is missing.
        """
        base = self.base
        groups = self._groups(ordinals)
        for documents in prefetch(lambda group: base.reader.documents(*group), groups, self.at_once):
            for document in documents:
                yield self.with_payloads(document)

    def _groups(self, ordinals: Iterable[int]) -> Iterator[tuple[ShardIndex, list[int]]]:
        """Yield groups of rows of one shard, of about `GROUP_BYTES` each."""
        ref: ShardRef | None = None
        group: tuple[ShardIndex, list[int]] | None = None
        size = 0
        for ordinal in ordinals:
            if ref is None or not ref.first <= ordinal < ref.first + ref.records:
                ref = self.shard_of(ordinal)
                if group is not None:
                    yield group
                group, size = (self.base._index(ref.shard), []), 0
            elif size >= GROUP_BYTES and group is not None:
                yield group
                group, size = (group[0], []), 0
            assert group is not None
            shard_index, rows = group
            rows.append(ordinal - ref.first)
            size += int(shard_index.extents[rows[-1]])
        if group is not None:
            yield group

    def with_payloads(self, document: Document) -> Document:
        """Return the document with the bytes of its media. Raises StoreError if one is missing or changed."""
        if all(medium.payload is not None or medium.location is None for medium in document.media):
            return document
        parts = (
            replace(part, payload=self.read(part.location))
            if isinstance(part, Media) and part.payload is None and part.location is not None
            else part
            for part in document.parts
        )
        return replace(document, parts=tuple(parts))

    def arrays(self, name: str, start: int, into: np.ndarray) -> None:
        """Read one array of consecutive records into the rows of `into`; nothing else of the records is read.

        Args:
            name: name of the array; a kind whose arrays are equally long, such as packs.
            start: ordinal of the first record.
            into: (n, L) of the stored dtype, C-contiguous.
        Raises:
            StoreError: a byte changed, or an array has another length.
            IndexError: there are fewer records.
        """
        done = 0
        base = self.base
        while done < len(into):
            ref = self.shard_of(start + done)
            row = start + done - ref.first
            count = min(ref.records - row, len(into) - done)
            base.reader.arrays(base._index(ref.shard), name, row, into[done : done + count])
            done += count

    def outline(self, ordinal: int) -> Any:
        """Return the record with empty arrays, without reading the arrays."""
        ref = self.shard_of(ordinal)
        return self.base.reader.outline(self.base._index(ref.shard), ordinal - ref.first)

    def locate(self, ordinal: int) -> RecordRef:
        """Return the place of a record. Raises IndexError if there are fewer records."""
        ref = self.shard_of(ordinal)
        return RecordRef(ordinal, ref.unit, ref.shard, ordinal - ref.first)

    def row(self, ordinal: int) -> dict[str, Any]:
        """Return the columns of one record: its facts, and the decisions of views."""
        ref = self.locate(ordinal)
        return self._shard_table(ref.shard, None, ref.row).to_pylist()[0]

    def find(self, by: By, name: str) -> list[RecordRef]:
        """Return all records with a name in store order, including records that a view dropped.

        With a lookup index (`lookup/find.py`) the time does not depend on the size of the store; lists that the index
        does not cover are scanned.

        Args:
            by: `id` (32 hex digits), `url` (the locator or the origin of a document) or `digest` (64 hex digits, of a
                medium that the record holds).
        """
        matches = []
        for position, row in self.base.lookup.rows(by, name):
            number = int(np.searchsorted(self.shards.positions, position))
            if number < len(self.shards) and self.shards.positions[number] == position:
                ref = self.shards[number]
                matches.append(RecordRef(ref.first + row, ref.unit, ref.shard, row))
        return matches

    @cached_property
    def lookup(self) -> Lookup:
        """Lookup index; only for a store that holds its records itself."""
        return Lookup(self.files, self.root, self.lists, self.reader)

    def kept(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the ordinals from `start` up to `stop` of records that no view dropped, (n,) int64."""
        return np.arange(start, self._stop(stop), dtype=np.int64)

    def shard_of(self, ordinal: int) -> ShardRef:
        """Return the shard that has a record. Raises IndexError if there are fewer records."""
        last = self._last_ref
        if last is None or not last.first <= ordinal < last.first + last.records:
            if not 0 <= ordinal < self._total:
                raise IndexError(f"record {ordinal} of {self._total} in {self.name}")
            last = self._last_ref = self.shards.containing(ordinal)
        return last

    def read(self, location: Location) -> bytes:
        """Return the encoded bytes of a medium, compared with its checksum, from this store or a parent.

        Raises:
            StoreError: there is no such medium, or its bytes changed.
        """
        home = self._home(location.shard)
        if home is None:
            raise StoreError(
                f"no medium at {location.offset}: neither this store nor its parents have the shard",
                where=f"{self.name}/shards/{location.shard}.tar",
                fix="put the parent stores back where they were",
            )
        return home.reader.medium(home._index(location.shard), location)

    def record_bytes(self, ref: ShardRef) -> np.ndarray:
        """Return the bytes that each record of a shard takes in its tar, (n,) int64: exact for documents only."""
        return self.base._index(ref.shard).extents

    def columns(self, ref: ShardRef, columns: Sequence[str] | None = None) -> pa.Table:
        """Return `table` of one shard: at least the given columns, neither `unit` nor `shard`.

        Raises KeyError if the snapshot does not have the shard.
        """
        return self._shard_table(ref.shard, columns)

    def extra_columns(self, ref: ShardRef) -> pa.Table:
        """Return the columns of one shard that are no facts of its kind: those of views, and stored extra columns."""
        table = self._shard_table(ref.shard, None)
        return table.select([name for name in table.column_names if name not in KINDS[self.base.kind].FACTS.names])

    def index_digests(self, ref: ShardRef) -> tuple[str, ...]:
        """Return the logical digests of a shard's index tables, before any redaction: its own, and those of views."""
        return (self.entry(ref.shard).index,)

    # ------------------------------------------------------------------ one shard

    @property
    def at_once(self) -> int:
        """Number of parallel reads that is faster than reading one by one."""
        return self.files.at_once

    @cached_property
    def _total(self) -> int:
        return self.shards.records

    def _stop(self, stop: int | None) -> int:
        return self._total if stop is None else min(stop, self._total)

    def entry(self, shard: str) -> ShardEntry:
        """Return the entry of a shard, by its digest. Raises KeyError if the snapshot does not have the shard."""
        entry = self.lists.entry_of(shard)
        if entry is None:
            raise KeyError(shard)
        return entry

    def _index(self, shard: str) -> ShardIndex:
        """Return the index of a shard, by the shard's digest."""
        last = self._last_index
        if last is None or last.digest != shard:
            last = self._last_index = self.reader.index(self.entry(shard))
        return last

    def _shard_table(self, shard: str, columns: Sequence[str] | None, row: int | None = None) -> pa.Table:
        """Return facts, `keep` and extra columns of one shard, or of one row of it; of `columns` those that exist."""
        entry, shard_index = self.entry(shard), self._index(shard)
        facts = [name for name in KINDS[self.kind].FACTS.names if columns is None or name in columns]
        table = pa.table({"keep": np.ones(entry.records if row is None else 1, bool)})
        if facts:
            core = index.in_hex(_only(shard_index.core.select(facts), row))
            table = core.append_column("keep", table.column("keep"))
        if "columns" in entry.files and (columns is None or set(columns) - {*facts, *table.column_names}):
            extra = shard_index.extra_columns
            assert extra is not None
            for name in extra.column_names:
                if columns is None or name in columns:
                    table = table.append_column(name, _only(extra, row).column(name))
        return table

    def _empty(self) -> pa.Table:
        """Return `table` of a snapshot without shards."""
        schema = KINDS[self.base.kind].FACTS
        decided = [("reason", index.NAMES), ("score", pa.float64())] if self.kind == "view" else []
        added = [("keep", pa.bool_()), *decided, ("unit", index.NAMES), ("shard", index.NAMES)]
        return index.in_hex(pa.schema([*schema, *(pa.field(*column) for column in added)]).empty_table())

    def _check_names(self, wanted: Sequence[str], table: pa.Table) -> None:
        missing = [name for name in wanted if name not in table.column_names]
        if missing:
            existing = self.table().column_names if self.shards else table.column_names
            raise StoreError(
                f"no column {', '.join(map(repr, missing))}",
                where=f"{self.name} ({self.kind})",
                fix=f"one of {', '.join(existing)}",
            )

    def _home(self, shard: str) -> Snapshot | None:
        """Return the snapshot that holds a shard, this one or an ancestor; None if no ancestor has it."""
        if shard not in self._homes:
            if self.kind != "view" and self.lists.entry_of(shard) is not None:
                self._homes[shard] = self
            else:
                homes = (parent._home(shard) for parent in self._parents)
                home = next((home for home in homes if home is not None), None)
                if home is None:
                    return None
                self._homes[shard] = home
        return self._homes[shard]

    @cached_property
    def _parents(self) -> tuple[Snapshot, ...]:
        return tuple(self.open_parent(parent) for parent in self.parents)

    def open_parent(self, parent: Parent) -> Snapshot:
        """Open a parent: the newest snapshot of its store if the content root is equal, else the one with its number.

        The number alone does not identify it: a store that was lost and made again counts anew, and `forget` expires
        older snapshots.

        Raises:
            StoreError: neither snapshot has the content root of the parent.
        """
        files = open_files(parent.url)
        meta, newest = read_meta(files), newest_root(files)
        for number in filter(None, dict.fromkeys([newest, min(parent.number, newest)])):
            snapshot = snapshot_of(files, meta, number)
            if snapshot.content_root == parent.content_root:
                return snapshot
        raise StoreError(
            f"no snapshot here has content root {parent.content_root[:12]}, from which {self.name} was made",
            where=parent.url,
            fix="put that store back, or run its node again and then the one that made this",
        )


class ViewSnapshot(Snapshot):
    """Snapshot of a view: columns over another snapshot, the first parent. It holds no records."""

    @cached_property
    def viewed(self) -> Snapshot:
        """Snapshot that the view is over. Its other parents were read to make it, and are not needed to read it."""
        return self.open_parent(self.parents[0])

    @cached_property
    def _parents(self) -> tuple[Snapshot, ...]:
        return self.viewed, *map(self.open_parent, self.parents[1:])

    @property
    def base(self) -> Snapshot:
        return self.viewed.base

    @property
    def base_error(self) -> StoreError | None:
        try:
            return self.viewed.base_error
        except StoreError as error:
            return error

    def index_digests(self, ref: ShardRef) -> tuple[str, ...]:
        return *self.viewed.index_digests(ref), self.entry(ref.shard).index

    @property
    def at_once(self) -> int:
        return max(self.files.at_once, self.viewed.at_once)

    @cached_property
    def shards(self) -> Shards:
        """Shards of the viewed snapshot that have columns here, in its order."""
        below, decided = self.viewed.shards, self.lists.directory.prefixes
        if len(decided) == len(below):
            return below
        prefixes = self.base.lists.directory.prefixes[below.positions]
        return Shards(self.base.lists, below.positions[np.isin(prefixes, decided)])

    def kept(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        stop = self._stop(stop)
        parts = [np.zeros(0, np.int64)]
        touched = self.shards.overlapping(start, stop)
        keeps = prefetch(lambda ref: self._shard_table(ref.shard, ["keep"]).column("keep"), touched, self.at_once)
        for ref, keep in zip(touched, keeps, strict=True):
            parts.append(ref.first + np.flatnonzero(keep.to_numpy()))
        ordinals = np.concatenate(parts)
        return ordinals[(ordinals >= start) & (ordinals < stop)]

    def _shard_table(self, shard: str, columns: Sequence[str] | None, row: int | None = None) -> pa.Table:
        import pyarrow.compute as pc

        shard_index = self._index(shard)
        wanted = None if columns is None else sorted({*columns, "keep"})
        own = shard_index.extra_columns if wanted is None else shard_index.columns("columns", wanted)
        assert own is not None
        own = _only(own, row)
        below = self.viewed._shard_table(shard, columns, row)
        kept = below.column("keep")
        for name in own.column_names:
            column = own.column(name)
            if name in below.column_names:
                if name not in DECIDED:
                    raise StoreError(
                        f"column {name!r} is in this view and in the snapshot that it is over",
                        where=self.name,
                        fix="give the column another name in one of the two nodes",
                    )
                decided = pc.and_(kept, column) if name == "keep" else pc.if_else(kept, column, below.column(name))
                below = below.set_column(below.column_names.index(name), name, decided)
            else:
                below = below.append_column(name, column)
        return below


def _only(table: pa.Table, row: int | None) -> pa.Table:
    """Return one row of a table; all rows for None."""
    return table if row is None else table.slice(row, 1)
