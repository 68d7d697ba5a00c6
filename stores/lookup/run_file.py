"""Run of the lookup index: one immutable file of (name hash, shard, row), sorted by hash, for some shards.

    entries   (hash, shard, row), ascending by hash; the first bits of a hash are its bucket, of about 100 entries
    fences    start and checksum of each bucket
    covers    the shards whose records are in the run, and the digests of their index tables

`upkeep/lookup.py` writes and merges runs, `find.py` reads them: the level of a log-structured merge tree. Hashes spread
evenly, so a name costs one read of its fence and one of its bucket, some kilobytes for a run of any size. Runs are
merged range by range, in memory that does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Protocol

import numpy as np

from manifests.errors import StoreError
from stores.files.protocol import Files
from stores.shards.index import checksum

ENTRY = np.dtype([("hash", "<u8"), ("shard", "<u8"), ("row", "<u4")])
"""`shard` is the first 8 bytes of the shard's digest, as in the directory of a snapshot."""
FENCE = np.dtype([("start", "<u8"), ("xxh3", "<u8")])
COVER = np.dtype([("shard", "<u8"), ("tables", "<u8")])
"""`tables` is the first 8 bytes of the logical digest of the shard's index, which changes when a record is
forgotten."""

BUCKET = 128
"""Limit on the mean number of entries of a bucket."""
PIECE = 1 << 20
"""Approximate number of entries that are merged at a time."""
FENCES_AT_HAND = 1 << 16
"""Size in bytes up to which all fences of a run are read once and kept."""
HASHES = 1 << 64
"""Number of hash values."""


@dataclass(frozen=True, slots=True)
class RunEntry:
    """Entry of a run in the manifest of a lookup index, enough to read any part of the run."""

    digest: str
    """SHA-256 of the file."""
    entries: int
    bits: int
    """Logarithm of the number of buckets, base 2."""
    shards: int
    """Number of shards that the run covers."""


class EntrySource(Protocol):
    """Lookup entries of some shards, in memory or in a run."""

    @property
    def covers(self) -> np.ndarray:
        """(S,) COVER, one for each shard."""

    def __len__(self) -> int: ...

    def between(self, first: int, stop: int) -> np.ndarray:
        """Return the entries, (n,) ENTRY, with hashes from `first` up to `stop`, ascending."""


class NewEntries:
    """Lookup entries in memory, from the indexes of new shards."""

    def __init__(self, entries: np.ndarray, covers: np.ndarray) -> None:
        self.entries, self.covers = entries[np.argsort(entries["hash"], kind="stable")], covers

    def __len__(self) -> int:
        return len(self.entries)

    def between(self, first: int, stop: int) -> np.ndarray:
        return _between(self.entries, first, stop)


class RunFile:
    """A run in a store. All reads are compared with checksums; StoreError for bytes that differ."""

    def __init__(self, files: Files, entry: RunEntry) -> None:
        self._files, self.entry = files, entry
        self._fences_at = entry.entries * ENTRY.itemsize
        self._covers_at = self._fences_at + ((1 << entry.bits) + 1) * FENCE.itemsize
        self._fences: np.ndarray | None = None

    def __len__(self) -> int:
        return self.entry.entries

    @property
    def covers(self) -> np.ndarray:
        return np.frombuffer(self._read(self._covers_at, self.entry.shards * COVER.itemsize), COVER)

    def find(self, hash_value: int) -> np.ndarray:
        """Return the entries, (n,) ENTRY, with that hash."""
        bucket = hash_value >> (64 - self.entry.bits)
        start, stop = self._bucket_fences(bucket, bucket + 1)
        data = self._entries(int(start["start"]), int(stop["start"]))
        self._compare(data, int(start["xxh3"]))
        return _between(np.frombuffer(data, ENTRY), hash_value, hash_value + 1)

    def between(self, first: int, stop: int) -> np.ndarray:
        shift = 64 - self.entry.bits
        buckets = range(first >> shift, -(-stop >> shift))
        fences = self._bucket_fences(buckets.start, buckets.stop)
        begin = int(fences["start"][0])
        data = self._entries(begin, int(fences["start"][-1]))
        for number in range(len(buckets)):
            low, high = ((int(fences["start"][number + side]) - begin) * ENTRY.itemsize for side in (0, 1))
            self._compare(data[low:high], int(fences["xxh3"][number]))
        return _between(np.frombuffer(data, ENTRY), first, stop)

    def _bucket_fences(self, first: int, last: int) -> np.ndarray:
        """Return the fences of buckets `first` to `last`, both included; one more fence marks the end of the
        entries."""
        size = self._covers_at - self._fences_at
        if size > FENCES_AT_HAND:
            at = self._fences_at + first * FENCE.itemsize
            return np.frombuffer(self._read(at, (last + 1 - first) * FENCE.itemsize), FENCE)
        if self._fences is None:
            self._fences = np.frombuffer(self._read(self._fences_at, size), FENCE)
        return self._fences[first : last + 1]

    def _entries(self, start: int, stop: int) -> memoryview:
        if not 0 <= start <= stop <= self.entry.entries:
            raise self._damaged()
        return memoryview(self._read(start * ENTRY.itemsize, (stop - start) * ENTRY.itemsize))

    def _read(self, offset: int, length: int) -> bytes:
        try:
            data = self._files.read_range(run_path(self.entry.digest), offset, length) if length else b""
        except FileNotFoundError:
            raise self._damaged() from None
        if len(data) != length:
            raise self._damaged()
        return data

    def _compare(self, data: memoryview, expected: int) -> None:
        if checksum(data) != expected:
            raise self._damaged()

    def _damaged(self) -> StoreError:
        where = f"{self._files.url}/{run_path(self.entry.digest)}"
        return StoreError("a run of the lookup index is damaged", where=where, fix="run `millrace store repair`")


