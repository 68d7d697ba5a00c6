"""A run of the look-up: where records lie, by the hash of a name, for some shards, in one immutable file.

    entries   (hash, shard, row), ascending by hash: buckets of about a hundred by the first bits of the hash
    fences    per bucket where it begins and what it hashes to
    covers    the shards whose records stand here, and by which tables

Hashes spread evenly, so the bucket of a name is known without a search: one read of its fence and one of the bucket,
some kilobytes, however long the run is. Runs are merged range by range, in memory that does not grow with them.
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
from stores.shards.layout import checksum

ENTRY = np.dtype([("hash", "<u8"), ("shard", "<u8"), ("row", "<u4")])
"""`shard`: how its digest begins, as in the directory."""
FENCE = np.dtype([("start", "<u8"), ("xxh3", "<u8")])
COVER = np.dtype([("shard", "<u8"), ("tables", "<u8")])
"""`tables`: how the logical digest of the shard's index begins. Where something was forgotten it is another one."""

BUCKET = 128
"""Entries of a bucket, on average at the most."""
PIECE = 1 << 20
"""Entries that are merged at a time, about."""
FENCES_AT_HAND = 1 << 16
"""Bytes of fences up to which they are read whole, once."""
HASHES = 1 << 64


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run as the look-up of a snapshot names it: enough to read any part of it."""

    digest: str
    """SHA-256 of the file."""
    entries: int
    bits: int
    """There are 2**bits buckets."""
    shards: int


class Source(Protocol):
    """Entries for some shards."""

    @property
    def covers(self) -> np.ndarray:
        """(S,) COVER."""

    def __len__(self) -> int: ...

    def between(self, first: int, stop: int) -> np.ndarray:
        """Entries with hashes from `first` up to `stop`, ascending."""


class Fresh:
    """Entries that were just taken from indexes."""

    def __init__(self, entries: np.ndarray, covers: np.ndarray) -> None:
        self.entries, self.covers = entries[np.argsort(entries["hash"], kind="stable")], covers

    def __len__(self) -> int:
        return len(self.entries)

    def between(self, first: int, stop: int) -> np.ndarray:
        return _between(self.entries, first, stop)


class Run:
    """A run as it lies in a store. What is read is compared with checksums; StoreError where it differs."""

    def __init__(self, files: Files, told: RunEntry) -> None:
        self._files, self.told = files, told
        self._fences_at = told.entries * ENTRY.itemsize
        self._covers_at = self._fences_at + ((1 << told.bits) + 1) * FENCE.itemsize
        self._fences: np.ndarray | None = None

    def __len__(self) -> int:
        return self.told.entries

    @property
    def covers(self) -> np.ndarray:
        return np.frombuffer(self._read(self._covers_at, self.told.shards * COVER.itemsize), COVER)

    def find(self, name: int) -> np.ndarray:
        """Entries with that hash."""
        bucket = name >> (64 - self.told.bits)
        return _between(self._bucket(bucket, *self._places(bucket, bucket + 1)), name, name + 1)

    def between(self, first: int, stop: int) -> np.ndarray:
        shift = 64 - self.told.bits
        buckets = range(first >> shift, -(-stop >> shift))
        places = self._places(buckets.start, buckets.stop)
        begin = int(places["start"][0])
        data = self._entries(begin, int(places["start"][-1]))
        for place in range(len(buckets)):
            low, high = ((int(places["start"][place + side]) - begin) * ENTRY.itemsize for side in (0, 1))
            self._compare(data[low:high], int(places["xxh3"][place]))
        return _between(np.frombuffer(data, ENTRY), first, stop)

    def _bucket(self, bucket: int, here: np.void, after: np.void) -> np.ndarray:
        data = self._entries(int(here["start"]), int(after["start"]))
        self._compare(data, int(here["xxh3"]))
        return np.frombuffer(data, ENTRY)

    def _places(self, first: int, last: int) -> np.ndarray:
        """Fences of the buckets from `first` to `last`, both included; the last of all is where entries end."""
        size = self._covers_at - self._fences_at
        if size > FENCES_AT_HAND:
            at = self._fences_at + first * FENCE.itemsize
            return np.frombuffer(self._read(at, (last + 1 - first) * FENCE.itemsize), FENCE)
        if self._fences is None:
            self._fences = np.frombuffer(self._read(self._fences_at, size), FENCE)
        return self._fences[first : last + 1]

    def _entries(self, start: int, stop: int) -> memoryview:
        if not 0 <= start <= stop <= self.told.entries:
            raise self._damaged()
        return memoryview(self._read(start * ENTRY.itemsize, (stop - start) * ENTRY.itemsize))

    def _read(self, at: int, length: int) -> bytes:
        try:
            data = self._files.read_range(run_path(self.told.digest), at, length) if length else b""
        except FileNotFoundError:
            raise self._damaged() from None
        if len(data) != length:
            raise self._damaged()
        return data

    def _compare(self, data: memoryview, told: int) -> None:
        if checksum(data) != told:
            raise self._damaged()

    def _damaged(self) -> StoreError:
        where = f"{self._files.url}/{run_path(self.told.digest)}"
        return StoreError(
            "this part of the look-up is damaged", where=where, fix="`millrace store repair` makes it again"
        )


def run_path(digest: str) -> str:
    return f"lookup/{digest}.run"


def write(files: Files, sources: Sequence[tuple[Source, np.ndarray]]) -> RunEntry:
    """Publish one run of all that `sources` say.

    Args:
        sources: each with the shards (uint64) of which it is not believed any more.
    """
    most = sum(len(source) for source, _ in sources)
    bits = max(0, (most - 1) // BUCKET).bit_length()
    fences = np.zeros((1 << bits) + 1, FENCE)
    entries = 0
    aside, state = files.temporary_path(), sha256()
    with aside.open("wb") as out:

        def put(data: bytes) -> None:
            state.update(data)
            out.write(data)

        for buckets, piece in _pieces(sources, bits, min(bits, max(0, (most - 1) // PIECE).bit_length())):
            edges = [_first_hash(bucket, bits) for bucket in (*buckets, buckets.stop)]
            data = piece.tobytes()
            for bucket, (start, stop) in zip(buckets, pairwise(_places(piece, edges)), strict=True):
                fences[bucket] = (entries + start, checksum(data[start * ENTRY.itemsize : stop * ENTRY.itemsize]))
            put(data)
            entries += len(piece)
        fences[-1] = (entries, 0)
        covers = np.concatenate([_left(source.covers, gone) for source, gone in sources])
        put(fences.tobytes())
        put(covers.tobytes())
    files.publish(aside, run_path(state.hexdigest()))
    return RunEntry(state.hexdigest(), entries, bits, len(covers))


def _pieces(
    sources: Sequence[tuple[Source, np.ndarray]], bits: int, piece_bits: int
) -> Iterator[tuple[range, np.ndarray]]:
    """Ascending pieces of all sources together, and the buckets that each fills."""
    buckets = 1 << (bits - piece_bits)
    for number in range(1 << piece_bits):
        first, stop = _first_hash(number, piece_bits), _first_hash(number + 1, piece_bits)
        piece = np.concatenate([_left(source.between(first, stop), gone) for source, gone in sources])
        yield range(number * buckets, (number + 1) * buckets), piece[np.argsort(piece["hash"], kind="stable")]


def _left(rows: np.ndarray, gone: np.ndarray) -> np.ndarray:
    return rows[~np.isin(rows["shard"], gone)] if len(gone) else rows


def _first_hash(bucket: int, bits: int) -> int:
    return bucket << (64 - bits)


def _between(entries: np.ndarray, first: int, stop: int) -> np.ndarray:
    start, end = _places(entries, [first, stop])
    return entries[start:end]


def _places(entries: np.ndarray, hashes: Sequence[int]) -> list[int]:
    """Where entries with these hashes would begin; hashes may be one past the highest."""
    places = np.searchsorted(entries["hash"], np.array([min(one, HASHES - 1) for one in hashes], np.uint64))
    return [len(entries) if one == HASHES else place for one, place in zip(hashes, places.tolist(), strict=True)]
