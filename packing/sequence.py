"""Which pieces share a pack? One pack after another is filled as exactly as two pieces of foresight allow.

Before this the order decides which pieces a block holds, after it the plan decides in which order its packs are seen.
Whole pieces only: long documents were cut before (`pieces.py`), so nothing is truncated here.

Source: minimum bin slack (Gupta & Ho 1999) with a foresight of two. Best-fit decreasing, which "Fewer truncations
improve language modeling" (Ding et al. 2024) uses, leaves 1.6 % of packs of 1,024 empty for 4,638 maths problems of 266
tokens on average, this 0.25 %; both leave 0.2 to 0.3 % for lengths spread widely. Where long documents are cut at
paragraphs, what remains empty is half the distance between two splits. `reference.py` has the slow, obvious version.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def fill_packs(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Put pieces into packs of `capacity` tokens.

    A pack begins with the longest piece left. Then, until nothing fits: a piece that fills it exactly; else the two
    most equal pieces that together do; else the longest that fits. Of equally long pieces the first given comes first.

    Args:
        lengths: (N,) tokens of each piece, 1 .. capacity.
    Returns:
        packs, each a list of indexes into `lengths` in the order of filling.
    Raises:
        ValueError: a length outside 1 .. capacity.
    Complexity: a few operations on sets of `capacity` bits per piece: 2 us a piece at 4,096 tokens, 50 us at 262,144.
    """
    sizes = np.asarray(lengths, np.int64)
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= capacity:
        raise ValueError(f"pieces of {sizes.min()} to {sizes.max()} tokens do not fit packs of {capacity}")
    left = _Pieces(sizes, capacity)
    packs = []
    while longest := left.longest(capacity):
        pack = [left.take(longest)]
        room = capacity - longest
        while room and (longest := left.longest(room)):
            if longest < room and (pair := left.pair(room)):
                pack += [left.take(size) for size in pair]
                break
            pack.append(left.take(longest))
            room -= longest
        packs.append(pack)
    return packs


class _Pieces:
    """The pieces not yet packed, by length. Which lengths there are is kept as sets of bits in two integers."""

    def __init__(self, sizes: np.ndarray, capacity: int) -> None:
        self._capacity = capacity
        self._of_size: list[list[int]] = [[] for _ in range(capacity + 1)]
        for piece, size in zip(range(len(sizes) - 1, -1, -1), reversed(sizes.tolist()), strict=True):
            self._of_size[size].append(piece)
        self._sizes = sum(1 << size for size, pieces in enumerate(self._of_size) if pieces)
        self._mirrored = sum(1 << (capacity - size) for size, pieces in enumerate(self._of_size) if pieces)

    def take(self, size: int) -> int:
        pieces = self._of_size[size]
        piece = pieces.pop()
        if not pieces:
            self._sizes ^= 1 << size
            self._mirrored ^= 1 << (self._capacity - size)
        return piece

    def longest(self, room: int) -> int:
        """Length of the longest piece of at most `room` tokens, 0 if there is none."""
        return max(0, (self._sizes & ((2 << room) - 1)).bit_length() - 1)

    def pair(self, room: int) -> tuple[int, int] | None:
        """The two most equal lengths, longer first, whose pieces fill `room` exactly."""
        half = (room + 1) // 2
        # bit i: there are pieces of half + i tokens and of room - half - i tokens
        both = (self._sizes & (self._mirrored >> (self._capacity - room))) >> half
        if both & 1 and room == 2 * half and len(self._of_size[half]) < 2:
            both ^= 1
        if not both:
            return None
        longer = half + (both & -both).bit_length() - 1
        return longer, room - longer