def run_path(digest: str) -> str:
    return f"lookup/{digest}.run"


def write_run(files: Files, sources: Sequence[tuple[EntrySource, np.ndarray]]) -> RunEntry:
    """Merge sources into one run and publish it.

    Args:
        sources: each with the shards (uint64) whose entries in it are left out.
    Returns:
        The run's entry for the manifest.
    """
    limit = sum(len(source) for source, _ in sources)
    bits = max(0, (limit - 1) // BUCKET).bit_length()
    fences = np.zeros((1 << bits) + 1, FENCE)
    entries = 0
    aside, hashed = files.temporary_path(), sha256()
    with aside.open("wb") as out:

        def put(data: bytes) -> None:
            hashed.update(data)
            out.write(data)

        for buckets, piece in _pieces(sources, bits, min(bits, max(0, (limit - 1) // PIECE).bit_length())):
            edges = [_first_hash(bucket, bits) for bucket in (*buckets, buckets.stop)]
            data = piece.tobytes()
            for bucket, (start, stop) in zip(buckets, pairwise(_positions(piece, edges)), strict=True):
                fences[bucket] = (entries + start, checksum(data[start * ENTRY.itemsize : stop * ENTRY.itemsize]))
            put(data)
            entries += len(piece)
        fences[-1] = (entries, 0)
        covers = np.concatenate([_without(source.covers, dropped) for source, dropped in sources])
        put(fences.tobytes())
        put(covers.tobytes())
    files.publish(aside, run_path(hashed.hexdigest()))
    return RunEntry(hashed.hexdigest(), entries, bits, len(covers))


def _pieces(
    sources: Sequence[tuple[EntrySource, np.ndarray]], bits: int, piece_bits: int
) -> Iterator[tuple[range, np.ndarray]]:
    """Yield the merged entries of all sources in ascending pieces, each with the buckets that it fills."""
    buckets = 1 << (bits - piece_bits)
    for number in range(1 << piece_bits):
        first, stop = _first_hash(number, piece_bits), _first_hash(number + 1, piece_bits)
        piece = np.concatenate([_without(source.between(first, stop), dropped) for source, dropped in sources])
        yield range(number * buckets, (number + 1) * buckets), piece[np.argsort(piece["hash"], kind="stable")]


def _without(rows: np.ndarray, shards: np.ndarray) -> np.ndarray:
    """Return the rows (ENTRY or COVER) of other shards."""
    return rows[~np.isin(rows["shard"], shards)] if len(shards) else rows


def _first_hash(bucket: int, bits: int) -> int:
    return bucket << (64 - bits)


def _between(entries: np.ndarray, first: int, stop: int) -> np.ndarray:
    start, end = _positions(entries, [first, stop])
    return entries[start:end]


def _positions(entries: np.ndarray, hashes: Sequence[int]) -> list[int]:
    """Return the positions at which entries with these hashes begin; a hash may be HASHES, one past the highest."""
    positions = np.searchsorted(entries["hash"], np.array([min(value, HASHES - 1) for value in hashes], np.uint64))
    return [len(entries) if value == HASHES else at for value, at in zip(hashes, positions.tolist(), strict=True)]
