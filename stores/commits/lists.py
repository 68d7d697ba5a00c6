"""Lists of a snapshot: units with their shards, about a thousand shards per list, each list read when it is needed.

    lists/DIGEST.jsonl   per unit one line, followed by one line per shard of the unit
    lists/DIGEST.bin     the directory over all lists (`commits/directory.py`)

`commit.py` writes both, `snapshot.py` reads them. A position is an index into the units, or the shards, in store order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import overload

import numpy as np

from manifests.records import Json, canonical_json
from stores.cache import Cache
from stores.commits.directory import Directory
from stores.commits.roots import Receipt, Root
from stores.files.protocol import Files
from stores.shards.entry import ShardEntry
from stores.shards.reader import read_whole

LISTS_BYTES = 64 << 20
"""Lists kept in memory, by the size of their files: about a hundred lists."""

ENTRIES = 4096
"""Decoded entries kept in memory."""


def list_path(digest: str) -> str:
    """Return the path of a list in the store."""
    return f"lists/{digest}.jsonl"


def directory_path(digest: str) -> str:
    """Return the path of a directory in the store."""
    return f"lists/{digest}.bin"


def list_paths(root: Root) -> set[str]:
    """Return the paths of the lists and the directory of a snapshot."""
    return {list_path(entry.digest) for entry in root.lists} | {directory_path(root.directory)}


def list_bytes(receipts: Iterable[Receipt]) -> bytes:
    """Return the file of a list with these units."""
    lines: list[Json] = []
    for receipt in receipts:
        unit = asdict(receipt)
        shards = unit.pop("shards")
        lines += [unit | {"shards": len(shards)}, *shards]
    return "".join(canonical_json(line) + "\n" for line in lines).encode()


def quarantine_lines(files: Files, receipt: Receipt) -> list[dict[str, str]]:
    """Read the quarantined records of a unit: `locator`, `reason` and `message` of each.

    Raises:
        StoreError: the file is missing or damaged.
    """
    if receipt.quarantine is None:
        return []
    data = read_whole(files, f"quarantine/{receipt.quarantine}.jsonl", receipt.quarantine)
    return [json.loads(line) for line in data.splitlines()]


class _List:
    """File of a list, with the ends of its lines."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))

    def line(self, number: int) -> Json:
        start = int(self._ends[number - 1]) + 1 if number else 0
        return json.loads(self.data[start : int(self._ends[number])])


class Lists:
    """Units and shards of one snapshot by position; a list is read when something in it is needed."""

    def __init__(self, files: Files, root: Root) -> None:
        self._files, self._entries, self._directory = files, root.lists, root.directory
        self._open: Cache[_List] = Cache(LISTS_BYTES, lambda opened: len(opened.data))
        self._unit_stops = np.cumsum([entry.units for entry in root.lists], dtype=np.int64)
        self.entry_at = lru_cache(ENTRIES)(self._entry_at)
        """(name of the unit, entry) of the shard at a position."""
        self.entry_of = lru_cache(ENTRIES)(self._entry_of)
        """Entry of the shard with a digest; None if the snapshot has no such shard."""

    @cached_property
    def directory(self) -> Directory:
        """Directory over all lists. Raises StoreError where its file is missing or damaged."""
        data = read_whole(self._files, directory_path(self._directory), self._directory)
        return Directory.from_bytes(
            data, sum(entry.units for entry in self._entries), sum(entry.shards for entry in self._entries)
        )

    def units_of(self, number: int) -> range:
        """Return the positions of the units of list `number`."""
        stop = int(self._unit_stops[number])
        return range(stop - self._entries[number].units, stop)

    def list_of(self, unit: int) -> int:
        """Return the number of the list that has the unit at a position."""
        return int(np.searchsorted(self._unit_stops, unit, side="right"))

    def unit_name(self, unit: int) -> str:
        """Return the name of the unit at a position."""
        return self._line(unit, 0)["unit"]

    def receipt(self, unit: int) -> Receipt:
        """Return the receipt of the unit at a position."""
        fields = self._line(unit, 0)
        shards = tuple(ShardEntry(**self._line(unit, 1 + shard)) for shard in range(fields.pop("shards")))
        return Receipt(shards=shards, **fields)

    def _entry_at(self, shard: int) -> tuple[str, ShardEntry]:
        unit = self.directory.unit_of(shard)
        return self.unit_name(unit), ShardEntry(**self._line(unit, 1 + shard - self.directory.first_shard(unit)))

    def _entry_of(self, shard: str) -> ShardEntry | None:
        entries = (self.entry_at(position)[1] for position in self.directory.find_shard(shard))
        return next((entry for entry in entries if entry.shard == shard), None)

    def _line(self, unit: int, line: int) -> Json:
        """Return a line of a unit: 0 is the unit itself, then come its shards."""
        number = self.list_of(unit)
        first = self.units_of(number).start
        shards = self.directory.first_shard(unit) - self.directory.first_shard(first)
        return self._list(number).line(unit - first + shards + line)

    def _list(self, number: int) -> _List:
        name = self._entries[number].digest
        return self._open.get(name, lambda: _List(read_whole(self._files, list_path(name), name)))


