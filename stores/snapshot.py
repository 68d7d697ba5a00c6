"""An immutable state of a store, opened for reading: tables for planners, records for workers, bytes for loaders.

`Store.head()` or `Store.snapshot(n)` give one; it pickles as (URL, number) and opens itself again in another process.
A view's snapshot reads through its base: same records, more columns, `keep` the AND of all views on the way.
Whatever is read is compared with a digest or a checksum; what differs raises StoreError naming shard[record].
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
"""Columns that a chain of views answers together: the first view that drops a record says why."""

TOGETHER_BYTES = 4 << 20
"""Of documents that are read at once, with their media."""


def open_snapshot(url: str, number: int) -> Snapshot:
    """Raises StoreError where store or root are missing or damaged."""
    files = open_files(url)
    meta = read_meta(files)
    return snapshot_of(files, meta, number)


def snapshot_of(files: Files, meta: Mapping[str, Json], number: int) -> Snapshot:
    where = f"{files.url}/{root_path(number)}"
    try:
        data = files.read(root_path(number))
    except FileNotFoundError:
        raise StoreError(f"snapshot {number} does not exist", where=files.url, fix="ask for another number") from None
    root = read_root(data, files.url, where)
    if root.number != number or root.kind != meta["kind"]:
        raise StoreError("this root belongs to another place", where=where)
    kind = ViewSnapshot if root.kind == "view" else Snapshot
    return kind(files, meta["name"], root)


class Snapshot:
    def __init__(self, files: Files, name: str, root: Root) -> None:
        self.files, self.name, self.root = files, name, root
        self.lists = Lists(files, root)
        self.reader = ShardReader(files, root.kind, name)
        self._homes: dict[str, Snapshot] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_snapshot, (self.url, self.number))

    def __repr__(self) -> str:
        return f"<snapshot {self.number} of {self.kind} {self.name}: {self.counts.get('records', 0)} records>"

    # ------------------------------------------------------------------ what it is

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
        """Whether all wanted units are in."""
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
        """Sums over all shards: `records`, what the kind counts, `quarantined`, `shards` and `bytes`."""
        return self.root.counts

    @property
    def as_parent(self) -> Parent:
        """How a snapshot made from this one names it."""
        return Parent(self.url, self.number, self.content_root)

    @cached_property
    def receipts(self) -> Receipts:
        """Of all committed units, in store order."""
        return Receipts(self.lists)

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the committed units, in store order."""
        return tuple(self.lists.unit_name(unit) for unit in range(len(self.receipts)))

    @cached_property
    def shards(self) -> Shards:
        """In store order; ordinals of records follow it."""
        return Shards(self.lists, np.arange(len(self.lists.directory.records)))

    @cached_property
    def ranges(self) -> Mapping[str, range]:
        """Ordinals of each unit's records (in a view, of the base's units), for nodes that work unit by unit."""
        found = {unit: range(0) for unit in self.base.units}
        for ref in self.shards:
            start = found[ref.unit].start if found[ref.unit] else ref.first
            found[ref.unit] = range(start, ref.first + ref.records)
        return found

    @property
    def base(self) -> Snapshot:
        """The store that holds the records: this one, or what a view looks at in the end."""
        return self

    @property
    def base_error(self) -> StoreError | None:
        """Why none of its records can be read though nothing here is damaged: what a view looks at is not there."""
        return None

    # ------------------------------------------------------------------ tables

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per record in store order.

        Args:
            columns: names to read, by default all: facts of the kind (`stores/shards/kinds.py`), `keep` and what views
            add,
                `unit` and `shard`. Ids are hex digits, as in records.
        Raises:
            StoreError: a column does not exist, or an index file is damaged.
        """
        parts = []
        for ref, part in self.tables(columns):
            words = {"unit": ref.unit, "shard": ref.shard}
            for name in words if columns is None else [name for name in words if name in columns]:
                part = part.append_column(name, index.constant(words[name], ref.records))
            parts.append(part)
        table = pa.concat_tables(parts, promote_options="default") if parts else self._empty()
        if columns is not None:
            self._check_names(columns, table)
            table = table.select(list(columns))
        return table.unify_dictionaries()

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[tuple[ShardRef, pa.Table]]:
        """`table` shard by shard, at least the columns named, without `unit` and `shard`: what does not fit memory."""
        tables = prefetch(lambda ref: self._shard_table(ref.shard, columns), self.shards, self.at_once)
        return zip(self.shards, tables, strict=True)

    def media_table(self, columns: Sequence[str] = tuple(index.MEDIA.names)) -> pa.Table:
        """One row per medium of every record, in store order: columns of `stores.shards.index.MEDIA`.

        `record` is the record's ordinal in this snapshot, `shard` is never null, digests are hex digits.
        """
        import pyarrow.compute as pc

        parts = [index.in_hex(index.MEDIA.empty_table().select(list(columns)))]
        tables = prefetch(lambda ref: self.base._index(ref.shard).media, self.shards, self.at_once)
        for ref, media in zip(self.shards, tables, strict=True):
            if media is None:
                continue
            part = media.select(list(columns))
            for place, name in enumerate(columns):
                if name == "record":
                    part = part.set_column(place, name, pc.add(part.column(name), ref.first))
                elif name == "shard":
                    here = pa.scalar(bytes.fromhex(ref.shard), pa.binary(32))
                    part = part.set_column(place, name, pc.fill_null(part.column(name), here))
            parts.append(index.in_hex(part))
        return pa.concat_tables(parts).unify_dictionaries()

    def facts(
        self, columns: Sequence[str], media: Sequence[str]
    ) -> Iterator[tuple[ShardRef, pa.Table, pa.Table | None]]:
        """Shard by shard what the index says, without putting it together or keeping it: columns of the kind's facts,
        and of `stores.shards.index.MEDIA` where there are media. Ids and digests are
        bytes, `record` is the row in the shard."""

        def read(ref: ShardRef) -> tuple[pa.Table, pa.Table | None]:
            files, table = self.base.entry(ref.shard).files, self.base.reader.table
            core = table("core", files["core"], columns).select(list(columns)) if columns else pa.table({})
            there = table("media", files["media"], media).select(list(media)) if media and "media" in files else None
            return core, there

        for ref, tables in zip(self.shards, prefetch(read, self.shards, self.at_once), strict=True):
            yield ref, *tables

    def quarantined(self) -> pa.Table:
        """What was set aside: unit, locator, reason, message."""
        rows = []
        for receipt in self.receipts:
            rows += [{"unit": receipt.unit} | line for line in quarantine_lines(self.files, receipt)]
        return pa.Table.from_pylist(
            rows, pa.schema([(n, pa.string()) for n in ("unit", "locator", "reason", "message")])
        )

    # ------------------------------------------------------------------ records

    def record(self, ordinal: int) -> Any:
        """The record at that place in store order, its media located and without payload."""
        ref = self.shard_of(ordinal)
        base = self.base
        return base.reader.record(base._index(ref.shard), ordinal - ref.first)

    def records(self, start: int = 0, stop: int | None = None, keep_only: bool = True) -> Iterator[Any]:
        """Records from ordinal `start` up to `stop`, without those that a view dropped unless `keep_only` is False."""
        stop = self._stop(stop)
        ordinals = self.kept(start, stop).tolist() if keep_only else range(start, stop)
        return (self.record(ordinal) for ordinal in ordinals)

    def documents(self, ordinals: Iterable[int]) -> Iterator[Document]:
        """Documents with the bytes of their media, wherever those lie. Neighbours are read together, and ahead.

        Raises StoreError where a byte of one changed.
        """
        base = self.base
        pieces = self._pieces(ordinals)
        for some in prefetch(lambda piece: base.reader.documents(*piece), pieces, self.at_once):
            for document in some:
                yield self.with_payloads(document)

    def _pieces(self, ordinals: Iterable[int]) -> Iterator[tuple[ShardIndex, list[int]]]:
        """Rows of one shard each, of about `TOGETHER_BYTES`."""
        ref: ShardRef | None = None
        piece: tuple[ShardIndex, list[int]] | None = None
        size = 0
        for ordinal in ordinals:
            if ref is None or not ref.first <= ordinal < ref.first + ref.records:
                ref = self.shard_of(ordinal)
                if piece is not None:
                    yield piece
                piece, size = (self.base._index(ref.shard), []), 0
            elif size >= TOGETHER_BYTES and piece is not None:
                yield piece
                piece, size = (piece[0], []), 0
            assert piece is not None
            known, rows = piece
            rows.append(ordinal - ref.first)
            size += int(known.extents[rows[-1]])
        if piece is not None:
            yield piece

    def with_payloads(self, document: Document) -> Document:
        """The document with the bytes of its media. Raises StoreError where one is missing or changed."""
        if all(one.payload is not None or one.location is None for one in document.media):
            return document
        parts = (
            replace(part, payload=self.read(part.location))
            if isinstance(part, Media) and part.payload is None and part.location is not None
            else part
            for part in document.parts
        )
        return replace(document, parts=tuple(parts))

    def arrays(self, name: str, start: int, into: np.ndarray) -> None:
        """Array `name` of the records from ordinal `start` on, one per row of `into`; nothing else of them is read.

        Args:
            into: (n, L) of the stored type, C-contiguous; for kinds whose arrays are equally long, as packs.
        Raises:
            StoreError: a byte of them changed, or they have another length.
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
        """The record with empty arrays: what it says beside them, read without them."""
        ref = self.shard_of(ordinal)
        return self.base.reader.outline(self.base._index(ref.shard), ordinal - ref.first)

    def locate(self, ordinal: int) -> RecordRef:
        """Where that record lies. Raises IndexError where there are fewer."""
        ref = self.shard_of(ordinal)
        return RecordRef(ordinal, ref.unit, ref.shard, ordinal - ref.first)

    def row(self, ordinal: int) -> dict[str, Any]:
        """What the index says of that record, and what views decided about it."""
        place = self.locate(ordinal)
        return self._shard_table(place.shard, None, place.row).to_pylist()[0]

    def find(self, by: By, name: str) -> list[RecordRef]:
        """All records with that name, in store order, also those that a view dropped. In time independent of the size
        of the store where its look-up was made (`lookup/find.py`), else by scanning what that does not cover.

        Args:
            by: `id` (32 hex digits), `url` (the locator or the origin of a document) or `digest` (64 hex digits, of a
                medium that the record holds).
        """
        found = []
        for base_place, row in self.base.lookup.rows(by, name):
            place = int(np.searchsorted(self.shards.positions, base_place))
            if place < len(self.shards) and self.shards.positions[place] == base_place:
                ref = self.shards[place]
                found.append(RecordRef(ref.first + row, ref.unit, ref.shard, row))
        return found

    @cached_property
    def lookup(self) -> Lookup:
        """Of a store with records of its own."""
        return Lookup(self.files, self.root, self.lists, self.reader)

    def kept(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """(n,) int64: ordinals from `start` up to `stop` of records that no view dropped."""
        return np.arange(start, self._stop(stop), dtype=np.int64)

    def shard_of(self, ordinal: int) -> ShardRef:
        if not 0 <= ordinal < self._total:
            raise IndexError(f"record {ordinal} of {self._total} in {self.name}")
        return self.shards.containing(ordinal)

    def read(self, location: Location) -> bytes:
        """The encoded bytes of a medium, compared with its checksum; found in this store or in what it was made from.

        Raises StoreError where there is no such medium or its bytes changed.
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
        """(n,) int64: about how many bytes of its tar each record of a shard takes, for a document exactly."""
        return self.base._index(ref.shard).extents

    def columns(self, ref: ShardRef, columns: Sequence[str] | None = None) -> pa.Table:
        """`table` of one shard, at least the columns named, without `unit` and `shard`.

        Raises KeyError where this shard is not here.
        """
        return self._shard_table(ref.shard, columns)

    def extra_columns(self, ref: ShardRef) -> pa.Table:
        """Columns of one shard's records that are no facts of their kind, but what views say, or brought along."""
        table = self._shard_table(ref.shard, None)
        return table.select([name for name in table.column_names if name not in KINDS[self.base.kind].FACTS.names])

    def index_digests(self, ref: ShardRef) -> tuple[str, ...]:
        """Logical digests of all tables that speak of one shard's records, as they were made."""
        return (self.entry(ref.shard).index,)

    # ------------------------------------------------------------------ below: one shard

    @property
    def at_once(self) -> int:
        """So many reads side by side are quicker than one after the other."""
        return self.files.at_once

    @property
    def _total(self) -> int:
        return self.shards.records

    def _stop(self, stop: int | None) -> int:
        return self._total if stop is None else min(stop, self._total)

    def entry(self, shard: str) -> ShardEntry:
        """What this snapshot says of a shard, by its digest. Raises KeyError where it says nothing."""
        entry = self.lists.entry_of(shard)
        if entry is None:
            raise KeyError(shard)
        return entry

    def _index(self, shard: str) -> ShardIndex:
        return self.reader.index(self.entry(shard))

    def _shard_table(self, shard: str, columns: Sequence[str] | None, row: int | None = None) -> pa.Table:
        """Facts and `keep` of one shard's records, or of one of them; of `columns` at least those that exist."""
        entry, known = self.entry(shard), self._index(shard)
        facts = [name for name in KINDS[self.kind].FACTS.names if columns is None or name in columns]
        found = pa.table({"keep": np.ones(entry.records if row is None else 1, bool)})
        if facts:
            core = index.in_hex(_only(known.core.select(facts), row))
            found = core.append_column("keep", found.column("keep"))
        if "columns" in entry.files and (columns is None or set(columns) - {*facts, *found.column_names}):
            assert known.extra_columns is not None
            for name in known.extra_columns.column_names:
                if columns is None or name in columns:
                    found = found.append_column(name, _only(known.extra_columns, row).column(name))
        return found

    def _empty(self) -> pa.Table:
        schema = KINDS[self.base.kind].FACTS
        decided = [("reason", index.NAMES), ("score", pa.float64())] if self.kind == "view" else []
        added = [("keep", pa.bool_()), *decided, ("unit", index.NAMES), ("shard", index.NAMES)]
        return index.in_hex(pa.schema([*schema, *(pa.field(*one) for one in added)]).empty_table())

    def _check_names(self, wanted: Sequence[str], table: pa.Table) -> None:
        missing = [name for name in wanted if name not in table.column_names]
        if missing:
            there = self.table().column_names if self.shards else table.column_names
            raise StoreError(
                f"no column {', '.join(map(repr, missing))}",
                where=f"{self.name} ({self.kind})",
                fix=f"one of {', '.join(there)}",
            )

    def _home(self, shard: str) -> Snapshot | None:
        """The snapshot that holds a shard: this one, or one that it was made from."""
        if shard not in self._homes:
            if self.kind != "view" and self.lists.entry_of(shard) is not None:
                self._homes[shard] = self
            else:
                homes = (parent._home(shard) for parent in self._parents)
                found = next((home for home in homes if home is not None), None)
                if found is None:
                    return None
                self._homes[shard] = found
        return self._homes[shard]

    @cached_property
    def _parents(self) -> tuple[Snapshot, ...]:
        return tuple(self.open_parent(parent) for parent in self.parents)

    def open_parent(self, parent: Parent) -> Snapshot:
        """A parent: the newest snapshot if it holds the same, else by number. A store that was lost and made again has
        another number, and where something was forgotten the older ones have expired."""
        files = open_files(parent.url)
        meta, last = read_meta(files), newest_root(files)
        for number in filter(None, dict.fromkeys([last, min(parent.number, last)])):
            opened = snapshot_of(files, meta, number)
            if opened.content_root == parent.content_root:
                return opened
        raise StoreError(
            f"no snapshot here has content root {parent.content_root[:12]}, from which {self.name} was made",
            where=parent.url,
            fix="put that store back, or run its node again and then the one that made this",
        )


class ViewSnapshot(Snapshot):
    """Columns over another snapshot, the first parent. Holds no records of its own."""

    @cached_property
    def viewed(self) -> Snapshot:
        """What it looks at. Other parents were read when it was made, and are not needed to read it."""
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
        """Those of the snapshot below for which columns are committed, in its order."""
        below, decided = self.viewed.shards, self.lists.directory.prefixes
        if len(decided) == len(below):
            return below
        prefixes = self.base.lists.directory.prefixes[below.positions]
        return Shards(self.base.lists, below.positions[np.isin(prefixes, decided)])

    def kept(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        stop = self._stop(stop)
        found = [np.zeros(0, np.int64)]
        touched = self.shards.overlapping(start, stop)
        keeps = prefetch(lambda ref: self._shard_table(ref.shard, ["keep"]).column("keep"), touched, self.at_once)
        for ref, keep in zip(touched, keeps, strict=True):
            found.append(ref.first + np.flatnonzero(keep.to_numpy()))
        ordinals = np.concatenate(found)
        return ordinals[(ordinals >= start) & (ordinals < stop)]

    def _shard_table(self, shard: str, columns: Sequence[str] | None, row: int | None = None) -> pa.Table:
        import pyarrow.compute as pc

        known = self._index(shard)
        own = known.extra_columns if columns is None else known.columns("columns", sorted({*columns, "keep"}))
        assert own is not None
        own = _only(own, row)
        below = self.viewed._shard_table(shard, columns, row)
        kept = below.column("keep")
        for name in own.column_names:
            column = own.column(name)
            if name in below.column_names:
                if name not in DECIDED:
                    raise StoreError(
                        f"column {name!r} stands in this view and in what it is made over",
                        where=self.name,
                        fix="give the column another name in one of the two nodes",
                    )
                decided = pc.and_(kept, column) if name == "keep" else pc.if_else(kept, column, below.column(name))
                below = below.set_column(below.column_names.index(name), name, decided)
            else:
                below = below.append_column(name, column)
        return below


def _only(table: pa.Table, row: int | None) -> pa.Table:
    return table if row is None else table.slice(row, 1)
