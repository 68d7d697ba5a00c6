"""The lists of a snapshot, each with the units of about a thousand shards, opened when something in them is asked for.

lists/DIGEST.jsonl   per unit a line, followed by a line per shard of it
lists/DIGEST.bin     the directory over all of them (`commits/directory.py`)
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
"""Of lists kept in memory, as they lie on disk: a hundred of them."""

ENTRIES = 4096
"""Decoded entries kept in memory."""


def list_path(digest: str) -> str:
    return f"lists/{digest}.jsonl"


def directory_path(digest: str) -> str:
    return f"lists/{digest}.bin"


def list_paths(root: Root) -> set[str]:
    """Lists and directory of a snapshot."""
    return {list_path(entry.digest) for entry in root.lists} | {directory_path(root.directory)}


def list_bytes(receipts: Iterable[Receipt]) -> bytes:
    lines: list[Json] = []
    for receipt in receipts:
        told = asdict(receipt)
        shards = told.pop("shards")
        lines += [told | {"shards": len(shards)}, *shards]
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
    """A list as it lies on disk, and where its lines begin."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))

    def line(self, number: int) -> Json:
        start = int(self._ends[number - 1]) + 1 if number else 0
        return json.loads(self.data[start : int(self._ends[number])])


class Lists:
    """Reads the units of one snapshot; a list is opened when something in it is asked for."""

    def __init__(self, files: Files, root: Root) -> None:
        self._files, self._entries, self._directory = files, root.lists, root.directory
        self._open: Cache[_List] = Cache(LISTS_BYTES, lambda one: len(one.data))
        self._unit_stops = np.cumsum([entry.units for entry in root.lists], dtype=np.int64)
        self.shard = lru_cache(ENTRIES)(self._shard)
        self.entry_of = lru_cache(ENTRIES)(self._entry_of)

    @cached_property
    def directory(self) -> Directory:
        data = read_whole(self._files, directory_path(self._directory), self._directory)
        return Directory.read(
            data, sum(entry.units for entry in self._entries), sum(entry.shards for entry in self._entries)
        )

    def units_of(self, number: int) -> range:
        """Places of the units of list `number`."""
        stop = int(self._unit_stops[number])
        return range(stop - self._entries[number].units, stop)

    def list_of(self, unit: int) -> int:
        return int(np.searchsorted(self._unit_stops, unit, side="right"))

    def name(self, unit: int) -> str:
        return self._line(unit, 0)["unit"]

    def receipt(self, unit: int) -> Receipt:
        told = self._line(unit, 0)
        shards = tuple(ShardEntry(**self._line(unit, 1 + shard)) for shard in range(told.pop("shards")))
        return Receipt(shards=shards, **told)

    def _shard(self, place: int) -> tuple[str, ShardEntry]:
        """Name of its unit and entry of the shard at that place in store order."""
        unit = self.directory.unit_of(place)
        return self.name(unit), ShardEntry(**self._line(unit, 1 + place - self.directory.first_shard(unit)))

    def _entry_of(self, shard: str) -> ShardEntry | None:
        """Of the shard with that digest."""
        found = (self.shard(place)[1] for place in self.directory.candidates(shard))
        return next((entry for entry in found if entry.shard == shard), None)

    def _line(self, unit: int, line: int) -> Json:
        number = self.list_of(unit)
        first = self.units_of(number).start
        shards = self.directory.first_shard(unit) - self.directory.first_shard(first)
        return self._list(number).line(unit - first + shards + line)

    def _list(self, number: int) -> _List:
        name = self._entries[number].digest
        return self._open.get(name, lambda: _List(read_whole(self._files, list_path(name), name)))


class Receipts(Sequence[Receipt]):
    """All units of a snapshot in store order, read as they are looked at."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists

    def __len__(self) -> int:
        return len(self._lists.directory)

    @overload
    def __getitem__(self, place: int) -> Receipt: ...
    @overload
    def __getitem__(self, place: slice) -> list[Receipt]: ...
    def __getitem__(self, place: int | slice) -> Receipt | list[Receipt]:
        found = range(len(self))[place]
        return self._lists.receipt(found) if isinstance(found, int) else [self._lists.receipt(one) for one in found]


@dataclass(frozen=True, slots=True)
class ShardRef:
    """A shard in its place in the store's order."""

    unit: str
    shard: str
    first: int
    """Ordinal of its first record."""
    records: int


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where a record lies."""

    ordinal: int
    unit: str
    shard: str
    row: int


class Shards(Sequence[ShardRef]):
    """Shards of a snapshot in store order, read from its lists as they are looked at."""

    def __init__(self, lists: Lists, places: np.ndarray) -> None:
        """`places`: which of the shards in `lists`, ascending."""
        self.places, self._lists = places, lists
        self._stops = np.cumsum(lists.directory.records[places], dtype=np.int64)
        """One past the ordinal of each shard's last record."""

    @property
    def records(self) -> int:
        return int(self._stops[-1]) if len(self) else 0

    def holding(self, ordinal: int) -> ShardRef:
        return self._ref(int(np.searchsorted(self._stops, ordinal, side="right")))

    def between(self, start: int, stop: int) -> list[ShardRef]:
        """Those that hold any of the records from ordinal `start` up to `stop`."""
        if start >= stop:
            return []
        first, last = np.searchsorted(self._stops, [start, stop - 1], side="right").tolist()
        return self[first : last + 1]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> ShardRef: ...
    @overload
    def __getitem__(self, place: slice) -> list[ShardRef]: ...
    def __getitem__(self, place: int | slice) -> ShardRef | list[ShardRef]:
        found = range(len(self))[place]
        return self._ref(found) if isinstance(found, int) else [self._ref(one) for one in found]

    def _ref(self, place: int) -> ShardRef:
        unit, entry = self._lists.shard(int(self.places[place]))
        return ShardRef(unit, entry.shard, int(self._stops[place]) - entry.records, entry.records)
