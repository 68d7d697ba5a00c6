"""Layout of the records of a shard in its tar: one tar sample per document, blocks of records for every other kind.

Takes records encoded by `kinds.py`; writes the tar with `tar.py` and makes the tables of `index.py`. Header and padding
cost about 770 bytes per tar member, which is nothing next to an image and more than most token records have. Blocks
therefore join records to about 1 MiB: KEY.records.jsonl has one line per record, KEY.NAME.npy one array of all records
end to end. The index holds the byte ranges of every record, so that no reader scans a tar.

The library `datasets` reads a tar only if all its samples have the same members and one type per JSON field;
`signature` decides which records may share a shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.records import Json, Media, canonical_json
from stores.shards import index
from stores.shards.index import checksum
from stores.shards.kinds import Encoded, RecordKind, to_line
from stores.shards.tar import Lane, ShardFile

ADOPTED = ""
"""Value of `Location.shard` for a medium that stays in the tar that its unit adopts (`UnitWriter.adopt`)."""

BLOCK_BYTES = 1 << 20
"""Size at which a block is written: headers and padding are well under 1 % of it."""

JOINED_BYTES = 2 * BLOCK_BYTES
"""Limit up to which the arrays of a block are copied end to end before they are written. Many small writes cost more
than the copies."""

StoredMedium = tuple[int, int]
"""(offset, checksum) of a medium in the shard or block."""


def in_adopted_tar(media: Media) -> bool:
    """Whether the bytes of a medium stay in the tar that its unit adopts."""
    return media.payload is None and media.location is not None and media.location.shard == ADOPTED


def signature(kind: RecordKind, encoded: Encoded) -> Hashable:
    """Return a key that is equal for records that may share a shard; None if all records of the kind may.

    Raises:
        ValueError: the record has media in an adopted tar and others with payload.
    """
    if kind.ARRAYS is not None:
        return None
    if kind.IN_BLOCKS:
        fixed = kind.FIXED_ROWS
        return *encoded.arrays, *[(array.dtype, len(array) if fixed else 0) for array in encoded.arrays.values()]
    timed = any(media.frame_times_us for media in encoded.media)
    filled = tuple(bool(encoded.line[name]) for name in ("parts", "facts", "parents"))
    members = tuple(_member_names(encoded.media))
    if any(map(in_adopted_tar, encoded.media)):
        if any(members):
            raise ValueError(f"record {encoded.line['id']} has media in an adopted tar and others with payload")
        members = ("adopted",)
    return (members, timed, filled)


class ShardBuilder:
    """A shard that grows record by record. Subclasses define the layout."""

    def __init__(self, kind: RecordKind, path: Path, arrays: Sequence[str], lane: Lane) -> None:
        self.kind = kind
        self.file = ShardFile(path, lane)
        suffixes = {"at": pa.int64(), "bytes": pa.int64(), "xxh3": pa.uint64()}
        fields = [pa.field(f"{name}.{suffix}", type) for name in ("line", *arrays) for suffix, type in suffixes.items()]
        self._range_schema = pa.schema(fields)
        self._ranges: dict[str, list[np.ndarray]] = {field.name: [] for field in fields}
        """Byte range columns of the core table, in pieces."""
        self.records = 0
        self._facts: list[list[Any]] = [[] for _ in kind.FACTS]
        """Fact columns of the core table."""
        self._media: list[dict[str, Any]] = []

    def add(self, encoded: Encoded) -> None:
        """Add a record. Raises RecordError, and leaves the shard as it was, for a record that JSON can't hold."""
        raise NotImplementedError

    def add_to_batch(self, record: Any, size: int) -> None:
        """Add a record for the kind's `encode_batch`, of about `size` bytes."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Approximate number of bytes so far."""
        return self.file.size

    def finish(self) -> tuple[str, dict[str, pa.Table]]:
        """Close the shard. Returns the digest of its tar, and the tables `core` and, if there are media, `media`."""
        digest = self.file.close()
        core = index.table_of_columns(self._facts, self.kind.FACTS)
        for field in self._range_schema:
            core = core.append_column(field, pa.array(np.concatenate(self._ranges[field.name]), field.type))
        tables = {"core": core}
        if self._media:
            tables["media"] = index.table_of(self._media, index.MEDIA)
        return digest, tables

    def _index(self, records: Sequence[Encoded], stored: Mapping[str, StoredMedium]) -> None:
        """Add rows for these records to the tables. `stored`: media in this shard, by digest."""
        self._index_facts(list(zip(*[encoded.facts for encoded in records], strict=True)))
        for number, encoded in enumerate(records, self.records):
            if encoded.media:
                self._index_media(number, encoded, stored)
        self.records += len(records)

    def _index_facts(self, columns: Sequence[Sequence[Any]]) -> None:
        for column, values in zip(self._facts, columns, strict=True):
            column += values

    def _index_media(self, record: int, encoded: Encoded, stored: Mapping[str, StoredMedium]) -> None:
        for media, place in zip(encoded.media, encoded.places, strict=True):
            if media.payload is not None:
                offset, xxh3 = stored[media.digest]
                self._media.append(index.media_row(record, media, place, (None, offset, len(media.payload)), xxh3))
            else:
                self._media.append(index.media_row(record, media, place, _location(media), None))

    def _index_ranges(
        self, name: str, offsets: np.ndarray | Sequence[int], sizes: Sequence[int], checksums: Sequence[int]
    ) -> None:
        """Add the byte ranges and checksums of the part `name` of successive records."""
        self._ranges[f"{name}.at"].append(np.array(offsets, np.int64))
        self._ranges[f"{name}.bytes"].append(np.array(sizes, np.int64))
        self._ranges[f"{name}.xxh3"].append(np.array(checksums, np.uint64))


