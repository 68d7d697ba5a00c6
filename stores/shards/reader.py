"""Reader of a store's shards: single records, their media and their arrays, each by byte range and checked.

`snapshot.py` finds the shard and the row of a record. A record costs one range for its line and one for each array; no
tar is scanned. All bytes are compared with a checksum or digest of the index. Media of an adopted tar are read from
that tar, wherever it is.
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
from stores.shards.index import Range, checksum
from stores.shards.kinds import KINDS

INDEX_BYTES = 128 << 20
"""Size of the cache of shard indexes; the least recently used one goes first."""
PUT_BACK = (
    "put back the tar that was adopted; or delete the store's folder and run its node again, to adopt what is there"
)


def read_whole(files: Files, path: str, digest: str) -> bytes:
    """Return the content of a file that is named by its SHA-256. Raises StoreError if it is missing or has another
    one."""
    where = f"{files.url}/{path}"
    try:
        data = files.read(path)
    except FileNotFoundError:
        raise StoreError("a file of this snapshot is missing", where=where, fix="restore it from a copy") from None
    if sha256(data).hexdigest() != digest:
        raise StoreError("its bytes are not those that were committed", where=where, fix="restore it from a copy")
    return data


class ShardIndex:
    """The index of one shard, decoded as it is used. Files are read and columns decoded on first access: finding one
    record takes a fifth of the time of decoding all tables."""

    def __init__(self, entry: ShardEntry, read: Callable[[str], bytes]) -> None:
        """`read` returns the Parquet file of a table, by name."""
        self.entry, self.digest = entry, entry.shard
        self.path = f"shards/{entry.tar}.tar"
        """Path of the tar in its store."""
        self._read = read
        self._files: dict[str, bytes] = {}
        self._columns: dict[tuple[str, ...], pa.Table] = {}
        self.held_bytes = 0
        """Approximate memory of files and tables. Counted as they are read, since the cache sums it over all
        indexes."""

    @lock_free_property
    def core(self) -> pa.Table:
        """One row per record: facts and byte ranges."""
        return self._kept(index.from_parquet(self._file("core")))

    @lock_free_property
    def media(self) -> pa.Table | None:
        """One row per medium of each record, of columns `index.MEDIA`; None if the shard has no media."""
        return self._kept(index.from_parquet(self._file("media"))) if "media" in self.entry.files else None

    def columns(self, name: str, wanted: Sequence[str]) -> pa.Table | None:
        """Return those of the columns that a table has; None if the shard has no such table."""
        if name not in self.entry.files:
            return None
        key = (name, *wanted)
        if key not in self._columns:
            self._columns[key] = self._kept(index.from_parquet(self._file(name), wanted))
        return self._columns[key]

    @lock_free_property
    def extra_columns(self) -> pa.Table | None:
        """Columns that are no facts of the kind: those of a view, or of a view that was materialized."""
        return self._kept(index.from_parquet(self._file("columns"))) if "columns" in self.entry.files else None

    @lock_free_property
    def extents(self) -> np.ndarray:
        """(n,) int64: bytes of the tar from each record's line to the next one's, plus bytes of its media in an adopted
        tar. For a document that is its whole size. Forgetting a record does not change its bytes in our tar."""
        sizes = np.diff(self.ranges["line.at"], append=self.entry.bytes).clip(0)
        if self.entry.media_url is not None and self.media is not None:
            np.add.at(sizes, self._records, self.media.column("length").to_numpy())
        return sizes

    @lock_free_property
    def ranges(self) -> Mapping[str, np.ndarray]:
        """Offset, length and checksum of each record's line and arrays: `line.at`, `line.bytes`, `line.xxh3`, ..."""
        columns = index.range_columns(self._file("core"))
        self.held_bytes += sum(column.nbytes for column in columns.values())
        return columns

    def part_ranges(self, row: int) -> dict[str, Range]:
        """Return the byte ranges of `line` and of every array of the record in a row."""
        names = [name.removesuffix(".at") for name in self.ranges if name.endswith(".at")]
        return {name: (int(self.ranges[f"{name}.at"][row]), int(self.ranges[f"{name}.bytes"][row])) for name in names}

    def media_of(self, row: int) -> list[Media]:
        """Return the media of a record, located and without payload."""
        first, stop = np.searchsorted(self._records, [row, row + 1]).tolist()
        if first == stop or self.media is None:
            return []
        return [index.media_of(medium, self.digest) for medium in self.media.slice(first, stop - first).to_pylist()]

    def medium_at(self, location: Location) -> tuple[int, int | None, bytes | None]:
        """Return (row of the first record that shows the medium, its checksum if it has one, its SHA-256), or
        (0, None, None) if there is no such medium."""
        if self.media is None:
            return 0, None, None
        offsets, order = self._stored
        first, stop = (int(np.searchsorted(offsets, location.offset, side=side)) for side in ("left", "right"))
        for place in order[first:stop].tolist():
            medium = self.media.slice(place, 1).select(["length", "record", "xxh3", "digest"]).to_pylist()[0]
            if medium["length"] == location.length:
                return medium["record"], medium["xxh3"], medium["digest"]
        return 0, None, None

    @lock_free_property
    def _records(self) -> np.ndarray:
        """(M,) int64, ascending: row of the record of each medium."""
        return np.zeros(0, np.int64) if self.media is None else index.numbers(self.media.column("record"))

    @lock_free_property
    def _stored(self) -> tuple[np.ndarray, np.ndarray]:
        """Offsets of the media in this shard or in the tar that it adopted, ascending, and the row of the media table
        of each."""
        assert self.media is not None
        rows = np.flatnonzero(self.media.column("shard").is_null().to_numpy())
        offsets = index.numbers(self.media.column("offset"))[rows]
        order = np.argsort(offsets, kind="stable")
        return offsets[order], rows[order]

    def _file(self, name: str) -> bytes:
        if name not in self._files:
            self._files[name] = self._read(name)
            self.held_bytes += len(self._files[name])
        return self._files[name]

    def _kept(self, table: pa.Table) -> pa.Table:
        self.held_bytes += table.nbytes
        return table


