"""Directory of a snapshot: all its units and shards in store order, as arrays of 20 bytes per unit and 12 per shard.

Read as a whole, it answers in memory what would otherwise open every list: the shard of record i, the list of a shard,
whether a unit is there. It has a key and the number of shards per unit; the begin of the digest and the number of
records per shard. `commit.py` writes it, `commits/lists.py` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from manifests.records import digest
from stores.commits.roots import Receipt

KEY_BYTES = 16


def key_of(unit: str) -> bytes:
    """Return the key of a unit in the directory: KEY_BYTES of a digest of its name."""
    return bytes.fromhex(digest("unit", unit))[:KEY_BYTES]


class Directory:
    """Units and shards of a snapshot in store order. A position is an index in that order."""

    def __init__(self, keys: bytes, spans: np.ndarray, prefixes: np.ndarray, records: np.ndarray) -> None:
        self.keys = keys
        """KEY_BYTES per unit, one after the other."""
        self.spans = spans
        """(U,) uint32: number of shards of each unit."""
        self.prefixes = prefixes
        """(S,) uint64: first 8 bytes of each shard's digest."""
        self.records = records
        """(S,) uint32: number of records of each shard."""
        self.stops = np.cumsum(spans, dtype=np.int64)
        """(U,) int64: position after each unit's last shard."""

    @classmethod
    def from_receipts(cls, receipts: Iterable[Receipt]) -> Directory:
        """Build the directory of some units."""
        receipts = list(receipts)
        entries = [entry for receipt in receipts for entry in receipt.shards]
        return cls(
            b"".join(key_of(receipt.unit) for receipt in receipts),
            np.array([len(receipt.shards) for receipt in receipts], "<u4"),
            np.array([_prefix(entry.shard) for entry in entries], "<u8"),
            np.array([entry.records for entry in entries], "<u4"),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Directory]) -> Directory:
        """Join directories, in their order."""
        parts = [cls.from_receipts([]), *parts]
        arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in ("spans", "prefixes", "records"))
        return cls(b"".join(part.keys for part in parts), *arrays)

    @classmethod
    def from_bytes(cls, data: bytes, units: int, shards: int) -> Directory:
        """Read the bytes that `to_bytes` wrote.

        Args:
            units: number of units.
            shards: number of shards.
        """
        keys_end = units * KEY_BYTES
        spans_end = keys_end + units * 4
        return cls(
            data[:keys_end],
            np.frombuffer(data, "<u4", units, keys_end),
            np.frombuffer(data, "<u8", shards, spans_end),
            np.frombuffer(data, "<u4", shards, spans_end + shards * 8),
        )

    def to_bytes(self) -> bytes:
        """Return the bytes of the file: keys, spans, prefixes, records, little-endian."""
        return self.keys + self.spans.tobytes() + self.prefixes.tobytes() + self.records.tobytes()

    def slice(self, units: range) -> Directory:
        """Return the directory of neighboring units, by their positions."""
        first = self.first_shard(units.start)
        stop = int(self.stops[units.stop - 1]) if units else first
        keys = self.keys[units.start * KEY_BYTES : units.stop * KEY_BYTES]
        return Directory(
            keys, self.spans[units.start : units.stop], self.prefixes[first:stop], self.records[first:stop]
        )

    def select(self, units: Sequence[int]) -> Directory:
        """Return the directory of any units, by their positions; they keep their order here."""
        selected = np.zeros(len(self), bool)
        selected[list(units)] = True
        shards = np.repeat(selected, self.spans)
        keys = b"".join(self.key(unit) for unit in np.flatnonzero(selected).tolist())
        return Directory(keys, self.spans[selected], self.prefixes[shards], self.records[shards])

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.spans)

    def key(self, unit: int) -> bytes:
        """Return the key of the unit at a position."""
        return self.keys[unit * KEY_BYTES : (unit + 1) * KEY_BYTES]

    def first_shard(self, unit: int) -> int:
        """Return the position of a unit's first shard."""
        return int(self.stops[unit - 1]) if unit else 0

    def unit_of(self, shard: int) -> int:
        """Return the position of the unit that has the shard at a position."""
        return int(np.searchsorted(self.stops, shard, side="right"))

    @cached_property
    def positions(self) -> Mapping[bytes, int]:
        """Key of a unit -> its position."""
        return {self.key(unit): unit for unit in range(len(self))}

    def find_shard(self, shard: str) -> list[int]:
        """Return the positions of shards whose digest begins as `shard` does: at most one, but for hash collisions."""
        return self.find_prefix(int(_prefix(shard)))

    def find_prefix(self, prefix: int) -> list[int]:
        """Return the positions of shards with this value in `prefixes`."""
        prefixes, order = self._sorted
        at = int(np.searchsorted(prefixes, np.uint64(prefix)))
        positions = []
        while at < len(prefixes) and prefixes[at] == prefix:
            positions.append(int(order[at]))
            at += 1
        return positions

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """(prefixes in ascending order, position of each)."""
        order = np.argsort(self.prefixes, kind="stable")
        return self.prefixes[order].astype(np.uint64), order


def _prefix(shard: str) -> np.uint64:
    return np.uint64(int(shard[:16], 16))
