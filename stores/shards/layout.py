"""How the records of one shard lie in its tar: one tar sample per document, blocks of records for everything else.

`shards/kinds.py` comes before, `shards/tar.py` and `shards/index.py` below. A header and padding cost about 770 bytes
per tar member: nothing beside a picture, more than most token records have. Those are joined to blocks of about a
mebibyte, one line of KEY.records.jsonl per record and its arrays end to end in KEY.NAME.npy. The index knows every
record's ranges, so that reading one never scans.

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
from stores.shards import index
from stores.shards.kinds import Encoded, Kind, to_line
from stores.shards.tar import Lane, ShardFile

ADOPTED = ""
"""Shard in the `Location` of a medium that stays in the tar that its unit adopts (`UnitWriter.adopt`)."""

BLOCK_BYTES = 1 << 20
"""Keeps headers and padding well under 1% of a block, and a block small enough to read for one record."""

JOINED_BYTES = 2 * BLOCK_BYTES
"""Up to here, arrays of a block are put end to end before they are written: many small pieces cost more than copies."""

Range = tuple[int, int]
"""(offset in the shard, length) in bytes."""

Stored = tuple[int, int]
"""(offset, checksum) of a medium."""

Ranges = dict[str, Range]
"""Of `line` and of every array of one record."""


def in_adopted_tar(media: Media) -> bool:
    """Whether the bytes of a medium stay in the tar that its unit adopts."""
    return media.payload is None and media.location is not None and media.location.shard == ADOPTED


def signature(kind: Kind, encoded: Encoded) -> Hashable:
    """Key that is equal for records that may share a shard; None where all records of the kind may.

    Raises ValueError for a record that has some of its media in an adopted tar and brings others along.
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


def read_ranges(core: Mapping[str, np.ndarray], row: int) -> Ranges:
    """Where the bytes of the record in `row` lie; `core` are columns of the core table."""
    names = [name.removesuffix(".at") for name in core if name.endswith(".at")]
    return {name: (int(core[f"{name}.at"][row]), int(core[f"{name}.bytes"][row])) for name in names}


checksum = xxhash.xxh3_64_intdigest
"""XXH3, 64 bits: what the index remembers of a record's line, array or medium, so that each can be read and checked
alone. Finds flipped bytes at the speed of memory; cryptographic digests, three to seven times slower, name what must
not be forged."""


class ShardBuilder:
    """A shard that grows record by record. Subclasses say how records lie in it."""

    def __init__(self, kind: Kind, path: Path, arrays: Sequence[str], lane: Lane) -> None:
        self.kind = kind
        self.file = ShardFile(path, lane)
        told = {"at": pa.int64(), "bytes": pa.int64(), "xxh3": pa.uint64()}
        fields = [pa.field(f"{name}.{what}", kind) for name in ("line", *arrays) for what, kind in told.items()]
        self._place_schema = pa.schema(fields)
        self._places: dict[str, list[np.ndarray]] = {field.name: [] for field in fields}
        """Columns of the core table that say where things lie, in pieces."""
        self.records = 0
        self._facts: list[list[Any]] = [[] for _ in kind.FACTS]
        """Columns of the core table that say something about the record."""
        self._media: list[dict[str, Any]] = []

    def add(self, encoded: Encoded) -> None:
        """Raises RecordError, and leaves the shard as it was, for a record that JSON can't hold."""
        raise NotImplementedError

    def add_plain(self, record: Any, size: int) -> None:
        """A record for the kind's `encode_plain`, of about so many bytes."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Bytes so far, about."""
        return self.file.size

    def finish(self) -> tuple[str, dict[str, pa.Table]]:
        """Digest of the tar, and the tables of its index: `core`, and `media` where there are any."""
        digest = self.file.close()
        core = index.table_of_columns(self._facts, self.kind.FACTS)
        for field in self._place_schema:
            core = core.append_column(field, pa.array(np.concatenate(self._places[field.name]), field.type))
        tables = {"core": core}
        if self._media:
            tables["media"] = index.table_of(self._media, index.MEDIA)
        return digest, tables

    def _enter(self, records: Sequence[Encoded], here: Mapping[str, Stored]) -> None:
        """Enter records into the index. `here`: media stored in this shard, by digest."""
        self._enter_facts(list(zip(*[one.facts for one in records], strict=True)))
        for number, encoded in enumerate(records, self.records):
            if encoded.media:
                self._enter_media(number, encoded, here)
        self.records += len(records)

    def _enter_facts(self, columns: Sequence[Sequence[Any]]) -> None:
        for column, values in zip(self._facts, columns, strict=True):
            column += values

    def _enter_media(self, record: int, encoded: Encoded, here: Mapping[str, Stored]) -> None:
        for media, place in zip(encoded.media, encoded.places, strict=True):
            if media.payload is not None:
                at, xxh3 = here[media.digest]
                self._media.append(index.media_row(record, media, place, (None, at, len(media.payload)), xxh3))
            else:
                self._media.append(index.media_row(record, media, place, _elsewhere(media), None))

    def _lie(self, name: str, at: np.ndarray | Sequence[int], sizes: Sequence[int], sums: Sequence[int]) -> None:
        """Enter where one part each of some records lies, and what it hashes to."""
        self._places[f"{name}.at"].append(np.array(at, np.int64))
        self._places[f"{name}.bytes"].append(np.array(sizes, np.int64))
        self._places[f"{name}.xxh3"].append(np.array(sums, np.uint64))


