"""Committed bytes of one store: what it is, its newest root, whole content-named files, single records, single media.

`snapshot.py` says which shard; here is how one is read. A record costs one range for its line and one per array, and no
scan. Everything is compared with a digest or a checksum.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.errors import StoreError
from manifests.records import Document, Location, Media
from stores.cache import Cache, lock_free_property
from stores.files.open import open_files
from stores.files.protocol import Files
from stores.files.urls import top_of
from stores.shards import index
from stores.shards.entry import ShardEntry
from stores.shards.kinds import KINDS
from stores.shards.layout import Range, checksum, read_ranges

INDEX_BYTES = 128 << 20
"""Of shard indexes kept at hand; beyond, the one that was used longest ago is read again when needed."""
PUT_BACK = (
    "put back the tar that was adopted; or delete the store's folder and run its node again, to adopt what is there"
)


def read_whole(files: Files, path: str, digest: str) -> bytes:
    """A content-named file. Raises StoreError where it is missing or not what its name says."""
    where = f"{files.url}/{path}"
    try:
        data = files.read(path)
    except FileNotFoundError:
        raise StoreError("a file of this snapshot is missing", where=where, fix="restore it from a copy") from None
    if sha256(data).hexdigest() != digest:
        raise StoreError("its bytes are not those that were committed", where=where, fix="restore it from a copy")
    return data


class ShardIndex:
    """The index of one shard, in the form that reading single records wants. Files are read, and columns decoded,
    when they are asked for: to find one record takes a fifth of the time that the whole tables take."""

    def __init__(self, entry: ShardEntry, read: Callable[[str], bytes]) -> None:
        """`read` gives the parquet file of a table, by name."""
        self.entry, self.shard = entry, entry.shard
        self._read = read
        self._files: dict[str, bytes] = {}
        self._columns: dict[tuple[str, ...], pa.Table] = {}
        self.held_bytes = 0
        """Memory that this takes, about: files and tables. Counted as they come, since a cache asks all it holds."""

    @lock_free_property
    def core(self) -> pa.Table:
        return self._kept(index.from_parquet(self._file("core")))

    @lock_free_property
    def media(self) -> pa.Table | None:
        return self._kept(index.from_parquet(self._file("media"))) if "media" in self.entry.files else None

    def columns(self, name: str, wanted: Sequence[str]) -> pa.Table | None:
        """Of a table, those of the columns that it has; None where the shard has no such table."""
        if name not in self.entry.files:
            return None
        key = (name, *wanted)
        if key not in self._columns:
            self._columns[key] = self._kept(index.from_parquet(self._file(name), wanted))
        return self._columns[key]

    @lock_free_property
    def beside(self) -> pa.Table | None:
        """Columns that the records brought along from views (`UnitWriter.add`)."""
        return self._kept(index.from_parquet(self._file("columns"))) if "columns" in self.entry.files else None

    @lock_free_property
    def extents(self) -> np.ndarray:
        """(n,) int64: bytes of the tar from each record's line to the next one's, and bytes of its media in an adopted
        tar. For a document that is its whole size. Forgetting a record leaves its bytes in our tar as they were."""
        sizes = np.diff(self.places["line.at"], append=self.entry.bytes).clip(0)
        if self.entry.media_url is not None and self.media is not None:
            np.add.at(sizes, self._records, self.media.column("length").to_numpy())
        return sizes

    @lock_free_property
    def places(self) -> Mapping[str, np.ndarray]:
        """Where the line and each array of a record lie, and what they hash to."""
        table = self._kept(index.places(self._file("core")))
        return {name: index.numbers(table.column(name)) for name in table.column_names}

    def media_of(self, row: int) -> list[Media]:
        first, stop = np.searchsorted(self._records, [row, row + 1]).tolist()
        if first == stop or self.media is None:
            return []
        return [index.media_of(told, self.shard) for told in self.media.slice(first, stop - first).to_pylist()]

    def medium_at(self, location: Location) -> tuple[int, int | None, bytes | None]:
        """(row of the first record that holds it, its checksum if there is one, its digest), or (0, None, None) where
        there is no such medium."""
        if self.media is None:
            return 0, None, None
        offsets, order = self._stored
        first, stop = (int(np.searchsorted(offsets, location.offset, side=side)) for side in ("left", "right"))
        for place in order[first:stop].tolist():
            told = self.media.slice(place, 1).select(["length", "record", "xxh3", "digest"]).to_pylist()[0]
            if told["length"] == location.length:
                return told["record"], told["xxh3"], told["digest"]
        return 0, None, None

    @lock_free_property
    def _records(self) -> np.ndarray:
        """(M,) int64, ascending: the row of each medium's record."""
        return np.zeros(0, np.int64) if self.media is None else index.numbers(self.media.column("record"))

    @lock_free_property
    def _stored(self) -> tuple[np.ndarray, np.ndarray]:
        """Offsets of the media in this shard, ascending, and the row of the media table for each."""
        assert self.media is not None
        here = np.flatnonzero(self.media.column("shard").is_null().to_numpy())
        offsets = index.numbers(self.media.column("offset"))[here]
        order = np.argsort(offsets, kind="stable")
        return offsets[order], here[order]

    def _file(self, name: str) -> bytes:
        if name not in self._files:
            self._files[name] = self._read(name)
            self.held_bytes += len(self._files[name])
        return self._files[name]

    def _kept(self, table: pa.Table) -> pa.Table:
        self.held_bytes += table.nbytes
        return table


