"""How the records of one shard lie in its tar: one tar sample per document, blocks of records for everything else.

`kinds.py` comes before, `shard.py` and `index.py` below. A header and padding cost about 770 bytes per tar member:
nothing beside a picture, more than most token records have. Those are joined to blocks of about a mebibyte, one line of
KEY.records.jsonl per record and its arrays end to end in KEY.NAME.npy. The index knows every record's ranges, so that
reading one never scans.

`datasets` reads a tar only where all samples have the same members and one type per JSON field; `signature` says which
records may share a shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from manifests.records import Json, Media, canonical_json
from stores import index
from stores.kinds import Encoded, Kind, to_line
from stores.shard import Lane, ShardFile

BLOCK_BYTES = 1 << 20
"""Keeps headers and padding well under 1% of a block, and a block small enough to read for one record."""

Range = tuple[int, int]
"""(offset in the shard, length) in bytes."""

Ranges = dict[str, Range]
"""Of `line` and of every array of one record."""


def signature(kind: Kind, encoded: Encoded) -> Hashable:
    """Equal for records that may share a shard."""
    if kind.IN_BLOCKS:
        fixed = kind.FIXED_ROWS
        return *encoded.arrays, *[(array.dtype, len(array) if fixed else 0) for array in encoded.arrays.values()]
    assert isinstance(encoded.line, dict)
    timed = any(media.frame_times_us for media in encoded.media)
    filled = tuple(bool(encoded.line[name]) for name in ("parts", "facts", "parents"))
    return (tuple(_member_names(encoded.media)), timed, filled)


def read_ranges(core: Mapping[str, np.ndarray], row: int) -> Ranges:
    """Where the bytes of the record in `row` lie; `core` are columns of the core table."""
    names = [name.removesuffix(".at") for name in core if name.endswith(".at")]
    return {name: (int(core[f"{name}.at"][row]), int(core[f"{name}.bytes"][row])) for name in names}


def checksum(part: bytes | memoryview) -> int:
    """XXH3, 64 bits: what the index remembers of a record's line or array, so that each can be read and checked alone.

    Finds flipped bytes at the speed of memory; cryptographic digests, three to seven times slower, name what must not
    be forged.
    """
    return xxhash.xxh3_64_intdigest(part)


class ShardBuilder:
    """A shard that grows record by record. Subclasses say how records lie in it."""

    def __init__(self, kind: Kind, path: Path, arrays: Sequence[str], lane: Lane) -> None:
        self.kind = kind
        self.file = ShardFile(path, lane)
        told = {"at": pa.int64(), "bytes": pa.int64(), "xxh3": pa.uint64()}
        self._places: dict[str, list[np.ndarray]] = {}
        """Columns of the core table that say where things lie, in pieces."""
        fields = [pa.field(f"{name}.{what}", kind) for name in ("line", *arrays) for what, kind in told.items()]
        self._place_schema = pa.schema(fields)
        self._facts: list[Mapping[str, Any]] = []
        self._media: list[dict[str, Any]] = []

    def add(self, encoded: Encoded) -> None:
        """Raises RecordError, and leaves the shard as it was, for a record that JSON can't hold."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Bytes so far, about."""
        return self.file.size

    def finish(self) -> tuple[str, dict[str, pa.Table]]:
        """Digest of the tar, and the tables of its index: `core`, and `media` where there are any."""
        digest = self.file.close()
        core = index.table_of(self._facts, self.kind.FACTS)
        for field in self._place_schema:
            core = core.append_column(field, pa.array(np.concatenate(self._places[field.name]), field.type))
        tables = {"core": core}
        if self._media:
            tables["media"] = index.table_of(self._media, index.MEDIA)
        return digest, tables

    def _enter(self, encoded: Encoded, here: Mapping[str, int]) -> None:
        """Enter a record into the index. `here`: offset of each medium stored in this shard, by digest."""
        for media, place in zip(encoded.media, encoded.places, strict=True):
            located: tuple[str | None, int, int]
            if media.payload is not None:
                located = (None, here[media.digest], len(media.payload))
            else:
                located = _elsewhere(media)
            self._media.append(index.media_row(len(self._facts), media, place, located))
        self._facts.append(encoded.facts)

    def _lie(self, name: str, at: int, parts: Sequence[bytes | memoryview]) -> None:
        """Enter where one part each of some records lies: end to end from offset `at` on."""
        sizes = np.array([len(part) for part in parts], np.int64)
        columns = {
            "at": at + np.cumsum(sizes) - sizes,
            "bytes": sizes,
            "xxh3": np.array(list(map(checksum, parts)), np.uint64),
        }
        for what, column in columns.items():
            self._places.setdefault(f"{name}.{what}", []).append(column)


