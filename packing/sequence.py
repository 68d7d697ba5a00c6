"""Which pieces share a pack? Best-fit decreasing over the pieces of one block, in about linear time.

Before this the order decides which pieces a block holds, after it the plan decides in which order its packs are seen.
Whole pieces only: cutting long documents happened before (`pieces.py`), so nothing is truncated here. Source: best-fit
packing for language models (Ding et al. 2024, "Fewer truncations improve language modeling"); their segment tree over
capacities is a two-level bitmap here. `reference.py` has the slow, obvious version that gives the same packs.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

_WORD = 512
"""Capacities per word of the lower level: near the square root of the longest packs (262,144)."""


def best_fit_decreasing(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Fill as few packs of `capacity` tokens as best fit can.

    Longest piece first (equal ones in the order given), each into the fullest pack that still has room, the oldest of
    equally full ones, or into a new pack.

    Args:
        lengths: (N,) tokens of each piece, 1 .. capacity.
    Returns:
        packs in the order they were opened, each a list of indexes into `lengths` in the order they were placed.
    Raises:
        ValueError: a length outside 1 .. capacity.
    Complexity: N log N comparisons inside numpy's sort, then a few operations on 512-bit integers per piece.
    """
    sizes = np.asarray(lengths, np.int64)
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= capacity:
        raise ValueError(f"pieces of {sizes.min()} to {sizes.max()} tokens do not fit packs of {capacity}")
    packs: list[list[int]] = []
    room = _Room(capacity)
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        left = room.least(size)
        if left is None:
            left, pack = capacity, len(packs)
            packs.append([])
        else:
            pack = room.take(left)
        packs[pack].append(piece)
        if left > size:
            room.put(left - size, pack)
    return packs


class _Room:
    """Open packs by the number of tokens they still take."""

    def __init__(self, capacity: int) -> None:
        self._packs: list[list[int]] = [[] for _ in range(capacity + 1)]
        self._words = [0] * (capacity // _WORD + 1)
        self._summary = 0
        """Bit w is set where word w is not zero; bit b of word w where a pack has room for w * _WORD + b tokens."""

    def put(self, left: int, pack: int) -> None:
        heapq.heappush(self._packs[left], pack)
        word, bit = divmod(left, _WORD)
        self._words[word] |= 1 << bit
        self._summary |= 1 << word

    def least(self, size: int) -> int | None:
        """The smallest room that takes `size` tokens."""
        word, bit = divmod(size, _WORD)
        here = self._words[word] >> bit
        if here:
            return size + _lowest(here)
        above = self._summary >> (word + 1)
        if not above:
            return None
        word += 1 + _lowest(above)
        return word * _WORD + _lowest(self._words[word])

    def take(self, left: int) -> int:
        """Remove and return the oldest pack with exactly this room."""
        packs = self._packs[left]
        pack = heapq.heappop(packs)
        if not packs:
            word, bit = divmod(left, _WORD)
            self._words[word] ^= 1 << bit
            if not self._words[word]:
                self._summary ^= 1 << word
        return pack


def _lowest(bits: int) -> int:
    """Index of the lowest set bit."""
    return (bits & -bits).bit_length() - 1