class ShardReader:
    """Reads the shards of one store."""

    def __init__(self, files: Files, kind: str, name: str) -> None:
        self._files, self._kind, self._name = files, kind, name
        self._indexes: Cache[ShardIndex] = Cache(INDEX_BYTES, lambda known: known.held_bytes)
        self._outside: dict[str, Files] = {}
        """Filesystems where adopted tars lie, by the URL of their top."""

    def index(self, entry: ShardEntry) -> ShardIndex:
        def file(name: str) -> bytes:
            return read_whole(self._files, index.path(name, entry.files[name]), entry.files[name])

        return self._indexes.get(entry.shard, lambda: ShardIndex(entry, file))

    def table(self, name: str, digest: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Of `columns` those that are there."""
        return index.from_parquet(read_whole(self._files, index.path(name, digest), digest), columns)

    def record(self, known: ShardIndex, row: int) -> Any:
        """Raises StoreError where a byte of it changed."""
        ranges = read_ranges(known.places, row)
        parts = dict(zip(ranges, self._ranges(known, list(ranges.values()), row), strict=True))
        if any(checksum(part) != int(known.places[f"{name}.xxh3"][row]) for name, part in parts.items()):
            raise self.damaged(known, row, "its bytes changed since they were written")
        line = json.loads(parts.pop("line"))
        return KINDS[self._kind].decode(line, parts, known.media_of(row))

    def documents(self, known: ShardIndex, rows: Sequence[int]) -> list[Document]:
        """Documents with the bytes of the media that this shard, or the tar that it adopted, holds. Lines are read
        together, and so are media.

        Raises StoreError where a byte of one changed.
        """
        places = [read_ranges(known.places, row)["line"] for row in rows]
        media = [known.media_of(row) for row in rows]
        spans = list(dict.fromkeys(span for some in media for one in some if (span := _span_in(known.shard, one))))
        if known.entry.media_url is None:
            read = self._ranges(known, [*places, *spans], rows[0])
            lines, payloads = read[: len(places)], read[len(places) :]
        else:
            lines = self._ranges(known, places, rows[0])
            payloads = self._ranges(known, spans, rows[0], of_media=True) if spans else []
        by_span = dict(zip(spans, payloads, strict=True))
        documents = []
        for row, line, located in zip(rows, lines, media, strict=True):
            if checksum(line) != int(known.places["line.xxh3"][row]):
                raise self.damaged(known, row, "its bytes changed since they were written")
            filled = [
                replace(one, payload=by_span[span]) if (span := _span_in(known.shard, one)) else one for one in located
            ]
            for one in filled:
                if one.payload is not None and sha256(one.payload).hexdigest() != one.digest:
                    raise self.damaged(known, row, f"the bytes of medium {one.digest[:16]} changed", of_media=True)
            documents.append(KINDS["documents"].decode(json.loads(line), {}, filled))
        return documents

    def arrays(self, known: ShardIndex, name: str, first: int, into: np.ndarray) -> None:
        """Array `name` of the records from row `first` on, one per row of `into`: runs of neighbours in one read each.

        Raises StoreError where a byte of one changed.
        """
        count, length = len(into), into[:1].nbytes
        # Lists: a batch has few rows, and each operation of numpy costs as much as going through ten of them.
        at, sizes, sums = (
            known.places[f"{name}.{what}"][first : first + count].tolist() for what in ("at", "bytes", "xxh3")
        )
        if sizes.count(length) < count:
            wrong = next(row for row, size in enumerate(sizes) if size != length)
            raise self.damaged(known, first + wrong, f"{name} has {sizes[wrong]} bytes, expected {length}")
        raw = into.view(np.uint8).reshape(-1).data
        breaks = [row for row in range(1, count) if at[row] - at[row - 1] != length]
        for start, stop in pairwise([0, *breaks, count]):
            read = self._into(known, at[start], raw[start * length : stop * length], first + start)
            if read < (stop - start) * length:
                raise self.damaged(known, first + start + read // length, "the shard ends early")
        for row, told in enumerate(sums):
            if checksum(raw[row * length : (row + 1) * length]) != told:
                raise self.damaged(known, first + row, f"its bytes changed since they were written ({name})")

    def outline(self, known: ShardIndex, row: int) -> Any:
        """The record with empty arrays. Raises StoreError where a byte of what it says beside them changed."""
        at, length = int(known.places["line.at"][row]), int(known.places["line.bytes"][row])
        (data,) = self._ranges(known, [(at, length)], row)
        if checksum(data) != int(known.places["line.xxh3"][row]):
            raise self.damaged(known, row, "its bytes changed since they were written")
        return KINDS[self._kind].decode(json.loads(data), defaultdict(bytes), known.media_of(row))

    def medium(self, known: ShardIndex, location: Location) -> bytes:
        """Raises StoreError where no medium lies there or a byte of it changed."""
        row, xxh3, digest = known.medium_at(location)
        if digest is None:
            raise self.damaged(known, row, f"no medium of {location.length} bytes at {location.offset}", of_media=True)
        (data,) = self._ranges(known, [(location.offset, location.length)], row, of_media=True)
        if sha256(data).digest() != digest if xxh3 is None else checksum(data) != xxh3:
            raise self.damaged(known, row, f"the bytes of medium {digest.hex()[:16]} changed", of_media=True)
        return data

    def damaged(self, known: ShardIndex, row: int, what: str, of_media: bool = False) -> StoreError:
        if of_media and known.entry.media_url is not None:
            where = f"{known.entry.media_url}[{row}]"
            return StoreError(f"{what}; {self._name} adopted this tar and has no copy", where=where, fix=PUT_BACK)
        where = f"{self._name}/shards/{known.shard}.tar[{row}]"
        return StoreError(what, where=where, fix="restore the shard from a copy, or run the node that made it again")

    def media_tar(self, entry: ShardEntry) -> tuple[Files, str]:
        """Filesystem and path of the tar with the media of a shard: its own, or one that it adopted."""
        if entry.media_url is None:
            return self._files, f"shards/{entry.tar}.tar"
        top, path = top_of(entry.media_url)
        if top not in self._outside:
            self._outside[top] = open_files(top).uncached()  # files that others name may change
        return self._outside[top], path

    def _into(self, known: ShardIndex, offset: int, buffer: memoryview, row: int) -> int:
        try:
            return self._files.read_into(f"shards/{known.entry.tar}.tar", offset, buffer)
        except FileNotFoundError:
            raise self.damaged(known, row, "the shard is missing") from None

    def _ranges(self, known: ShardIndex, ranges: Sequence[Range], row: int, of_media: bool = False) -> list[bytes]:
        """Byte ranges of a shard or, `of_media`, of the tar with its media; `row` is named where that is damaged."""
        files, path = self.media_tar(known.entry) if of_media else (self._files, f"shards/{known.entry.tar}.tar")
        tar = "shard" if files is self._files else "tar"
        try:
            found = files.read_ranges(path, ranges)
        except FileNotFoundError:
            raise self.damaged(known, row, f"the {tar} is missing", of_media) from None
        for data, (offset, length) in zip(found, ranges, strict=True):
            if len(data) != length:
                message = f"the {tar} ends early: {len(data)} of {length} bytes at {offset}"
                raise self.damaged(known, row, message, of_media)
        return found


def _span_in(shard: str, media: Media) -> Range | None:
    """Where a medium lies in a shard; None where it lies in another."""
    if media.location is None or media.location.shard != shard:
        return None
    return media.location.offset, media.location.length