class SingleRecordBuilder(ShardBuilder):
    """A shard with one tar sample per record: KEY.json, then its media as KEY.0.jpg, KEY.1.jpg, KEY.0.png ..., numbered
    by format.

    A medium that a document shows twice is one member.
    """

    def __init__(self, kind: RecordKind, path: Path, arrays: Sequence[str], lane: Lane) -> None:
        super().__init__(kind, path, arrays, lane)
        self._lines: list[tuple[int, int, int]] = []
        """(offset, size, checksum) of each."""

    def add(self, encoded: Encoded) -> None:
        names = _member_names(encoded.media)
        for entry, media, name in zip(encoded.line["media"], encoded.media, names, strict=True):
            entry |= {"member": name} if name else _location_line(media)
        line = to_line(encoded.line)
        key = encoded.line["id"]
        self._lines.append((self.file.add(f"{key}.json", line), len(line), checksum(line)))
        stored: dict[str, StoredMedium] = {}
        for media, name in zip(encoded.media, names, strict=True):
            if media.payload is not None and media.digest not in stored:
                stored[media.digest] = self.file.add(f"{key}.{name}", media.payload), checksum(media.payload)
        self._index([encoded], stored)

    def finish(self) -> tuple[str, dict[str, pa.Table]]:
        self._index_ranges("line", *zip(*self._lines, strict=True))
        return super().finish()