class Singles(ShardBuilder):
    """One tar sample per record: KEY.json, then its media as KEY.0.jpg, KEY.1.jpg, KEY.0.png ..., numbered by format.

    A medium that a document holds twice is one member.
    """

    def add(self, encoded: Encoded) -> None:
        assert isinstance(encoded.line, dict)
        names = _member_names(encoded.media)
        for told, media, name in zip(encoded.line["media"], encoded.media, names, strict=True):
            told |= {"member": name} if name else _told(_elsewhere(media))
        line = to_line(encoded.line)
        key = encoded.line["id"]
        at = self.file.add(f"{key}.json", line)
        here: dict[str, int] = {}
        for media, name in zip(encoded.media, names, strict=True):
            if media.payload is not None and media.digest not in here:
                here[media.digest] = self.file.add(f"{key}.{name}", media.payload)
        self._lie("line", at, [line])
        self._enter(encoded, here)


class Blocks(ShardBuilder):
    """Tar samples of many records. `keys` gives the next block's key."""

    def __init__(self, kind: Kind, path: Path, arrays: Sequence[str], lane: Lane, keys: Iterator[str]) -> None:
        super().__init__(kind, path, arrays, lane)
        self._keys = keys
        self._names = list(arrays)
        self._begin()

    def _begin(self) -> None:
        self._records: list[Encoded] = []
        self._lines: list[bytes] = []
        self._pool = bytearray()
        self._pooled: dict[str, int] = {}
        """Where in the pool each medium begins, by digest."""
        self._pending = 0

    def add(self, encoded: Encoded) -> None:
        line = to_line(encoded.line) + b"\n" if isinstance(encoded.line, str) else self._pooling(encoded, encoded.line)
        self._records.append(encoded)
        self._lines.append(line)
        self._pending += len(line) + sum([array.nbytes for array in encoded.arrays.values()])
        if self._pending >= BLOCK_BYTES:
            self._flush()

    def _pooling(self, encoded: Encoded, line: dict[str, Json]) -> bytes:
        """The record's line, once it says where its media lie; those that are new go into the pool."""
        fresh: dict[str, bytes] = {}
        starts: dict[str, int] = {}
        end = len(self._pool)
        for told, media in zip(line["media"], encoded.media, strict=True):
            if media.payload is None:
                told |= _told(_elsewhere(media))
                continue
            if media.digest not in self._pooled and media.digest not in fresh:
                fresh[media.digest], starts[media.digest] = media.payload, end
                end += len(media.payload)
            start = self._pooled.get(media.digest, starts.get(media.digest))
            told |= {"start": start, "bytes": len(media.payload)}
        written = to_line(line) + b"\n"
        for payload in fresh.values():
            self._pool += payload
            self._pending += len(payload)
        self._pooled |= starts
        return written

    @property
    def size(self) -> int:
        return self.file.size + self._pending

    def finish(self) -> tuple[str, dict[str, pa.Table]]:
        self._flush()
        return super().finish()

    def _flush(self) -> None:
        if not self._records:
            return
        key = next(self._keys)
        head: Json = {"records": len(self._records)}
        self.file.add(f"{key}.json", canonical_json(head).encode())
        self._lie("line", self.file.add(f"{key}.records.jsonl", b"".join(self._lines)), self._lines)
        for name in self._names:
            self._add_array(key, name, [encoded.arrays[name] for encoded in self._records])
        here: dict[str, int] = {}
        if self.kind.POOLS_MEDIA:
            pool_at = self.file.add(f"{key}.media.bin", self._pool)
            here = {digest: pool_at + start for digest, start in self._pooled.items()}
        for encoded in self._records:
            self._enter(encoded, here)
        self._begin()

    def _add_array(self, key: str, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Add the arrays as one npy member."""
        shape = (len(arrays), len(arrays[0])) if self.kind.FIXED_ROWS else (sum([len(array) for array in arrays]),)
        head = npy_header(arrays[0].dtype, shape)
        parts = [array.view(np.uint8).data for array in arrays]
        self._lie(name, self.file.add(f"{key}.{name}.npy", head, *parts) + len(head), parts)


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What stands before the numbers in a .npy file (format 1.0), a multiple of 64 bytes.

    Written here because shards must not change with the installed numpy.
    """
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii")


def _member_names(media: Sequence[Media]) -> list[str]:
    """Tar endings of media that come with payload, "" for the others; equal media share one."""
    names: dict[str, str] = {}
    used: Counter[str] = Counter()
    for one in media:
        if one.payload is not None and one.digest not in names:
            names[one.digest] = f"{used[one.format]}.{one.format}"
            used[one.format] += 1
    return [names[one.digest] if one.payload is not None else "" for one in media]


def _elsewhere(media: Media) -> tuple[str, int, int]:
    if media.location is None:
        raise ValueError(f"{media.kind} {media.digest} has neither payload nor location")
    return (media.location.shard, media.location.offset, media.location.length)


def _told(location: tuple[str, int, int]) -> dict[str, Json]:
    shard, offset, length = location
    return {"shard": shard, "offset": offset, "bytes": length}
