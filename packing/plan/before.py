"""How often was each piece of a source seen in the plans before? Counted from their segments, in store order, in parts.

Before this `plan/amend.py` reads the plans, after it `plan/supply.py` asks for pieces as they lie in the store.
"""

from __future__ import annotations

import numpy as np

from manifests.errors import ManifestError
from stores.spill import Partitions, Scratch

PART_SAMPLES, PARTS = 1 << 20, 1 << 10
"""Samples that are looked at together; the last part has all that is beyond."""
SEGMENT = np.dtype([("ordinal", np.int64), ("start", np.int32), ("length", np.int32)])


class SeenPieces:
    def __init__(self, source: str, scratch: Scratch) -> None:
        self.source, self.content_root = source, ""
        """Of its samples."""
        self._parts = Partitions(scratch, f"seen {id(self)}", PARTS, SEGMENT)
        self._there = self._found = 0
        self.tokens = 0
        """Of all segments."""
        self._at_hand = (-1, np.zeros(0, SEGMENT))

    def add(self, ordinal: np.ndarray, start: np.ndarray, length: np.ndarray) -> None:
        """Segments that were seen."""
        rows = np.empty(len(ordinal), SEGMENT)
        rows["ordinal"], rows["start"], rows["length"] = ordinal, start, length
        self._parts.add(rows, _part(rows["ordinal"]))
        self._there += len(rows)
        self.tokens += int(length.sum(dtype=np.int64))

    def begin(self, content_root: str) -> None:
        """Pieces of the source are asked for. Raises ManifestError where it has other samples now."""
        self._found = 0
        if content_root != self.content_root:
            raise ManifestError(
                f"source {self.source} has other samples than in the plan that is amended",
                where="mixture",
                fix="keep its samples as they were, and give new ones as a source of another name",
            )

    def times(self, ordinal: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        """(N,) uint16: how often each of these pieces was seen. No piece is asked for twice."""
        times = np.zeros(len(ordinal), np.uint16)
        parts = _part(ordinal)
        for part in np.unique(parts).tolist():
            mine = np.flatnonzero(parts == part)
            mine = mine[np.argsort(_key(ordinal[mine], start[mine], part))]
            seen = self._read(part)
            known = _key(ordinal[mine], start[mine], part)
            wanted = _key(seen["ordinal"], seen["start"], part)
            places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            same = (known[places] == wanted) & (length[mine][places] == seen["length"])
            self._found += int(np.count_nonzero(same))
            times[mine] = np.bincount(places[same], minlength=len(mine))
        return times

    def all_found(self) -> None:
        """Raises ManifestError where something was seen that is no piece now."""
        if self._found != self._there:
            raise ManifestError(
                f"source {self.source} is cut into other pieces than in the plan that is amended",
                where="mixture",
                fix="keep its domains and lengths, `limits` and `pack_limits` as they were",
            )

    def _read(self, part: int) -> np.ndarray:
        if self._at_hand[0] != part:
            self._at_hand = part, self._parts.read(part)
        return self._at_hand[1]


def _part(ordinal: np.ndarray) -> np.ndarray:
    return np.minimum(ordinal // PART_SAMPLES, PARTS - 1).astype(np.uint16)


def _key(ordinal: np.ndarray, start: np.ndarray, part: int) -> np.ndarray:
    """(N,) int64: another one for each piece of a part."""
    return ((ordinal.astype(np.int64) - part * PART_SAMPLES) << 32) + start
