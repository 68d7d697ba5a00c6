"""Where records lie: the shards of a snapshot in their order, and one record's place in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from stores.commits.lists import Lists


@dataclass(frozen=True, slots=True)
class ShardRef:
    """A shard in its place in the store's order."""

    unit: str
    shard: str
    first: int
    """Ordinal of its first record."""
    records: int


@dataclass(frozen=True, slots=True)
class Found:
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