class ShardReader:
    """Reads records, media and index tables of the shards of one store."""

    def __init__(self, files: Files, kind: str, name: str) -> None:
        self._files, self._kind, self._name = files, kind, name
        self._indexes: Cache[ShardIndex] = Cache(INDEX_BYTES, lambda shard: shard.held_bytes)
        self._outside: dict[str, Files] = {}
        """Filesystems of adopted tars, by the URL of their top folder."""

    def index(self, entry: ShardEntry) -> ShardIndex:
        """Return the index of a shard, from the cache if it is there."""

        def file(name: str) -> bytes:
            return read_whole(self._files, index.path(name, entry.files[name]), entry.files[name])

        return self._indexes.get(entry.shard, lambda: ShardIndex(entry, file))

    def table(self, name: str, digest: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a table, with those of `columns` that it has."""
        return index.from_parquet(read_whole(self._files, index.path(name, digest), digest), columns)

    def record(self, shard: ShardIndex, row: int) -> Any:
        """Return a record, its media located and without payload. Raises StoreError if a byte of it changed."""
        ranges = shard.part_ranges(row)
        parts = dict(zip(ranges, self._ranges(shard, list(ranges.values()), row), strict=True))
        if any(checksum(part) != int(shard.ranges[f"{name}.xxh3"][row]) for name, part in parts.items()):
            raise self.damaged(shard, row, "its bytes changed since they were written")
        line = json.loads(parts.pop("line"))
        return KINDS[self._kind].decode(line, parts, shard.media_of(row))

    def documents(self, shard: ShardIndex, rows: Sequence[int]) -> list[Document]:
        """Return documents with payload of the media in this shard or in the tar that it adopted. Lines and media are
        read together, as few ranges as possible.

        Raises:
            StoreError: a byte of one changed.
        """
        line_ranges = [shard.part_ranges(row)["line"] for row in rows]
        media = [shard.media_of(row) for row in rows]
        all_media = (medium for record_media in media for medium in record_media)
        media_ranges = list(dict.fromkeys(at for medium in all_media if (at := _range_in(shard.digest, medium))))
        if shard.entry.media_url is None:
            parts = self._ranges(shard, [*line_ranges, *media_ranges], rows[0])
            lines, payloads = parts[: len(rows)], parts[len(rows) :]
        else:
            lines = self._ranges(shard, line_ranges, rows[0])
            payloads = self._ranges(shard, media_ranges, rows[0], of_media=True) if media_ranges else []
        payload_at = dict(zip(media_ranges, payloads, strict=True))
        documents = []
        for row, line, located in zip(rows, lines, media, strict=True):
            if checksum(line) != int(shard.ranges["line.xxh3"][row]):
                raise self.damaged(shard, row, "its bytes changed since they were written")
            filled = [
                replace(medium, payload=payload_at[at]) if (at := _range_in(shard.digest, medium)) else medium
                for medium in located
            ]
            for medium in filled:
                if medium.payload is not None and sha256(medium.payload).hexdigest() != medium.digest:
                    raise self.damaged(shard, row, f"the bytes of medium {medium.digest[:16]} changed", of_media=True)
            documents.append(KINDS["documents"].decode(json.loads(line), {}, filled))
        return documents

    def arrays(self, shard: ShardIndex, name: str, first: int, into: np.ndarray) -> None:
        """Read array `name` of the records from row `first` on into the rows of `into`. Neighbors are read together.

        Raises:
            StoreError: a byte of one changed, or it has another length.
        """
        count, length = len(into), into[:1].nbytes
        # Lists, because a batch has few rows, and one operation of numpy costs as much as a loop over ten.
        at, sizes, checksums = (
            shard.ranges[f"{name}.{suffix}"][first : first + count].tolist() for suffix in ("at", "bytes", "xxh3")
        )
        if sizes.count(length) < count:
            other = next(row for row, size in enumerate(sizes) if size != length)
            raise self.damaged(shard, first + other, f"{name} has {sizes[other]} bytes, expected {length}")
        raw = into.view(np.uint8).reshape(-1).data
        breaks = [row for row in range(1, count) if at[row] - at[row - 1] != length]
        for start, stop in pairwise([0, *breaks, count]):
            read = self._into(shard, at[start], raw[start * length : stop * length], first + start)
            if read < (stop - start) * length:
                raise self.damaged(shard, first + start + read // length, "the shard ends early")
        for row, expected in enumerate(checksums):
            if checksum(raw[row * length : (row + 1) * length]) != expected:
                raise self.damaged(shard, first + row, f"its bytes changed since they were written ({name})")

    def outline(self, shard: ShardIndex, row: int) -> Any:
        """Return the record with empty arrays, from its line alone. Raises StoreError if a byte of that changed."""
        at, length = int(shard.ranges["line.at"][row]), int(shard.ranges["line.bytes"][row])
        (data,) = self._ranges(shard, [(at, length)], row)
        if checksum(data) != int(shard.ranges["line.xxh3"][row]):
            raise self.damaged(shard, row, "its bytes changed since they were written")
        return KINDS[self._kind].decode(json.loads(data), defaultdict(bytes), shard.media_of(row))

    def medium(self, shard: ShardIndex, location: Location) -> bytes:
        """Return the bytes of a medium. Raises StoreError if there is no medium at this location, or a byte changed."""
        row, xxh3, digest = shard.medium_at(location)
        if digest is None:
            raise self.damaged(shard, row, f"no medium of {location.length} bytes at {location.offset}", of_media=True)
        (data,) = self._ranges(shard, [(location.offset, location.length)], row, of_media=True)
        if sha256(data).digest() != digest if xxh3 is None else checksum(data) != xxh3:
            raise self.damaged(shard, row, f"the bytes of medium {digest.hex()[:16]} changed", of_media=True)
        return data

    def damaged(self, shard: ShardIndex, row: int, message: str, of_media: bool = False) -> StoreError:
        """Return the error for damage to a record or, `of_media`, to its media; these may be in an adopted tar."""
        if of_media and shard.entry.media_url is not None:
            where = f"{shard.entry.media_url}[{row}]"
            return StoreError(f"{message}; {self._name} adopted this tar and has no copy", where=where, fix=PUT_BACK)
        where = f"{self._name}/shards/{shard.digest}.tar[{row}]"
        return StoreError(message, where=where, fix="restore the shard from a copy, or run the node that made it again")

    def media_tar(self, entry: ShardEntry) -> tuple[Files, str]:
        """Return filesystem and path of the tar with the media of a shard: its own tar, or the one that it adopted."""
        if entry.media_url is None:
            return self._files, f"shards/{entry.tar}.tar"
        top, path = top_of(entry.media_url)
        if top not in self._outside:
            self._outside[top] = open_files(top).uncached()  # foreign files have no content names, and may change
        return self._outside[top], path

    def _into(self, shard: ShardIndex, offset: int, buffer: memoryview, row: int) -> int:
        try:
            return self._files.read_into(shard.path, offset, buffer)
        except FileNotFoundError:
            raise self.damaged(shard, row, "the shard is missing") from None

    def _ranges(self, shard: ShardIndex, ranges: Sequence[Range], row: int, of_media: bool = False) -> list[bytes]:
        """Read byte ranges of a shard or, `of_media`, of the tar with its media. Errors name `row`."""
        files, path = self.media_tar(shard.entry) if of_media else (self._files, shard.path)
        tar = "shard" if files is self._files else "tar"
        try:
            parts = files.read_ranges(path, ranges)
        except FileNotFoundError:
            raise self.damaged(shard, row, f"the {tar} is missing", of_media) from None
        for data, (offset, length) in zip(parts, ranges, strict=True):
            if len(data) != length:
                message = f"the {tar} ends early: {len(data)} of {length} bytes at {offset}"
                raise self.damaged(shard, row, message, of_media)
        return parts


def _range_in(shard: str, media: Media) -> Range | None:
    """Return the byte range of a medium in a shard; None if another shard holds it."""
    if media.location is None or media.location.shard != shard:
        return None
    return media.location.offset, media.location.length
