"""The slow, obvious versions of what this room does cleverly. For tests and benchmarks only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np

from manifests.geometry import PATCH_PX


def fill_packs(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """`sequence.fill_packs` by looking at all pieces and all pairs of them."""
    left = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    packs: list[list[int]] = []

    def first_of(size: int, besides: int | None = None) -> int:
        return next(i for i in left if lengths[i] == size and i != besides)

    while left:
        pack = [left.pop(0)]
        while fitting := [i for i in left if lengths[i] <= capacity - sum(lengths[j] for j in pack)]:
            room = capacity - sum(lengths[j] for j in pack)
            pairs = [
                (lengths[i] - lengths[j], lengths[i], lengths[j])
                for i in fitting
                for j in fitting
                if i != j and lengths[i] >= lengths[j] and lengths[i] + lengths[j] == room
            ]
            if lengths[fitting[0]] == room or not pairs:
                chosen = [fitting[0]]
            else:
                _, longer, shorter = min(pairs)
                one = first_of(longer)
                chosen = [one, first_of(shorter, besides=one)]
            for piece in chosen:
                left.remove(piece)
            pack += chosen
        packs.append(pack)
    return packs


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """What `sequence.fill_packs` is measured against: each piece, longest first, into the fullest pack with room."""
    packs: list[list[int]] = []
    room: list[int] = []
    for piece in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [(left, pack) for pack, left in enumerate(room) if left >= lengths[piece]]
        if fits:
            _, pack = min(fits)
        else:
            pack = len(packs)
            packs.append([])
            room.append(capacity)
        packs[pack].append(piece)
        room[pack] -= lengths[piece]
    return packs


def cut_patches(frames: Sequence[np.ndarray], rows: int, cols: int) -> list[np.ndarray]:
    """`navit.cut_patches` one patch at a time: each (3, 14, 14) uint8."""
    patches = []
    for frame in frames:
        height, width, _ = frame.shape
        for row in range(rows):
            for col in range(cols):
                patch = np.zeros((3, PATCH_PX, PATCH_PX), np.uint8)
                for y in range(PATCH_PX):
                    for x in range(PATCH_PX):
                        if row * PATCH_PX + y < height and col * PATCH_PX + x < width:
                            patch[:, y, x] = frame[row * PATCH_PX + y, col * PATCH_PX + x]
                patches.append(patch)
    return patches


def smallest_number_of_packs(lengths: Sequence[int], capacity: int) -> int:
    """The best any packing can do, by trying all; for a handful of pieces."""
    best = len(lengths)

    def place(piece: int, room: list[int]) -> None:
        nonlocal best
        if len(room) >= best:
            return
        if piece == len(lengths):
            best = len(room)
            return
        for pack in range(len(room)):
            if room[pack] >= lengths[piece]:
                room[pack] -= lengths[piece]
                place(piece + 1, room)
                room[pack] += lengths[piece]
        place(piece + 1, [*room, capacity - lengths[piece]])

    place(0, [])
    return best


def busiest_of_the_best_deal(costs: Sequence[int], ranks: int, most: int) -> int:
    """The load of the busiest rank in the best of all deals with at most `most` pieces a rank; for a handful."""
    best = sum(costs)
    for owners in product(range(ranks), repeat=len(costs)):
        if max(Counter(owners).values(), default=0) <= most:
            loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == r) for r in range(ranks)]
            best = min(best, max(loads))
    return best