class BlockBuilder(ShardBuilder):
    """A shard with tar samples of many records. `keys` yields the key of the next block."""

    def __init__(self, kind: RecordKind, path: Path, arrays: Sequence[str], lane: Lane, keys: Iterator[str]) -> None:
        super().__init__(kind, path, arrays, lane)
        self._keys = keys
        self._names = list(arrays)
        self._joined = np.empty(0, np.uint8)
        """Buffer for arrays end to end, reused."""
        self._begin()

    def _begin(self) -> None:
        self._batch: list[Any] = []
        """Records for `encode_batch`; empty if the block has records of `add`."""
        self._records: list[Encoded] = []
        self._lines: list[bytes] = []
        self._pool: list[bytes] = []
        """Media of the block."""
        self._pool_bytes = 0
        self._pooled: dict[str, StoredMedium] = {}
        """Media of the pool, by digest; offsets in the pool."""
        self._pending = 0
        """Approximate number of bytes of the block."""

    def add_to_batch(self, record: Any, size: int) -> None:
        if self._records:
            self.add(self.kind.encode(record))
            return
        self._batch.append(record)
        self._pending += size
        if self._pending >= BLOCK_BYTES:
            self._flush()

    def add(self, encoded: Encoded) -> None:
        line = self._pool_media(encoded)
        batch, self._batch = self._batch, []
        if batch:
            self._pending = 0
        for earlier in map(self.kind.encode, batch):
            self._append(earlier, self._pool_media(earlier))
        self._append(encoded, line)
        if self._pending >= BLOCK_BYTES:
            self._flush()

    def _append(self, encoded: Encoded, line: bytes) -> None:
        self._records.append(encoded)
        self._lines.append(line)
        self._pending += len(line) + sum([array.nbytes for array in encoded.arrays.values()])

    def _pool_media(self, encoded: Encoded) -> bytes:
        """Add the record's media to the pool, each once, and return its line with their locations."""
        added: dict[str, tuple[int, bytes]] = {}
        end = self._pool_bytes
        for entry, media in zip(encoded.line["media"], encoded.media, strict=True):
            if media.payload is None:
                entry |= _location_line(media)
                continue
            if media.digest not in self._pooled and media.digest not in added:
                added[media.digest] = end, media.payload
                end += len(media.payload)
            start, _ = self._pooled.get(media.digest) or added[media.digest]
            entry |= {"start": start, "bytes": len(media.payload)}
        line = to_line(encoded.line) + b"\n"
        for digest, (start, payload) in added.items():
            self._pool.append(payload)
            self._pooled[digest] = start, checksum(payload)
        self._pending += end - self._pool_bytes
        self._pool_bytes = end
        return line

    @property
    def size(self) -> int:
        return self.file.size + self._pending

    def finish(self) -> tuple[str, dict[str, pa.Table]]:
        self._flush()
        return super().finish()

    def _flush(self) -> None:
        if self._batch:
            batch = self.kind.encode_batch(self._batch)
            self._write(batch.lines, batch.arrays)
            self._index_facts(batch.facts)
            self.records += len(batch.lines)
        elif self._records:
            arrays = {name: [encoded.arrays[name] for encoded in self._records] for name in self._names}
            pool = self._write(self._lines, arrays)
            stored = {digest: (pool + start, xxh3) for digest, (start, xxh3) in self._pooled.items()}
            self._index(self._records, stored)
        self._begin()

    def _write(self, lines: Sequence[bytes], arrays: Mapping[str, Sequence[np.ndarray]]) -> int:
        """Write a block. Returns the offset of its media pool."""
        key = next(self._keys)
        head: Json = {"records": len(lines)}
        self.file.add(f"{key}.json", canonical_json(head).encode())
        offset = self.file.add(f"{key}.records.jsonl", b"".join(lines))
        self._index_joined("line", offset, lines, list(map(len, lines)))
        for name in self._names:
            self._add_array(key, name, arrays[name])
        return self.file.add(f"{key}.media.bin", *self._pool) if self.kind.POOLS_MEDIA else 0

    def _add_array(self, key: str, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Add the arrays of all records of the block as one npy member."""
        shape = (len(arrays), len(arrays[0])) if self.kind.FIXED_ROWS else (sum(map(len, arrays)),)
        head = npy_header(arrays[0].dtype, shape)
        sizes = [array.nbytes for array in arrays]
        offset = self.file.add(f"{key}.{name}.npy", head, *self._end_to_end(arrays, sum(sizes))) + len(head)
        self._index_joined(name, offset, arrays, sizes)

    def _end_to_end(self, arrays: Sequence[np.ndarray], size: int) -> Iterator[memoryview]:
        """Yield the bytes of the arrays in few pieces, valid until the next call."""
        if len(arrays) == 1 or size > JOINED_BYTES:
            yield from (array.view(np.uint8).data for array in arrays)
            return
        if size > len(self._joined):
            self._joined = np.empty(JOINED_BYTES, np.uint8)
        joined = self._joined[:size]
        np.concatenate(arrays, out=joined.view(arrays[0].dtype))
        yield joined.data

    def _index_joined(self, name: str, offset: int, parts: Sequence[Any], sizes: Sequence[int]) -> None:
        """Add the byte ranges of parts (bytes or arrays) that lie end to end from `offset` on."""
        self._index_ranges(name, offset + np.cumsum(sizes) - sizes, sizes, list(map(checksum, parts)))


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Return the header of a .npy file (format 1.0), a multiple of 64 bytes.

    Source: the format description of numpy. Numpy's own writer is not used, because the bytes of a shard must not
        depend on the installed version.
    """
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii")


def _member_names(media: Sequence[Media]) -> list[str]:
    """Return the tar endings of media with payload, "" for the others; equal media share one."""
    names: dict[str, str] = {}
    used: Counter[str] = Counter()
    for medium in media:
        if medium.payload is not None and medium.digest not in names:
            names[medium.digest] = f"{used[medium.format]}.{medium.format}"
            used[medium.format] += 1
    return [names[medium.digest] if medium.payload is not None else "" for medium in media]


def _location(media: Media) -> tuple[str, int, int]:
    """Return (shard, offset, length) of a medium whose bytes are stored already."""
    if media.location is None:
        raise ValueError(f"{media.kind} {media.digest} has neither payload nor location")
    return (media.location.shard, media.location.offset, media.location.length)


def _location_line(media: Media) -> dict[str, Json]:
    shard, offset, length = _location(media)
    return {"shard": shard, "offset": offset, "bytes": length}