class Singles(ShardBuilder):
    """One tar sample per record: KEY.json, then its media as KEY.0.jpg, KEY.1.jpg, KEY.0.png ..., numbered by format.

    A medium that a document holds twice is one member.
    """

    def __init__(self, kind: Kind, path: Path, arrays: Sequence[str], lane: Lane) -> None:
        super().__init__(kind, path, arrays, lane)
        self._lines: list[tuple[int, int, int]] = []
        """Where each lies, its size and checksum."""

    def add(self, encoded: Encoded) -> None:
        names = _member_names(encoded.media)
        for told, media, name in zip(encoded.line["media"], encoded.media, names, strict=True):
            told |= {"member": name} if name else _told(_elsewhere(media))
        line = to_line(encoded.line)
        key = encoded.line["id"]
        self._lines.append((self.file.add(f"{key}.json", line), len(line), checksum(line)))
        here: dict[str, Stored] = {}
        for media, name in zip(encoded.media, names, strict=True):
            if media.payload is not None and media.digest not in here:
                here[media.digest] = self.file.add(f"{key}.{name}", media.payload), checksum(media.payload)
        self._enter([encoded], here)

    def finish(self) -> tuple[str, dict[str, pa.Table]]:
        self._lie("line", *zip(*self._lines, strict=True))
        return super().finish()


