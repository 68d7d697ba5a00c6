"""The directory of a snapshot: its units and shards in store order, 20 bytes a unit and 12 a shard, read as a whole.

It answers in memory what would else open every list: in which shard record i is, which list has a shard, which units
are there. Per unit it has a key and how many shards, per shard how its digest begins and how many records it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from manifests.records import digest
from stores.commits.roots import Receipt

KEY_BYTES = 16


def key_of(unit: str) -> bytes:
    return bytes.fromhex(digest("unit", unit))[:KEY_BYTES]


class Directory:
    """Units and shards of a snapshot in store order, as arrays."""

    def __init__(self, keys: bytes, spans: np.ndarray, prefixes: np.ndarray, records: np.ndarray) -> None:
        self.keys = keys
        """KEY_BYTES per unit, end to end."""
        self.spans = spans
        """(U,) uint32: shards of each unit."""
        self.prefixes = prefixes
        """(S,) uint64: the first 8 bytes of each shard's digest."""
        self.records = records
        """(S,) uint32."""
        self.stops = np.cumsum(spans, dtype=np.int64)
        """(U,) one past each unit's last shard."""

    @classmethod
    def of(cls, receipts: Iterable[Receipt]) -> Directory:
        receipts = list(receipts)
        entries = [entry for receipt in receipts for entry in receipt.shards]
        return cls(
            b"".join(key_of(receipt.unit) for receipt in receipts),
            np.array([len(receipt.shards) for receipt in receipts], "<u4"),
            np.array([_prefix(entry.shard) for entry in entries], "<u8"),
            np.array([entry.records for entry in entries], "<u4"),
        )

    @classmethod
    def joined(cls, parts: Sequence[Directory]) -> Directory:
        parts = [cls.of([]), *parts]
        arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in ("spans", "prefixes", "records"))
        return cls(b"".join(part.keys for part in parts), *arrays)

    @classmethod
    def read(cls, data: bytes, units: int, shards: int) -> Directory:
        keys_end = units * KEY_BYTES
        spans_end = keys_end + units * 4
        return cls(
            data[:keys_end],
            np.frombuffer(data, "<u4", units, keys_end),
            np.frombuffer(data, "<u8", shards, spans_end),
            np.frombuffer(data, "<u4", shards, spans_end + shards * 8),
        )

    def to_bytes(self) -> bytes:
        return self.keys + self.spans.tobytes() + self.prefixes.tobytes() + self.records.tobytes()

    def part(self, units: range) -> Directory:
        """Neighbouring units."""
        first = self.first_shard(units.start)
        stop = int(self.stops[units.stop - 1]) if units else first
        keys = self.keys[units.start * KEY_BYTES : units.stop * KEY_BYTES]
        return Directory(
            keys, self.spans[units.start : units.stop], self.prefixes[first:stop], self.records[first:stop]
        )

    def chosen(self, units: Sequence[int]) -> Directory:
        """Any units, in their order here."""
        those = np.zeros(len(self), bool)
        those[list(units)] = True
        shards = np.repeat(those, self.spans)
        keys = b"".join(self.key(unit) for unit in np.flatnonzero(those).tolist())
        return Directory(keys, self.spans[those], self.prefixes[shards], self.records[shards])

    def __len__(self) -> int:
        return len(self.spans)

    def key(self, unit: int) -> bytes:
        return self.keys[unit * KEY_BYTES : (unit + 1) * KEY_BYTES]

    def first_shard(self, unit: int) -> int:
        return int(self.stops[unit - 1]) if unit else 0

    def unit_of(self, shard: int) -> int:
        return int(np.searchsorted(self.stops, shard, side="right"))

    @cached_property
    def places(self) -> Mapping[bytes, int]:
        """Place of each unit, by key."""
        return {self.key(unit): unit for unit in range(len(self))}

    def candidates(self, shard: str) -> list[int]:
        """Places of shards whose digest begins like this one's: one or none, but for accidents."""
        return self.beginning_with(int(_prefix(shard)))

    def beginning_with(self, prefix: int) -> list[int]:
        """The same for the first 8 bytes of a digest, as in `prefixes`."""
        prefixes, order = self._sorted
        place = int(np.searchsorted(prefixes, np.uint64(prefix)))
        found = []
        while place < len(prefixes) and prefixes[place] == prefix:
            found.append(int(order[place]))
            place += 1
        return found

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.prefixes, kind="stable")
        return self.prefixes[order].astype(np.uint64), order


def _prefix(shard: str) -> np.uint64:
    return np.uint64(int(shard[:16], 16))