class Receipts(Sequence[Receipt]):
    """Receipts of all units of a snapshot in store order, read on access."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists

    def __len__(self) -> int:
        return len(self._lists.directory)

    @overload
    def __getitem__(self, position: int) -> Receipt: ...
    @overload
    def __getitem__(self, position: slice) -> list[Receipt]: ...
    def __getitem__(self, position: int | slice) -> Receipt | list[Receipt]:
        units = range(len(self))[position]
        return self._lists.receipt(units) if isinstance(units, int) else [self._lists.receipt(unit) for unit in units]


@dataclass(frozen=True, slots=True)
class ShardRef:
    """Shard of a snapshot, with the ordinals of its records."""

    unit: str
    shard: str
    """Digest that names the shard."""
    first: int
    """Ordinal of its first record."""
    records: int
    """Number of records."""


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Record of a snapshot, with its place in a shard."""

    ordinal: int
    """Index in store order."""
    unit: str
    shard: str
    """Digest that names the shard."""
    row: int
    """Index in the shard."""


class Shards(Sequence[ShardRef]):
    """Shards of a snapshot in store order, read on access."""

    def __init__(self, lists: Lists, positions: np.ndarray) -> None:
        """
        Args:
            positions: (S,) int, ascending: the shards of `lists` that belong to the snapshot.
        """
        self.positions, self._lists = positions, lists
        self._stops = np.cumsum(lists.directory.records[positions], dtype=np.int64)
        """(S,) int64: ordinal after each shard's last record."""

    @property
    def records(self) -> int:
        """Number of records in all shards."""
        return int(self._stops[-1]) if len(self) else 0

    def containing(self, ordinal: int) -> ShardRef:
        """Return the shard that has the record with this ordinal."""
        return self._ref(int(np.searchsorted(self._stops, ordinal, side="right")))

    def overlapping(self, start: int, stop: int) -> list[ShardRef]:
        """Return the shards that have any of the records from ordinal `start` up to `stop`."""
        if start >= stop:
            return []
        first, last = np.searchsorted(self._stops, [start, stop - 1], side="right").tolist()
        return self[first : last + 1]

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, number: int) -> ShardRef: ...
    @overload
    def __getitem__(self, number: slice) -> list[ShardRef]: ...
    def __getitem__(self, number: int | slice) -> ShardRef | list[ShardRef]:
        numbers = range(len(self))[number]
        return self._ref(numbers) if isinstance(numbers, int) else [self._ref(each) for each in numbers]

    def _ref(self, number: int) -> ShardRef:
        unit, entry = self._lists.entry_at(int(self.positions[number]))
        return ShardRef(unit, entry.shard, int(self._stops[number]) - entry.records, entry.records)