class Blocks(ShardBuilder):
    """Tar samples of many records. `keys` gives the next block's key."""

    def __init__(self, kind: Kind, path: Path, arrays: Sequence[str], lane: Lane, keys: Iterator[str]) -> None:
        super().__init__(kind, path, arrays, lane)
        self._keys = keys
        self._names = list(arrays)
        self._joined = np.empty(0, np.uint8)
        """Memory to put arrays end to end in, used again."""
        self._begin()

    def _begin(self) -> None:
        self._plain: list[Any] = []
        """Records that wait to be encoded in one go; not beside others in one block."""
        self._records: list[Encoded] = []
        self._lines: list[bytes] = []
        self._pool: list[bytes] = []
        self._pool_bytes = 0
        self._pooled: dict[str, Stored] = {}
        """Where in the pool each medium begins, and its checksum, by digest."""
        self._pending = 0

    def add_plain(self, record: Any, size: int) -> None:
        if self._records:
            self.add(self.kind.encode(record))
            return
        self._plain.append(record)
        self._pending += size
        if self._pending >= BLOCK_BYTES:
            self._flush()

    def add(self, encoded: Encoded) -> None:
        line = self._pooling(encoded)
        plain, self._plain = self._plain, []
        if plain:
            self._pending = 0
        for one in map(self.kind.encode, plain):
            self._append(one, self._pooling(one))
        self._append(encoded, line)
        if self._pending >= BLOCK_BYTES:
            self._flush()

    def _append(self, encoded: Encoded, line: bytes) -> None:
        self._records.append(encoded)
        self._lines.append(line)
        self._pending += len(line) + sum([array.nbytes for array in encoded.arrays.values()])

    def _pooling(self, encoded: Encoded) -> bytes:
        """The record's line, once it says where its media lie; those that are new go into the pool."""
        fresh: dict[str, tuple[int, bytes]] = {}
        end = self._pool_bytes
        for told, media in zip(encoded.line["media"], encoded.media, strict=True):
            if media.payload is None:
                told |= _told(_elsewhere(media))
                continue
            if media.digest not in self._pooled and media.digest not in fresh:
                fresh[media.digest] = end, media.payload
                end += len(media.payload)
            start, _ = self._pooled.get(media.digest) or fresh[media.digest]
            told |= {"start": start, "bytes": len(media.payload)}
        written = to_line(encoded.line) + b"\n"
        for digest, (start, payload) in fresh.items():
            self._pool.append(payload)
            self._pooled[digest] = start, checksum(payload)
        self._pending += end - self._pool_bytes
        self._pool_bytes = end
        return written

    @property
    def size(self) -> int:
        return self.file.size + self._pending

    def finish(self) -> tuple[str, dict[str, pa.Table]]:
        self._flush()
        return super().finish()

    def _flush(self) -> None:
        if self._plain:
            plain = self.kind.encode_plain(self._plain)
            self._write(plain.lines, plain.arrays)
            self._enter_facts(plain.facts)
            self.records += len(plain.lines)
        elif self._records:
            at = self._write(self._lines, {name: [one.arrays[name] for one in self._records] for name in self._names})
            self._enter(self._records, {digest: (at + start, xxh3) for digest, (start, xxh3) in self._pooled.items()})
        self._begin()

    def _write(self, lines: Sequence[bytes], arrays: Mapping[str, Sequence[np.ndarray]]) -> int:
        """A block, and where its pool of media begins."""
        key = next(self._keys)
        head: Json = {"records": len(lines)}
        self.file.add(f"{key}.json", canonical_json(head).encode())
        at = self.file.add(f"{key}.records.jsonl", b"".join(lines))
        self._lie_joined("line", at, lines, list(map(len, lines)))
        for name in self._names:
            self._add_array(key, name, arrays[name])
        return self.file.add(f"{key}.media.bin", *self._pool) if self.kind.POOLS_MEDIA else 0

    def _add_array(self, key: str, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Add the arrays as one npy member."""
        shape = (len(arrays), len(arrays[0])) if self.kind.FIXED_ROWS else (sum(map(len, arrays)),)
        head = npy_header(arrays[0].dtype, shape)
        sizes = [array.nbytes for array in arrays]
        at = self.file.add(f"{key}.{name}.npy", head, *self._end_to_end(arrays, sum(sizes))) + len(head)
        self._lie_joined(name, at, arrays, sizes)

    def _end_to_end(self, arrays: Sequence[np.ndarray], size: int) -> Iterator[memoryview]:
        """Their bytes in few pieces, until the next call."""
        if len(arrays) == 1 or size > JOINED_BYTES:
            yield from (array.view(np.uint8).data for array in arrays)
            return
        if size > len(self._joined):
            self._joined = np.empty(JOINED_BYTES, np.uint8)
        joined = self._joined[:size]
        np.concatenate(arrays, out=joined.view(arrays[0].dtype))
        yield joined.data

    def _lie_joined(self, name: str, at: int, parts: Sequence[Any], sizes: Sequence[int]) -> None:
        """Enter parts, bytes or arrays, that lie end to end from offset `at` on."""
        self._lie(name, at + np.cumsum(sizes) - sizes, sizes, list(map(checksum, parts)))


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
