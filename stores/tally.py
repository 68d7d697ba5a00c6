"""Rows about things with a name, those of one name together: what is counted of more things than memory holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from stores.spill import Partitions, Scratch

MEMORY_BYTES = 1 << 30
PARTS = 256
"""Of all names."""
TOGETHER = 1 << 14
"""Rows that wait before they are dealt to their parts."""


class Tally:
    """Rows about things with a name of hex digits, of which 32 are looked at, behind those that a run had before."""

    def __init__(self, kind: np.dtype[Any], before: Tally | None = None) -> None:
        """`kind` of a row: `name`, two words, then others; `earlier`, if there is one, says which of both it is."""
        self._kind, self._before = kind, before
        self._columns = list(kind.fields or ())
        self._parts = Partitions(Scratch(MEMORY_BYTES), "rows", PARTS, kind)
        self._waiting: list[tuple[Any, ...]] = []

    def add(self, name: str, *row: int) -> None:
        self._waiting.append((name, *row))
        if len(self._waiting) >= TOGETHER:
            self.settle()

    def settle(self) -> None:
        names, *columns = zip(*self._waiting, strict=True) if self._waiting else ((),)
        rows = np.zeros(len(names), self._kind)
        rows["name"] = np.frombuffer(bytes.fromhex("".join(name[:32] for name in names)), ">u8").reshape(-1, 2)
        for column, values in zip(self._columns[1:], columns, strict=False):
            rows[column] = values
        self._parts.add(rows, self._parts.of(rows["name"][:, 0]))
        self._waiting.clear()

    def part(self, number: int) -> np.ndarray:
        """Rows of some names: what the run had before, then these, in the order in which they were added."""
        here = self._parts.read(number)
        if self._before is None:
            return here
        earlier = self._before.part(number)
        if "earlier" in self._columns:
            earlier["earlier"] = True
        return np.concatenate([earlier, here])
